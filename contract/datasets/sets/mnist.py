"""MNIST from the four official archives."""

from __future__ import annotations

from contract.datasets.idx import IdxSet
from contract.datasets.info import Archive, DatasetInfo, Source


def _archive(file: str, md5: str) -> Archive:
    return Archive(path=f"mnist/{file}", url=f"https://ossci-datasets.s3.amazonaws.com/mnist/{file}", md5=md5)


_SET = IdxSet(
    "mnist",
    (
        _archive("train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
        _archive("train-labels-idx1-ubyte.gz", "d53e105ee54ea40749a09fcbcd1e9432"),
        _archive("t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3"),
        _archive("t10k-labels-idx1-ubyte.gz", "ec29112dd5afa0611ce80d1b7f02629c"),
    ),
)

SOURCE = Source(
    info=DatasetInfo(
        name="mnist",
        title="MNIST, all 70,000 handwritten digits",
        shape=(1, 28, 28),
        classes=10,
        samples=70000,
        licence="CC BY-SA 3.0",
        source="LeCun, Cortes, Burges: The MNIST database; the four official archives",
        levels=True,
        sha256="a150285aeed237cb7baeb6005fee791b488e397695a55807d2de5a19eb816d43",
    ),
    decode=_SET.whole,
    archives=_SET.archives,
    pieces=_SET.pieces,
)
