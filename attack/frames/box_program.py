"""The polytope ``{v in row space : 0 <= v <= 1}`` as a linear program that stays warm between objectives."""

from __future__ import annotations

import highspy
import numpy as np

from attack.frames.row_space import PivotForm
from attack.frames.spectrum import Array64
from attack.simplex import simplex, solved


class BoxProgram:
    """Minimises linear costs over the row space's unit box with HiGHS' dual and primal simplex, warm-started.

    The r free coordinates are boxed columns, every other group is a row with the same bounds.

    Args:
        form: Row space in pivot coordinates.
        slack: How far outside [0, 1] an entry may lie, against rounding of the gradient.
    """

    def __init__(self, form: PivotForm, *, slack: float = 1e-3) -> None:
        self.form, self.slack = form, slack
        self.rank, self.groups = len(form.pivots), len(form.pivots) + len(form.rest)
        self.solves = 0
        self._place = np.empty(self.groups, dtype=np.intp)
        self._place[form.pivots] = np.arange(self.rank)
        self._place[form.rest] = np.arange(self.groups - self.rank)
        self._is_column = np.zeros(self.groups, dtype=bool)
        self._is_column[form.pivots] = True
        self._columns = np.arange(self.rank, dtype=np.int32)
        self._fixed: list[int] = []
        self._solver = simplex()
        self._solver.passModel(self._model())

    def _model(self) -> highspy.HighsLp:
        rows = self.groups - self.rank
        model = highspy.HighsLp()
        model.num_col_, model.num_row_ = self.rank, rows
        model.col_cost_ = np.zeros(self.rank)
        model.col_lower_, model.col_upper_ = np.full(self.rank, -self.slack), np.full(self.rank, 1 + self.slack)
        model.row_lower_, model.row_upper_ = np.full(rows, -self.slack), np.full(rows, 1 + self.slack)
        matrix = self.form.factor.T
        entries = np.abs(matrix) > 1e-9
        model.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        model.a_matrix_.start_ = np.concatenate([[0], np.cumsum(entries.sum(axis=1))]).astype(np.int32)
        model.a_matrix_.index_ = np.nonzero(entries)[1].astype(np.int32)
        model.a_matrix_.value_ = matrix[entries]
        return model

    def _bound(self, group: int, lower: float, upper: float) -> None:
        change = self._solver.changeColBounds if self._is_column[group] else self._solver.changeRowBounds
        change(int(self._place[group]), lower - self.slack, upper + self.slack)

    def fix(self, group: int, value: float) -> None:
        """Holds one entry at 0 or 1."""
        self._bound(group, value, value)
        self._fixed.append(group)

    def release(self, group: int | None = None) -> None:
        """Frees one entry, or all."""
        for held in self._fixed if group is None else [group]:
            self._bound(held, 0.0, 1.0)
        self._fixed = [] if group is None else [held for held in self._fixed if held != group]

    def minimise(self, cost: Array64 | None = None) -> Array64 | None:
        """An optimal vertex for a cost per group (or for the last cost again).

        Returns:
            The vertex `[groups]`, or `None` when what is fixed leaves nothing.
        """
        if cost is not None:
            reduced = cost[self.form.pivots] + self.form.factor @ cost[self.form.rest]
            self._solver.changeColsCost(self.rank, self._columns, reduced)
        self.solves += 1
        if not solved(self._solver):
            return None
        return self.form.complete(np.array(self._solver.getSolution().col_value))
