"""MNIST from the four official archives."""

from __future__ import annotations

from contract.datasets.idx import SHAPE, IdxSet
from contract.datasets.info import DatasetInfo

SOURCE = IdxSet(
    DatasetInfo(
        name="mnist",
        title="MNIST, all 70,000 handwritten digits",
        shape=SHAPE,
        classes=10,
        samples=70000,
        licence="CC BY-SA 3.0",
        source="LeCun, Cortes, Burges: The MNIST database; the four official archives",
        cited=("lecun1998gradient",),
        levels=True,
        sha256="a150285aeed237cb7baeb6005fee791b488e397695a55807d2de5a19eb816d43",
    ),
    folder="mnist",
    url="https://ossci-datasets.s3.amazonaws.com/mnist",
    md5=(
        "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "d53e105ee54ea40749a09fcbcd1e9432",
        "9fb629c4189551a2d022fa330f9573f3",
        "ec29112dd5afa0611ce80d1b7f02629c",
    ),
).source
