"""Linear programs over the non-negative vectors of a row space."""

from __future__ import annotations

import highspy
import numpy as np
import numpy.typing as npt

from attack.simplex import simplex, solved

Array64 = npt.NDArray[np.float64]

_OPEN = 1e30


class ConeProgram:
    r"""``min c·v`` over ``{v = z V : v >= -slack}``, with entries of v pinned to values.

    Solved through its dual, which has as many rows as the rank where the program itself has a row per entry of v::

        max_y  Σ_i b_i y_i    with  V y = V c,   y >= 0,   y free where v is pinned

    where b is the pinned value or ``-slack``; z is the rows' multipliers. A new cost only changes the right-hand side,
    so that reweighting goes on from the last basis by the dual simplex.
    """

    def __init__(self, basis: Array64, slack: float) -> None:
        self._basis = basis
        self._slack = slack
        self._pinned: list[int] = []
        self._solver = simplex()
        self._solver.passModel(_model(basis, slack))

    def pin(self, column: int, value: float) -> None:
        """Fixes one entry of v."""
        self._solver.changeColBounds(column, -_OPEN, _OPEN)
        self._solver.changeColCost(column, -value)
        self._pinned.append(column)

    def release(self) -> None:
        """Frees all pinned entries."""
        for column in self._pinned:
            self._solver.changeColBounds(column, 0.0, _OPEN)
            self._solver.changeColCost(column, self._slack)
        self._pinned.clear()

    def minimise(self, cost: Array64) -> Array64 | None:
        """A vertex of least cost, or `None` when the pins contradict each other or the solver gives up."""
        for row, side in enumerate(self._basis @ cost):
            self._solver.changeRowBounds(row, float(side), float(side))
        if not solved(self._solver):
            return None
        found: Array64 = -np.array(self._solver.getSolution().row_dual) @ self._basis
        return found


def _model(basis: Array64, slack: float) -> highspy.HighsLp:
    """One dense row per direction, one variable per entry of v; HiGHS minimises, hence the signs."""
    rank, columns = basis.shape
    model = highspy.HighsLp()
    model.num_col_, model.num_row_ = columns, rank
    model.col_cost_ = np.full(columns, slack)
    model.col_lower_, model.col_upper_ = np.zeros(columns), np.full(columns, _OPEN)
    model.row_lower_ = model.row_upper_ = np.zeros(rank)
    model.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    model.a_matrix_.start_ = (np.arange(columns + 1) * rank).astype(np.int32)
    model.a_matrix_.index_ = np.tile(np.arange(rank, dtype=np.int32), columns)
    model.a_matrix_.value_ = basis.T.ravel()
    return model
