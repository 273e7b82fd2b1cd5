"""The numerical row space of a first-layer gradient."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attack.clock import spend
from attack.costs import calls, singular

Array64 = npt.NDArray[np.float64]

FLOOR = 1e-7
"""Singular values below this fraction of the largest are float32 rounding."""
ABOVE = 5.0
"""A direction counts when its singular value is this many times the first that can only be noise."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RowSpace:
    """An orthonormal basis of the span of the inputs.

    Attributes:
        basis: `[rank, columns]`, orthonormal rows, over the live columns only.
        values: The singular values kept, `[rank]`.
        left: `[outputs, rank]`, orthonormal columns: the span of the adjoints.
        live: Mask `[inputs]` of the columns that are not zero throughout.
        noise: Error of a direction of the basis relative to the smallest singular value kept.
    """

    basis: Array64
    values: Array64
    left: Array64
    live: npt.NDArray[np.bool_]
    noise: float

    @property
    def rank(self) -> int:
        """Dimension: the number of distinct inputs while that is below the layer's width."""
        return len(self.values)

    def expand(self, rows: Array64) -> Array64:
        """Puts vectors `[N, columns]` over the live columns back among all inputs, `[N, inputs]`."""
        full = np.zeros((len(rows), len(self.live)))
        full[:, self.live] = rows
        return full


def numerical_rank(values: Array64, limit: int, floor: float = FLOOR, above: float = ABOVE) -> int:
    """Rank of a noisy matrix of at most `limit` directions: how many stand out from those beyond the limit.

    Args:
        values: Singular values, falling.
        limit: Most directions that there can be (samples, or samples times steps).
        floor: Values below this fraction of the largest count as noise in any case.
        above: How far a value must stand out from the first beyond the limit.

    Returns:
        A rank of at most `limit`; 0 for a zero matrix.
    """
    noise = above * values[limit] if limit < len(values) else 0.0
    return int((values[:limit] > max(noise, floor * values[0])).sum()) if values[0] > 0 else 0


def row_space(gradient: Array64, limit: int, rank: int | None = None, above: float = ABOVE) -> RowSpace:
    """Row space of a first-layer gradient.

    Args:
        gradient: `[outputs, inputs]`; further columns such as the bias gradient may be appended.
        limit: Most directions that there can be.
        rank: The dimension when it is known; otherwise found in the spectrum.
        above: See `numerical_rank`.
    """
    live = np.abs(gradient).sum(0) > 0
    left, values, right = np.linalg.svd(gradient[:, live], full_matrices=False)
    spend(singular(len(gradient), int(live.sum())) + calls(10, 2 * gradient.size))
    rank = numerical_rank(values, limit, above=above) if rank is None else min(rank, len(values))
    rest = values[rank] if rank < len(values) else 0.0
    noise = rest / values[rank - 1] if rank else 1.0
    return RowSpace(basis=right[:rank], values=values[:rank], left=left[:, :rank], live=live, noise=noise)
