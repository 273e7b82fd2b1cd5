"""Integrality: real images sit on a grid of intensities, mixtures of them do not."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from attack.clock import spend
from attack.costs import calls

Array64 = npt.NDArray[np.float64]

GRIDS = (255, 16)
"""Numbers of intensity steps tried: bytes, and the 17 levels of the 8x8 digits."""
LIMIT_BITS = 60.0
"""A chance fit less likely than 2 to the minus this counts as a certificate."""


def snap(vector: Array64, tolerance: float, *, scaled: bool) -> tuple[Array64, float] | None:
    """Puts a non-negative vector on the coarsest-fitting intensity grid.

    For a vector that is no image, ``v·M`` modulo 1 is uniform: the chance that n of its entries lie within ``e`` of an
    integer is ``(2e)^n``. An entry counts when it is not 0 and not the largest (those two sit on any grid), so a binary
    vector is never certified here.

    Args:
        vector: Entries from 0 up to about 1, or up to a positive factor when not `scaled`.
        tolerance: Largest distance from the grid in grid steps, below 0.5.
        scaled: Whether the factor is known; otherwise the largest entry is tried as each level in turn.

    Returns:
        The snapped vector and the certificate's strength in bits; `None` when no grid fits with `LIMIT_BITS`.
    """
    top = vector.max()
    if top <= 0:
        return None
    for levels in GRIDS:
        peaks = (top * levels,) if scaled else tuple(range(levels, levels // 4, -1))
        for peak in peaks:
            steps = vector * (peak / top)
            whole = np.round(steps)
            spend(calls(8, 6 * vector.size))
            error = float(np.abs(steps - whole).max())
            if error > tolerance or whole.max() > levels or whole.min() < 0:
                continue
            inner = int(((whole > 0) & (whole < whole.max())).sum())
            bits = -inner * np.log2(2 * max(error, 1e-3)) - np.log2(len(peaks))
            if bits >= LIMIT_BITS:
                return whole / levels + 0.0, float(bits)
    return None
