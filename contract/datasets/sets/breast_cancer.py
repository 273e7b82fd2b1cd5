"""Breast cancer: 30 measures of cell nuclei a patient, a table out of a package."""

from __future__ import annotations

import numpy as np

from contract.datasets.cache import Arrays
from contract.datasets.info import DatasetInfo, Source


def _decode() -> Arrays:
    from sklearn.datasets import load_breast_cancer  # noqa: PLC0415 - slow, and not on a board

    table, y = load_breast_cancer(return_X_y=True)
    low, high = table.min(axis=0), table.max(axis=0)
    return Arrays(np.asarray((table - low) / (high - low), dtype=np.float32), np.asarray(y, dtype=np.int64))


SOURCE = Source(
    info=DatasetInfo(
        name="breast_cancer",
        title="Breast cancer Wisconsin (diagnostic), 30 measures each from least (0) to greatest (1); class 1 benign",
        shape=(30,),
        classes=2,
        samples=569,
        licence="CC BY 4.0",
        source="Wolberg, Mangasarian, Street and Street 1993, UCI Machine Learning Repository, doi 10.24432/C5DW2B",
        cited=("wolberg1993breast",),
        package="scikit-learn",
        extra="lab",
        sha256="b093ce8a8bbf8fae62e4870c0944a83d850713741b02cb84e2a2e59f97238dfe",
    ),
    decode=_decode,
)
