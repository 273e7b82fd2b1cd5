"""Weights and membranes on integer grids, gradients as if they were not.

Rounding is to the nearest integer, ties to even (torch, NumPy and ONNX `Round` alike). Every derivative takes it for
the identity (straight-through estimator, Bengio et al. 2013, arXiv 1308.3432), with scales taken as constants, so all
derivatives of all orders are those of the float network at the quantised values.

Weights, per output channel o over its n weights ``w_oi``; the float weights are what is trained::

    8, 4 bits   s_o = max_i |w_oi| / (2^(bits-1) - 1)    (1 where all are 0)
                q_oi = s_o round(w_oi / s_o)
    2 bits      d_o = 0.7 / n sum_i |w_oi|,  z_oi = [|w_oi| > d_o]
                a_o = sum_i z_oi |w_oi| / max(1, sum_i z_oi)
                q_oi = a_o z_oi sign(w_oi)

The first is the symmetric uniform grid of Jacob et al. 2018 (arXiv 1712.05877), the second ternary weight networks (Li
et al. 2016, arXiv 1605.04711): 0.7 is its approximation of the threshold with the least squared error, and ``a`` the
best scale for it.

Membranes of spiking neurons with threshold theta, in fixed point of b bits with sign, after each update and before the
spike::

    D = 4 theta / 2^(b-1),  Q(m) = D clip(round(m / D), -2^(b-1), 2^(b-1) - 1)

Range: ``[-4 theta, 4 theta - D]``, saturating. A power of two times the threshold puts 0 and the threshold themselves
on the grid (32 D at 8 bits), so a spike is an integer comparison. Trained membranes do leave the range, some by far,
where the spike no longer depends on how far; what saturation and rounding cost is measured by the cells `membrane-8`
and `membrane-16` of `tests.benchmarks.accuracy`.
"""

from __future__ import annotations

from typing import Any

import msgspec
import torch
from torch import Tensor

MEMBRANE_RANGE = 4.0
"""Largest magnitude of a fixed-point membrane, in thresholds."""
TERNARY_THRESHOLD = 0.7
"""Weights of at most this many mean magnitudes of their channel become 0."""


def _uniform(weight: Tensor, bits: int) -> Tensor:
    levels = float(2 ** (bits - 1) - 1)
    largest = weight.abs().amax(dim=tuple(range(1, weight.ndim)), keepdim=True)
    scale = torch.where(largest > 0, largest / levels, torch.ones_like(largest))
    return (weight / scale).round_().mul_(scale)


def _ternary(weight: Tensor, _bits: int) -> Tensor:
    dims = tuple(range(1, weight.ndim))
    magnitude = weight.abs()
    kept = (magnitude > TERNARY_THRESHOLD * magnitude.mean(dims, keepdim=True)).to(weight.dtype)
    scale = (kept * magnitude).sum(dims, keepdim=True) / kept.sum(dims, keepdim=True).clamp_(min=1.0)
    return scale * kept * weight.sign()


GRIDS = {2: _ternary, 4: _uniform, 8: _uniform}
CITED: dict[int, tuple[str, ...]] = {
    2: ("li2016ternary",),
    4: ("jacob2018quantization",),
    8: ("jacob2018quantization",),
}
"""Keys of the works that the grids follow (`contract.citations`), by their bits."""
ROUNDING_CITED = ("bengio2013estimating",)
"""Those of the derivative of rounding, of weights and of membranes."""


class _FakeQuantize(torch.autograd.Function):
    """The grid forward, the identity backward."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bits: int) -> Tensor:  # noqa: ARG004 - torch passes the context
        return GRIDS[bits](weight, bits)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:  # noqa: ARG004
        return gradients[0], None


def fake_quantize(weight: Tensor, bits: int | None) -> Tensor:
    """Rounds weights to the grid of their output channel; the gradient passes unchanged.

    Args:
        weight: `[out, ...]`.
        bits: Bits of the grid, of `GRIDS`; `None` leaves the weight as it is.

    Returns:
        Weights on the grid, of the same shape and dtype.
    """
    if bits is None:
        return weight
    quantized: Tensor = _FakeQuantize.apply(weight, bits)  # type: ignore[no-untyped-call]
    return quantized


class FixedPoint(msgspec.Struct, frozen=True, kw_only=True):
    """A saturating grid of equal steps with 0 on it.

    Attributes:
        step: Distance of neighbours.
        low: Smallest integer.
        high: Largest integer.
    """

    step: float
    low: int
    high: int

    def round_(self, membrane: Tensor) -> Tensor:
        """Moves each element to the nearest grid point, in place, without a gradient."""
        return membrane.div_(self.step).round_().clamp_(self.low, self.high).mul_(self.step)


def membrane_grid(threshold: float, bits: int | None) -> FixedPoint | None:
    """The grid of a spiking neuron's membrane.

    Args:
        threshold: Firing threshold.
        bits: Bits, sign included; `None` for a float membrane, which has no grid.
    """
    if bits is None:
        return None
    half = 2 ** (bits - 1)
    return FixedPoint(step=MEMBRANE_RANGE * threshold / half, low=-half, high=half - 1)
