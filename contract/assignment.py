"""Which reconstruction belongs to which sample: the assignment of the highest total score."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def best_assignment(scores: npt.NDArray[np.float64]) -> list[tuple[int, int]]:
    """Pairs of rows and columns, each used once at most, of the highest sum.

    Shortest augmenting paths with potentials (Jonker and Volgenant 1987, doi 10.1007/BF02278710), cubic in the smaller
    side.

    Args:
        scores: `[N, M]`, finite.

    Returns:
        `min(N, M)` pairs `(row, column)`, by row.

    Raises:
        ValueError: A score that is not finite.
    """
    if not np.isfinite(scores).all():
        raise ValueError("best_assignment: a score is not finite")
    if scores.shape[0] > scores.shape[1]:
        return sorted((row, column) for column, row in best_assignment(scores.T))
    rows, columns = scores.shape
    row_of = np.full(columns + 1, -1)
    price, offer = np.zeros(columns + 1), np.zeros(rows)
    for row in range(rows):
        _augment(row, -scores, row_of, price, offer)
    return sorted((int(row_of[column]), column) for column in range(columns) if row_of[column] >= 0)


def _augment(
    row: int,
    costs: npt.NDArray[np.float64],
    row_of: npt.NDArray[np.int_],
    price: npt.NDArray[np.float64],
    offer: npt.NDArray[np.float64],
) -> None:
    """Adds one row; `row_of[-1]`, a column that does not exist, holds it while its path is sought."""
    columns = costs.shape[1]
    row_of[-1], here = row, columns
    distance, before = np.full(columns, np.inf), np.full(columns, columns)
    reached = np.zeros(columns + 1, dtype=bool)
    while row_of[here] >= 0:
        reached[here] = True
        current = costs[row_of[here]] - offer[row_of[here]] - price[:-1]
        shorter = ~reached[:-1] & (current < distance)
        distance[shorter], before[shorter] = current[shorter], here
        here = int(np.argmin(np.where(reached[:-1], np.inf, distance)))
        step = distance[here]
        offer[row_of[reached]] += step
        price[reached] -= step
        distance[~reached[:-1]] -= step
    while here != columns:
        row_of[here] = row_of[before[here]]
        here = int(before[here])
    row_of[-1] = -1
