"""Numerical rank of a gradient: where its singular values fall off a cliff."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array64 = npt.NDArray[np.float64]


FLOAT32_FLOOR = 1e-7
"""Singular values below this share of the largest are rounding of float32 gradients."""
SIMULATION_FLOOR = 2e-6
"""Share of the largest singular value by which a simulated float32 gradient may be off."""


@dataclass(frozen=True, kw_only=True)
class Spectrum:
    """Singular values with the rank that they suggest.

    Attributes:
        values: Singular values, descending.
        rank: Number of them above the gap.
        gap: Ratio of the last value kept to the first one dropped; infinite when nothing is dropped.
    """

    values: Array64
    rank: int
    gap: float

    @property
    def floor(self) -> float:
        """A threshold between signal and rounding: inside the gap, above what a simulation in float32 may be off."""
        if self.rank == 0:
            return 0.0
        largest, kept = float(self.values[0]), float(self.values[self.rank - 1])
        dropped = float(self.values[self.rank]) if self.rank < len(self.values) else 0.0
        return max(float(np.sqrt(kept * max(dropped, 1e-12 * largest))), min(kept / 2, SIMULATION_FLOOR * largest))

    @property
    def noise(self) -> float:
        """First value dropped over the last one kept: the relative error of the weakest direction."""
        return 0.0 if self.gap == np.inf else 1.0 / self.gap


def spectrum(values: Array64, *, most: int | None = None) -> Spectrum:
    """Finds the rank by the widest relative gap.

    Args:
        values: Singular values, descending.
        most: Largest rank that can be (batch size × steps); `None` without one. A spectrum that has no gap there
            is cut there.

    Returns:
        The spectrum; rank 0 for a gradient of zeros.
    """
    size = int(np.count_nonzero(values > 1e-13 * values[0])) if len(values) and values[0] > 0 else 0
    if size == 0:
        return Spectrum(values=values, rank=0, gap=np.inf)
    top = size if most is None else min(size, most)
    if top == len(values) and most is not None:
        return Spectrum(values=values, rank=top, gap=np.inf)
    below = np.append(values, 0.0)[1 : top + 1]
    above = values[:top]
    ratio = above / np.maximum(below, 1e-13 * values[0])
    ratio[above < FLOAT32_FLOOR * values[0]] = 0.0
    rank = int(np.argmax(ratio)) + 1
    dropped = rank < len(values) and values[rank] > 0
    return Spectrum(values=values, rank=rank, gap=float(above[rank - 1] / values[rank]) if dropped else np.inf)
