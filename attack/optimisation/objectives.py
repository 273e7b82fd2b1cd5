"""How far a candidate's gradient is from the observed one, free of its scale, so that trained networks' work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Products:
    """What a distance between found gradients g and the target g* is made of.

    Attributes:
        found: ``‖g‖²`` of each restart `[R]`.
        cross: ``⟨g, g*⟩`` of each restart `[R]`.
        target: ``‖g*‖²``.
    """

    found: Tensor
    cross: Tensor
    target: Tensor


Objective = Callable[[Products], Tensor]
"""One number per restart, 0 when the gradients agree."""


def dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Inner product over all parameters together."""
    return torch.stack([(x * y).sum() for x, y in zip(a, b, strict=True)]).sum()


def square(products: Products) -> Tensor:
    """``‖g − g*‖² / ‖g*‖²``: DLG's objective (arXiv 1906.08935, eq. 3), divided by the target's squared norm."""
    return (products.found - 2 * products.cross + products.target) / products.target


def cosine(products: Products) -> Tensor:
    """``1 − ⟨g, g*⟩ / (‖g‖ ‖g*‖)`` over all parameters together (arXiv 2003.14053, eq. 4)."""
    norms = (products.found * products.target).clamp_min(torch.finfo(products.found.dtype).tiny).sqrt()
    return 1 - products.cross / norms


OBJECTIVES: dict[str, Objective] = {"relative_square": square, "cosine_distance": cosine}


def relative_square(found: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
    """`square` of gradients at hand, without the cancellation of its three terms."""
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
