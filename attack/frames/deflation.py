r"""Taking samples out of a gradient, with a certificate that they were in it.

In coordinates of column and row space the gradient is an invertible r × r core ``C = Delta X``. Taking away ``D X_b``
lowers its rank by exactly the number of frames in ``X_b`` if and only if ``X_b C^-1 D = I`` (Wedderburn's rank
reduction; Cline and Funderlic 1979, "The rank of a difference of matrices and associated generalized inverses"). A
wrong frame, order or label breaks it, so it certifies all three at once.

The column space of what is left is that of vectors y with ``X_b C^-1 y = 0``: it needs the frames alone, so it is as
exact as they are. The row space needs the adjoints too and is as exact as their simulation.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from attack.clock import spend
from attack.costs import calls, product, singular, solution
from attack.frames.row_space import Binary, RowSpace
from attack.frames.spectrum import Array64

IDENTITY = 0.1
"""Largest entry of ``X_b C^-1 D - I`` that counts as zero: the inverse magnifies rounding, a wrong sample gives > 1."""
INSIDE = 5e-3
"""Largest share of the simulated adjoints that may lie outside the column space."""
CITED = ("cline1979rank",)
"""Keys of the works that the certificate follows (`attack.citations`)."""


class Deflation:
    """A gradient from which samples are taken, one after another.

    Args:
        gradient: `[H1, n]`.
        space: Its row and column space.
        rows: Frames that made it: as many as its rank, but for empty and repeated ones.
    """

    def __init__(self, gradient: Array64, space: RowSpace, *, rows: int | None = None) -> None:
        self.rowless = 0 if rows is None else max(rows - space.rank, 0)
        self.whole, self.space = space, space
        self.left = space.rank
        hidden, rank = space.columns.shape
        spend(product(rank, hidden, int(space.active.sum())) + solution(rank))
        self._inverse = np.linalg.inv(space.columns.T @ gradient[:, space.active] @ space.basis.T)
        self._dual = np.zeros((0, space.rank))
        self._null = np.zeros((space.rank, 0))

    def certifies(self, frames: Binary, adjoints: Array64) -> bool:
        """Whether the rank falls by exactly the number of distinct non-empty frames.

        Args:
            frames: A sample's frames `[T, n]`.
            adjoints: Its simulated adjoints `[H1, T]`, scaled as they are in the gradient.
        """
        distinct, summed = distinct_rows(frames, adjoints)
        if not len(distinct):
            return False
        spend(
            calls(10, 4 * frames.size)
            + product(*summed.T.shape, len(summed))
            + product(*self._dual.T.shape, len(frames))
        )
        inside = self.whole.columns.T @ summed
        outside = np.linalg.norm(self.whole.complement.T @ summed) / np.linalg.norm(summed)
        identity = self._coordinates(distinct) @ self._inverse @ inside
        return bool(outside < INSIDE and np.abs(identity - np.eye(len(distinct))).max() < IDENTITY)

    def functionals(self, frames: Binary) -> Array64:
        """What each frame's own adjoint maps to 1 and all others to 0 `[N, H1]`, on the column space.

        Args:
            frames: Distinct frames over the active inputs `[N, active]`.
        """
        return np.asarray(frames.astype(np.float64) @ self.whole.basis.T @ self._inverse @ self.whole.columns.T)

    def take(self, frames: Binary, adjoints: Array64) -> None:
        """Takes a sample out; arguments as of `certifies`."""
        distinct, summed = distinct_rows(frames, adjoints)
        self.rowless = max(self.rowless - len(frames) + len(distinct), 0)
        dual = self._coordinates(distinct) @ self._inverse
        self._dual = np.vstack([self._dual, dual])
        self.left = self.whole.rank - len(self._dual)
        inside = self.whole.columns.T @ summed
        # Of all corrections of D that make the rank fall exactly, the one within its own span.
        self._null = np.hstack([self._null, self._inverse @ inside @ np.linalg.inv(dual @ inside)])
        self.space = self._shrunk()

    def _coordinates(self, frames: Binary) -> Array64:
        return np.asarray(frames[:, self.whole.active].astype(np.float64) @ self.whole.basis.T)

    def _shrunk(self) -> RowSpace:
        rank, taken = self.whole.rank, len(self._dual)
        spend(2 * singular(rank, taken, full=True) + product(rank, rank, len(self.whole.columns)))
        across = np.linalg.svd(self._dual)[2]
        gone = self.whole.columns @ across[:taken].T
        kept = np.linalg.svd(self._null, full_matrices=True)[0][:, self._null.shape[1] :]
        return replace(
            self.whole,
            basis=kept.T @ self.whole.basis,
            columns=self.whole.columns @ across[taken:].T,
            complement=np.hstack([self.whole.complement, gone]),
            span=self.whole.basis,
        )


def distinct_rows(frames: Binary, adjoints: Array64) -> tuple[Binary, Array64]:
    """Non-empty frames without repetition `[D, n]`, and the sum of the adjoints of each `[H1, D]`."""
    spend(calls(40, 400 * frames.size))
    distinct, place = np.unique(frames, axis=0, return_inverse=True)
    summed = np.zeros((len(adjoints), len(distinct)))
    np.add.at(summed.T, place.ravel(), adjoints.T)
    filled = distinct.any(axis=1)
    return distinct[filled], summed[:, filled]
