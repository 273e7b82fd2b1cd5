"""Derivatives that stand for the spike's in the backward pass, with snntorch's formulas and defaults.

`u` is the membrane minus the threshold. All are written in differentiable torch operations, since attacks
differentiate gradients once more.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec
import torch
from torch import Tensor

from contract.task import NeuronSpec


class Surrogate(msgspec.Struct, frozen=True, kw_only=True):
    """A surrogate derivative.

    Attributes:
        derivative: Takes `u` and the slope to dS/du, of `u`'s shape.
        slope: snntorch's default for the parameter.
        cited: Keys of the works that it comes from (`contract.citations`), beside snntorch's own.
    """

    derivative: Callable[[Tensor, float], Tensor]
    slope: float
    cited: tuple[str, ...]


def _atan(u: Tensor, alpha: float) -> Tensor:
    """``(alpha/2) / (1 + (pi/2 alpha u)^2)`` (Fang et al. 2021, without the factor 1/pi, as snntorch has it)."""
    return (alpha / 2) / (1 + (math.pi / 2 * alpha * u).square())


def _fast_sigmoid(u: Tensor, slope: float) -> Tensor:
    """``1 / (1 + k|u|)^2`` (Zenke and Ganguli 2018)."""
    return (1 + slope * u.abs()).square().reciprocal()


def _ste(u: Tensor, _slope: float) -> Tensor:
    """``1`` (straight-through estimator, Bengio et al. 2013, arXiv 1308.3432)."""
    return torch.ones_like(u)


def _triangular(u: Tensor, threshold: float) -> Tensor:
    """``threshold`` below the threshold, ``-threshold`` from it on: the sign change is snntorch's."""
    return torch.where(u < 0, threshold, -threshold).to(u.dtype)


def _sigmoid(u: Tensor, slope: float) -> Tensor:
    """``k s(ku) s(-ku)``: snntorch's ``k e^{-ku} / (1 + e^{-ku})^2`` in a form that does not overflow.

    snntorch names Zenke and Ganguli 2018 as its source.
    """
    return slope * torch.sigmoid(slope * u) * torch.sigmoid(-slope * u)


def _spike_rate_escape(u: Tensor, slope: float) -> Tensor:
    """``k e^{-|u - 1|}`` (Gerstner and Kistler 2002)."""
    return slope * torch.exp(-(u - 1).abs())


SURROGATES: dict[str, Surrogate] = {
    "atan": Surrogate(derivative=_atan, slope=2.0, cited=("fang2021incorporating",)),
    "fast_sigmoid": Surrogate(derivative=_fast_sigmoid, slope=25.0, cited=("zenke2018superspike",)),
    "ste": Surrogate(derivative=_ste, slope=1.0, cited=("bengio2013estimating",)),
    "triangular": Surrogate(derivative=_triangular, slope=1.0, cited=()),  # nowhere but in snntorch
    "sigmoid": Surrogate(derivative=_sigmoid, slope=25.0, cited=("zenke2018superspike",)),
    "spike_rate_escape": Surrogate(derivative=_spike_rate_escape, slope=25.0, cited=("gerstner2002spiking",)),
}


def surrogate(neuron: NeuronSpec) -> Callable[[Tensor], Tensor]:
    """The derivative that a neuron uses, with its slope filled in."""
    member = SURROGATES[neuron.surrogate]
    slope = member.slope if neuron.surrogate_slope is None else neuron.surrogate_slope
    return lambda u: member.derivative(u, slope)
