"""Weights on an integer grid, gradients as if they were not."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _FakeQuantize(torch.autograd.Function):
    """Rounding forward, the identity backward (straight-through estimator, Bengio et al. 2013, arXiv 1308.3432)."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bits: int) -> Tensor:  # noqa: ARG004 - torch passes the context
        levels = float(2 ** (bits - 1) - 1)
        largest = weight.abs().amax(dim=tuple(range(1, weight.ndim)), keepdim=True)
        scale = torch.where(largest > 0, largest / levels, torch.ones_like(largest))
        return (weight / scale).round_().mul_(scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:  # noqa: ARG004
        return gradients[0], None


def fake_quantize(weight: Tensor, bits: int | None) -> Tensor:
    """Rounds weights to a symmetric uniform grid per output channel.

    ``s_o = max_i |w_oi| / (2^(bits-1) - 1)``, ``w_q = s round(w / s)``; zero is on the grid, ties go to even. The
    gradient passes unchanged, with the scale taken as a constant.

    Args:
        weight: `[out, ...]`.
        bits: Bits of the grid; `None` leaves the weight as it is.

    Returns:
        Weights on the grid, of the same shape and dtype.
    """
    if bits is None:
        return weight
    quantized: Tensor = _FakeQuantize.apply(weight, bits)  # type: ignore[no-untyped-call]
    return quantized
