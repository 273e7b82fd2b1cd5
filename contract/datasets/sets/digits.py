"""Handwritten digits, 8×8, out of a package."""

from __future__ import annotations

import numpy as np

from contract.datasets.cache import Arrays
from contract.datasets.info import DatasetInfo, Source
from contract.datasets.intensities import as_intensities


def _decode() -> Arrays:
    from sklearn.datasets import load_digits  # noqa: PLC0415 - slow, and not on a board

    images, y = load_digits(return_X_y=True)
    return Arrays(as_intensities(images, (1, 8, 8), 16.0), np.asarray(y, dtype=np.int64))


SOURCE = Source(
    info=DatasetInfo(
        name="digits",
        title="Optical recognition of handwritten digits, 1,797 images",
        shape=(1, 8, 8),
        classes=10,
        samples=1797,
        licence="CC BY 4.0",
        source="Alpaydin and Kaynak 1998, UCI Machine Learning Repository, doi 10.24432/C50P49",
        cited=("alpaydin1998optical",),
        package="scikit-learn",
        extra="lab",
        sha256="2f37808008ba0abcf1128fda64eeefe10e424c8ff4c01740defe6eeb03d0b806",
    ),
    decode=_decode,
)
