"""Faces: the LFW subset out of a package."""

from __future__ import annotations

import numpy as np

from contract.datasets.cache import Arrays
from contract.datasets.info import DatasetInfo, Source
from contract.datasets.intensities import as_intensities


def _decode() -> Arrays:
    from skimage.data import lfw_subset  # noqa: PLC0415 - slow, and not on a board

    images = lfw_subset()  # type: ignore[no-untyped-call]
    return Arrays(as_intensities(images, (1, 25, 25), 1.0), np.repeat(np.array([1, 0], dtype=np.int64), 100))


SOURCE = Source(
    info=DatasetInfo(
        name="faces",
        title="LFW subset, 100 faces (class 1) and 100 other patches (class 0)",
        shape=(1, 25, 25),
        classes=2,
        samples=200,
        licence="research use, as Labeled Faces in the Wild",
        source="Huang et al. 2012, Learning to align from scratch; subset of scikit-image",
        cited=("huang2012learning",),
        package="scikit-image",
        extra="server",
        sha256="6c754761f8c255664e334a92c6de4c91ebb7590f572ad3823492cddf69aaad04",
    ),
    decode=_decode,
)
