"""Linear programs over the non-negative vectors of a row space."""

from __future__ import annotations

import highspy
import numpy as np
import numpy.typing as npt
import scipy.linalg

Array64 = npt.NDArray[np.float64]

_OPEN = 1e6


class ConeProgram:
    """``min c·v`` over ``{v in rowspace : v >= -slack}``, with entries of v pinned to values.

    In pivot form: a QR decomposition with column pivoting picks as many columns as the rank; their entries are the
    variables, every other entry is a row, so that a pin or a new cost changes bounds or costs alone and HiGHS goes on
    from its last basis (dual or primal simplex).
    """

    def __init__(self, basis: Array64, slack: float) -> None:
        rank, columns = basis.shape
        _, _, order = scipy.linalg.qr(basis, pivoting=True, mode="economic")
        self._pivots, self._others = order[:rank], order[rank:]
        others = np.linalg.solve(basis[:, self._pivots], basis[:, self._others])
        self._map: Array64 = np.asarray(others, dtype=np.float64)
        self._slack = slack
        self._columns = columns
        self._place = np.empty(columns, dtype=np.int64)
        self._place[self._pivots] = np.arange(rank)
        self._place[self._others] = np.arange(columns - rank)
        self._is_pivot = np.zeros(columns, dtype=bool)
        self._is_pivot[self._pivots] = True
        self._index = np.arange(rank, dtype=np.int32)
        self._pinned: list[int] = []
        self._solver = _solver()
        self._solver.passModel(_model(self._map.T, slack))

    def pin(self, column: int, value: float) -> None:
        """Fixes one entry of v."""
        self._bound(column, value, value)
        self._pinned.append(column)

    def release(self) -> None:
        """Frees all pinned entries."""
        for column in self._pinned:
            self._bound(column, -self._slack, _OPEN)
        self._pinned.clear()

    def minimise(self, cost: Array64) -> Array64 | None:
        """A vertex of least cost, or `None` when the pins contradict each other or the solver gives up."""
        reduced = cost[self._pivots] + self._map @ cost[self._others]
        self._solver.changeColsCost(len(self._index), self._index, reduced)
        self._solver.run()
        if self._solver.getModelStatus() != highspy.HighsModelStatus.kOptimal:
            return None
        values = np.array(self._solver.getSolution().col_value)
        found = np.empty(self._columns)
        found[self._pivots] = values
        found[self._others] = values @ self._map
        return found

    def _bound(self, column: int, low: float, high: float) -> None:
        change = self._solver.changeColBounds if self._is_pivot[column] else self._solver.changeRowBounds
        change(int(self._place[column]), float(low), float(high))


def _solver() -> highspy.Highs:
    solver = highspy.Highs()  # type: ignore[no-untyped-call]
    for option, value in (("output_flag", False), ("threads", 1), ("presolve", "off"), ("solver", "simplex")):
        solver.setOptionValue(option, value)
    return solver


def _model(rows: Array64, slack: float) -> highspy.HighsLp:
    """One variable per pivot, one dense row per other column."""
    count, rank = rows.shape
    model = highspy.HighsLp()
    model.num_col_, model.num_row_ = rank, count
    model.col_cost_ = np.zeros(rank)
    model.col_lower_, model.col_upper_ = np.full(rank, -slack), np.full(rank, _OPEN)
    model.row_lower_, model.row_upper_ = np.full(count, -slack), np.full(count, _OPEN)
    model.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    model.a_matrix_.start_ = (np.arange(count + 1) * rank).astype(np.int32)
    model.a_matrix_.index_ = np.tile(np.arange(rank, dtype=np.int32), count)
    model.a_matrix_.value_ = rows.ravel()
    return model
