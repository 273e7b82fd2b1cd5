"""How far a candidate's gradient is from the observed one, free of its scale, so that trained networks' work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor


class Comparison(Protocol):
    """Found gradients g, one per restart, beside the target g*. Only what an objective reads is computed."""

    @property
    def found(self) -> Tensor:
        """``‖g‖²`` of each restart `[R]`."""

    @property
    def cross(self) -> Tensor:
        """``⟨g, g*⟩`` of each restart `[R]`."""

    @property
    def distance(self) -> Tensor:
        """``‖g − g*‖²`` of each restart `[R]`, of the difference itself: float32 resolves it near the solution too."""

    @property
    def target(self) -> Tensor:
        """``‖g*‖²``."""


Objective = Callable[[Comparison], Tensor]
"""One number per restart, 0 when the gradients agree."""


def dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Inner product over all parameters together."""
    return torch.stack([(x * y).sum() for x, y in zip(a, b, strict=True)]).sum()


def square(seen: Comparison) -> Tensor:
    """``‖g − g*‖² / ‖g*‖²``: DLG's objective (arXiv 1906.08935, eq. 3), divided by the target's squared norm."""
    return seen.distance / seen.target


def cosine(seen: Comparison) -> Tensor:
    """``1 − ⟨g, g*⟩ / (‖g‖ ‖g*‖)`` over all parameters together (arXiv 2003.14053, eq. 4)."""
    norms = (seen.found * seen.target).clamp_min(torch.finfo(seen.found.dtype).tiny).sqrt()
    return 1 - seen.cross / norms


OBJECTIVES: dict[str, Objective] = {"relative_square": square, "cosine_distance": cosine}


def relative_square(found: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
    """`square` of one restart's gradients at hand."""
    error = [x - y for x, y in zip(found, target, strict=True)]
    return dot(error, error) / dot(target, target)


def wasserstein(found: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
    """One-dimensional ``W₁`` between the entries of both gradients, divided by the target's mean magnitude.

    In one dimension the optimal transport is by rank: the mean distance of the sorted entries (GRNN, arXiv 2105.00529).
    """
    moved = [
        (x.flatten().sort().values - y.flatten().sort().values).abs().sum() for x, y in zip(found, target, strict=True)
    ]
    return torch.stack(moved).sum() / torch.stack([y.abs().sum() for y in target]).sum()
