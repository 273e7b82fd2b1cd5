"""How far a candidate's gradient is from the observed one, free of its scale, so that trained networks' work."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Objective = Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]
"""Found and target gradients, parameter by parameter, to a scalar that is 0 when they agree."""


def _dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    return torch.stack([(x * y).sum() for x, y in zip(a, b, strict=True)]).sum()


def relative_square(found: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
    """``Σ ‖g − g*‖² / Σ ‖g*‖²``: DLG's objective (arXiv 1906.08935, eq. 3), divided by the target's squared norm."""
    error = [x - y for x, y in zip(found, target, strict=True)]
    return _dot(error, error) / _dot(target, target)


def cosine_distance(found: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
    """``1 − ⟨g, g*⟩ / (‖g‖ ‖g*‖)`` over all parameters together (arXiv 2003.14053, eq. 4)."""
    norms = (_dot(found, found) * _dot(target, target)).sqrt()
    tiny = torch.finfo(norms.dtype).tiny
    return 1 - _dot(found, target) / norms.clamp_min(tiny)


def wasserstein(found: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
    """One-dimensional ``W₁`` between the entries of both gradients, divided by the target's mean magnitude.

    In one dimension the optimal transport is by rank: the mean distance of the sorted entries (GRNN, arXiv 2105.00529).
    """
    moved = [
        (x.flatten().sort().values - y.flatten().sort().values).abs().sum() for x, y in zip(found, target, strict=True)
    ]
    return torch.stack(moved).sum() / torch.stack([y.abs().sum() for y in target]).sum()


OBJECTIVES: dict[str, Objective] = {
    "relative_square": relative_square,
    "cosine_distance": cosine_distance,
    "wasserstein": wasserstein,
}
