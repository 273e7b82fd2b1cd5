"""Leaky integrate-and-fire neurons over all time steps at once.

snntorch's Leaky (Eshraghian et al. 2023; v1.0.0, reset with its default delay of one step), with current ``I_t``,
membrane ``m_t`` and the detached reset ``r_t = [m_{t-1} > threshold]``::

    subtract   m_t = beta m_{t-1} + I_t - r_t threshold
    zero       m_t = beta (1 - r_t) m_{t-1} + I_t
    none       m_t = beta m_{t-1} + I_t
    spike      s_t = [m_t > threshold],  ds/dm = surrogate(m - threshold)

In fixed point each right-hand side for ``m_t`` is rounded, ``m_t = Q(...)`` with Q of `contract.models.quantization`;
spike and reset compare the rounded membrane, and derivatives take Q for the identity, where it saturates too (as
snntorch's `state_quant` does).

With the resets known, the membrane is linear in the current, so its adjoint is one scan backwards in time,
``g_t = dL/dm_t + beta k_t g_{t+1}`` with ``k_t = 1 - s_t`` for `zero` and 1 otherwise. The adjoint of that scan is the
scan forwards: every derivative of every order costs one pass. Shapes: T steps first, then anything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from contract.models.quantization import FixedPoint, membrane_grid
from contract.models.surrogates import surrogate
from contract.task import NeuronSpec

CITED = ("eshraghian2023training", "neftci2019surrogate")
"""Keys of the works behind the neuron and its training by surrogate derivatives through time."""
Integrator = Callable[[Tensor, float, float, FixedPoint | None], tuple[Tensor, Tensor]]
"""Current `[T, ...]`, decay, threshold and grid to membranes and spikes."""


def _fires(membranes: Tensor, threshold: float) -> Tensor:
    return (membranes > threshold).to(membranes.dtype)


def _empty(like: Tensor) -> Tensor:
    return torch.empty_like(like, memory_format=torch.contiguous_format)


def _scan_inplace(x: Tensor, beta: float, keep: Tensor | None, *, reverse: bool) -> None:
    steps = x.unbind(0)
    n = len(steps)
    kept = (None,) * n if keep is None else keep.unbind(0)
    for t in range(n - 1):
        into, source, factor = (n - 2 - t, n - 1 - t, kept[n - 2 - t]) if reverse else (t + 1, t, kept[t])
        if factor is None:
            steps[into].add_(steps[source], alpha=beta)
        else:
            steps[into].addcmul_(factor, steps[source], value=beta)


class _Scan(torch.autograd.Function):
    """``y_t = x_t + beta k_{t-1} y_{t-1}``, or its transpose ``y_t = x_t + beta k_t y_{t+1}``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, beta: float, keep: Tensor | None, reverse: bool) -> Tensor:  # noqa: FBT001
        ctx.settings = (beta, keep, reverse)
        y = x.clone(memory_format=torch.contiguous_format)
        _scan_inplace(y, beta, keep, reverse=reverse)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        beta, keep, reverse = ctx.settings
        return _Scan.apply(gradients[0], beta, keep, not reverse), None, None, None  # type: ignore[no-untyped-call]


def scan(x: Tensor, beta: float, keep: Tensor | None = None, *, reverse: bool = False) -> Tensor:
    """A leaky sum along the first dimension, differentiable to any order.

    Args:
        x: `[T, ...]`.
        beta: Decay per step.
        keep: `[T, ...]`, constant; 0 where the step after `t` forgets step `t`. `None` keeps all.
        reverse: From the last step to the first.
    """
    y: Tensor = _Scan.apply(x, beta, keep, reverse)  # type: ignore[no-untyped-call]
    return y


def _round(membrane: Tensor, grid: FixedPoint | None) -> None:
    if grid is not None:
        grid.round_(membrane)


def _integrate_subtract(
    current: Tensor, beta: float, threshold: float, grid: FixedPoint | None
) -> tuple[Tensor, Tensor]:
    membranes, spikes = _empty(current), _empty(current)
    i, m, s = current.unbind(0), membranes.unbind(0), spikes.unbind(0)
    m[0].copy_(i[0])
    _round(m[0], grid)
    torch.gt(m[0], threshold, out=s[0])
    for t in range(1, len(i)):
        torch.add(i[t], m[t - 1], alpha=beta, out=m[t])
        m[t].sub_(s[t - 1], alpha=threshold)
        _round(m[t], grid)
        torch.gt(m[t], threshold, out=s[t])
    return membranes, spikes


def _integrate_zero(current: Tensor, beta: float, threshold: float, grid: FixedPoint | None) -> tuple[Tensor, Tensor]:
    membranes, keep = _empty(current), _empty(current)
    i, m, k = current.unbind(0), membranes.unbind(0), keep.unbind(0)
    m[0].copy_(i[0])
    _round(m[0], grid)
    for t in range(1, len(i)):
        torch.le(m[t - 1], threshold, out=k[t - 1])
        torch.addcmul(i[t], k[t - 1], m[t - 1], value=beta, out=m[t])
        _round(m[t], grid)
    return membranes, _fires(membranes, threshold)


def _integrate_none(current: Tensor, beta: float, threshold: float, grid: FixedPoint | None) -> tuple[Tensor, Tensor]:
    membranes = current.clone(memory_format=torch.contiguous_format)
    m = membranes.unbind(0)
    _round(m[0], grid)
    for t in range(1, len(m)):
        m[t].add_(m[t - 1], alpha=beta)
        _round(m[t], grid)
    return membranes, _fires(membranes, threshold)


INTEGRATORS: dict[str, Integrator] = {
    "subtract": _integrate_subtract,
    "zero": _integrate_zero,
    "none": _integrate_none,
}


class _LeakyFire(torch.autograd.Function):
    """Current to spikes and membranes. The backward is written in differentiable operations on saved outputs."""

    @staticmethod
    def forward(ctx: Any, current: Tensor, neuron: Leaky) -> tuple[Tensor, Tensor]:
        membranes, spikes = neuron.integrate(current)
        ctx.neuron = neuron
        ctx.save_for_backward(membranes, spikes)
        ctx.set_materialize_grads(False)
        return spikes, membranes

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        neuron: Leaky = ctx.neuron
        to_spikes, to_membranes = gradients
        membranes, spikes = ctx.saved_tensors
        adjoint = to_membranes
        if to_spikes is not None:
            through = to_spikes * neuron.derivative(membranes - neuron.threshold)
            adjoint = through if adjoint is None else adjoint + through
        if adjoint is None:
            return None, None
        keep = 1 - spikes.detach() if neuron.forgets else None
        return scan(adjoint, neuron.beta, keep, reverse=True), None


class Leaky:
    """A population of leaky neurons.

    Args:
        spec: The neuron.
        membrane_bits: Bits of its fixed-point membrane; `None` for float.
    """

    def __init__(self, spec: NeuronSpec, membrane_bits: int | None = None) -> None:
        self.beta, self.threshold = spec.beta, spec.threshold
        self.grid = membrane_grid(spec.threshold, membrane_bits)
        self.forgets = spec.reset == "zero"
        self.derivative = surrogate(spec)
        self._integrator = INTEGRATORS[spec.reset]

    def integrate(self, current: Tensor) -> tuple[Tensor, Tensor]:
        """Membranes and spikes of a current `[T, ...]`, without a gradient."""
        return self._integrator(current, self.beta, self.threshold, self.grid)

    def __call__(self, current: Tensor) -> tuple[Tensor, Tensor]:
        """Runs all steps.

        Args:
            current: `[T, ...]`.

        Returns:
            Spikes and membranes, each `[T, ...]`.
        """
        spikes, membranes = _LeakyFire.apply(current, self)  # type: ignore[no-untyped-call]
        return spikes, membranes


def mean_membrane_weights(steps: int, beta: float) -> list[float]:
    """What the current of each step adds to the mean membrane of a neuron that never resets.

    ``(1/T) sum_t m_t = sum_t w_t I_t`` with ``w_t = (1/T) sum_{j=0}^{T-1-t} beta^j``.
    """
    weights: list[float] = []
    tail = 0.0
    for _ in range(steps):
        tail = 1.0 + beta * tail
        weights.append(tail / steps)
    return weights[::-1]
