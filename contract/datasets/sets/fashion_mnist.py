"""Fashion-MNIST from the four official archives."""

from __future__ import annotations

from contract.datasets.idx import IdxSet
from contract.datasets.info import Archive, DatasetInfo, Source


def _archive(file: str, md5: str) -> Archive:
    host = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"  # the publisher's own address has no https
    return Archive(path=f"fashion-mnist/{file}", url=f"{host}/{file}", md5=md5)


_SET = IdxSet(
    "fashion_mnist",
    (
        _archive("train-images-idx3-ubyte.gz", "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
        _archive("train-labels-idx1-ubyte.gz", "25c81989df183df01b3e8a0aad5dffbe"),
        _archive("t10k-images-idx3-ubyte.gz", "bef4ecab320f06d8554ea6380940ec79"),
        _archive("t10k-labels-idx1-ubyte.gz", "bb300cfdad3c16e7a12a480ee83cd310"),
    ),
)

SOURCE = Source(
    info=DatasetInfo(
        name="fashion_mnist",
        title="Fashion-MNIST, 70,000 pictures of clothes",
        shape=(1, 28, 28),
        classes=10,
        samples=70000,
        licence="MIT",
        source="Xiao, Rasul and Vollgraf 2017, arXiv 1708.07747; the four official archives",
        levels=True,
    ),
    decode=_SET.whole,
    archives=_SET.archives,
    pieces=_SET.pieces,
)
