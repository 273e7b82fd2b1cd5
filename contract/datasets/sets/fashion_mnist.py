"""Fashion-MNIST from the four official archives."""

from __future__ import annotations

from contract.datasets.idx import SHAPE, IdxSet
from contract.datasets.info import DatasetInfo

SOURCE = IdxSet(
    DatasetInfo(
        name="fashion_mnist",
        title="Fashion-MNIST, 70,000 pictures of clothes",
        shape=SHAPE,
        classes=10,
        samples=70000,
        licence="MIT",
        source="Xiao, Rasul and Vollgraf 2017, arXiv 1708.07747; the four official archives",
        cited=("xiao2017fashion",),
        levels=True,
    ),
    folder="fashion-mnist",
    url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",  # the publisher's own address has no https
    md5=(
        "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "25c81989df183df01b3e8a0aad5dffbe",
        "bef4ecab320f06d8554ea6380940ec79",
        "bb300cfdad3c16e7a12a480ee83cd310",
    ),
).source
