r"""The row space of a first-layer gradient, in coordinates where binary vectors are easy to look for.

A dense layer's gradient is ``dW = sum_k delta_k x_k^T`` over samples and steps, for any neuron, surrogate, reset or
depth above (the surrogate changes ``delta`` only). While the number of distinct frames is below the hidden width, the
row space of ``dW`` is the span of the frames, and its column space that of the adjoints ``delta_k``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import scipy.linalg

from attack.clock import spend
from attack.costs import calls, product, singular, solution, triangular
from attack.frames.spectrum import Array64, Spectrum, spectrum

ArrayInt = npt.NDArray[np.intp]
Binary = npt.NDArray[np.uint8]
_SPARE = 10


@dataclass(frozen=True, kw_only=True, eq=False)
class RowSpace:
    """The numerical row space, with equal columns merged.

    Attributes:
        width: Number of inputs n.
        active: Inputs whose column is not zero: those that spiked at all `[n]`.
        spectrum: Singular values and rank r.
        basis: Orthonormal basis of the row space over the active inputs `[r, active]`.
        columns: Orthonormal basis of the column space `[hidden, r]`.
        complement: Orthonormal basis of what is orthogonal to the column space `[hidden, hidden - r]`.
        group: For each active input its group of equal columns `[active]`.
        representative: One active input of each group `[groups]`.
        span: Basis against which members are tested, when `basis` spans what is left of it only.
    """

    width: int
    active: npt.NDArray[np.bool_]
    spectrum: Spectrum
    basis: Array64
    columns: Array64
    complement: Array64
    group: ArrayInt
    representative: ArrayInt
    span: Array64 | None = None

    @property
    def rank(self) -> int:
        """Dimension r of the row space."""
        return len(self.basis)

    @property
    def selective(self) -> bool:
        """Whether lying in the row space says anything of a binary vector: enough groups beyond the free coordinates.

        A sample of few pixels over many steps has more frames than distinct columns; then every vector is a member.
        """
        return len(self.representative) >= self.rank + _SPARE

    @cached_property
    def sizes(self) -> Array64:
        """Inputs per group."""
        return np.bincount(self.group).astype(np.float64)

    @cached_property
    def merged(self) -> Array64:
        """The basis with one column per group, averaged over its members `[r, groups]`."""
        total = np.zeros((len(self.representative), self.rank))
        np.add.at(total, self.group, self.basis.T)
        return np.ascontiguousarray((total / self.sizes[:, None]).T)

    @cached_property
    def tolerance(self) -> float:
        """Residual below which a binary vector counts as a member."""
        return max(30.0 * self.spectrum.noise, 1e-4)

    def residual(self, vectors: npt.NDArray[np.generic]) -> Array64:
        """``||v - P v|| / ||v||`` of vectors over the active inputs `[..., active]`; 1 for the zero vector."""
        wide = np.asarray(vectors, dtype=np.float64)
        norm = np.linalg.norm(wide, axis=-1)
        span = self.basis if self.span is None else self.span
        spend(calls(10, 4 * wide.size) + 2 * product(wide.size / max(wide.shape[-1], 1), *span.shape))
        apart = np.linalg.norm(wide - (wide @ span.T) @ span, axis=-1)
        return np.where(norm > 0, apart / np.maximum(norm, 1e-300), 1.0)

    def members(self, vectors: Binary) -> npt.NDArray[np.bool_]:
        """Which binary vectors over the active inputs lie in the row space `[N]`."""
        members: npt.NDArray[np.bool_] = self.residual(vectors) <= self.tolerance
        return members

    def narrowed(self, functionals: Array64) -> RowSpace:
        """The same rows, with that part of the column space on which functionals `[N, hidden]` vanish."""
        if not len(functionals):
            return self
        across = np.linalg.svd(functionals @ self.columns)[2]
        count, hidden = functionals.shape
        spend(singular(count, self.rank, full=True) + product(count + self.rank, hidden, self.rank))
        gone, left = across[: len(functionals)], across[len(functionals) :]
        return replace(
            self,
            columns=self.columns @ left.T,
            complement=np.hstack([self.complement, self.columns @ gone.T]),
        )

    def widen(self, vectors: Binary) -> Binary:
        """From the active inputs to all of them `[N, n]`."""
        full = np.zeros((len(vectors), self.width), dtype=np.uint8)
        full[:, self.active] = vectors
        return full


@dataclass(frozen=True, kw_only=True, eq=False)
class PivotForm:
    """Row space as ``v_rest = v_pivots @ factor``: r free coordinates that are entries of the vector itself.

    Attributes:
        pivots: Groups that carry the free coordinates `[r]`.
        rest: The other groups `[groups - r]`.
        factor: `[r, groups - r]`.
    """

    pivots: ArrayInt
    rest: ArrayInt
    factor: Array64

    def complete(self, free: Array64) -> Array64:
        """The whole vectors `[..., groups]` from their free coordinates `[..., r]`."""
        out = np.empty((*free.shape[:-1], len(self.pivots) + len(self.rest)))
        out[..., self.pivots] = free
        out[..., self.rest] = free @ self.factor
        return out


def row_space(gradient: Array64, *, most: int | None = None, rank: int | None = None) -> RowSpace:
    """Takes a first-layer gradient apart.

    Args:
        gradient: `[hidden, n]`.
        most: Largest possible rank (batch size × steps), if known.
        rank: The rank, when it is known for certain.

    Returns:
        The row space; of rank 0 for a gradient of zeros.
    """
    active = np.abs(gradient).sum(axis=0) > 0
    inner = gradient[:, active]
    full = inner.shape[0] > inner.shape[1]
    left, values, right = np.linalg.svd(inner, full_matrices=full)
    spend(singular(*inner.shape, full=full) + product(*left.T.shape, inner.shape[1]) + calls(20, 20 * inner.size))
    found = spectrum(values, most=most)
    if rank is not None and 0 < rank < len(values):
        found = Spectrum(values=values, rank=rank, gap=float(values[rank - 1] / max(values[rank], 1e-300)))
    r = found.rank
    group, representative = _merge(left[:, :r].T @ inner, found)
    return RowSpace(
        width=gradient.shape[1],
        active=active,
        spectrum=found,
        basis=right[:r],
        columns=left[:, :r],
        complement=left[:, r:],
        group=group,
        representative=representative,
    )


def _merge(coordinates: Array64, found: Spectrum) -> tuple[ArrayInt, ArrayInt]:
    """Groups columns that agree within rounding; none when the gradient is too noisy to tell."""
    count = coordinates.shape[1]
    if found.rank == 0:
        return np.zeros(0, dtype=np.intp), np.zeros(0, dtype=np.intp)
    dropped = 0.0 if found.rank >= len(found.values) else float(found.values[found.rank] / found.values[0])
    if dropped > 1e-5:
        return np.arange(count), np.arange(count)
    key = np.round(coordinates.T / (found.values[0] * max(1e-6, 30.0 * dropped))).astype(np.int64)
    _, representative, group = np.unique(key, axis=0, return_index=True, return_inverse=True)
    return group.ravel(), representative


def pivot_form(basis: Array64) -> PivotForm:
    """Chooses r well-conditioned columns of `[r, groups]` by QR with column pivoting and solves for the others."""
    rank = basis.shape[0]
    spend(triangular(*basis.shape) + solution(rank) + product(rank, *basis.shape))
    _, _, order = scipy.linalg.qr(basis, pivoting=True, mode="economic")
    pivots, rest = order[:rank].astype(np.intp), order[rank:].astype(np.intp)
    factor: Array64 = np.linalg.solve(basis[:, pivots], basis[:, rest]).astype(np.float64)
    return PivotForm(pivots=pivots, rest=rest, factor=factor)
