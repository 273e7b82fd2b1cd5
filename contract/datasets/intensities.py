"""Measured values as intensities in [0, 1], and names as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

_LEVELS = (np.arange(256) / 255).astype(np.float32)


def of_levels(levels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Bytes k as intensities k / 255, any shape."""
    return np.take(_LEVELS, levels)


def numbered(names: Sequence[Any] | npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Names `[N]`, of people or of classes, as numbers from 0 in their order."""
    return np.unique(np.asarray(names), return_inverse=True)[1].astype(np.int64)


def as_intensities(values: npt.NDArray[Any], shape: tuple[int, ...], largest: float) -> npt.NDArray[np.float32]:
    """Values from 0 to `largest` as samples `[N, *shape]` in [0, 1]."""
    scaled = np.asarray(values, dtype=np.float64) / largest
    return np.ascontiguousarray(scaled.reshape(-1, *shape), dtype=np.float32)


def centred(values: npt.NDArray[Any], span: float) -> npt.NDArray[np.float32]:
    """Values around 0 as intensities around 1/2; what lies beyond ``±span`` is cut off.

    Args:
        values: Any shape.
        span: What becomes 0 and 1, in the values' unit: fixed, so that no sample's scaling tells of others.
    """
    return np.clip(np.asarray(values, dtype=np.float64) / (2 * span) + 0.5, 0, 1).astype(np.float32)
