"""Layers and neurons of a module, in the order in which it runs them, by watching one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import snntorch
import torch
from torch import Tensor, nn

from contract.models.surrogates import SURROGATES
from contract.task import NeuronSpec

_TRANSPARENT = (nn.Flatten, nn.Unflatten, nn.Identity, nn.Dropout, nn.Dropout2d)
_ACTIVATIONS: dict[type[nn.Module], str] = {nn.Sigmoid: "sigmoid", nn.ReLU: "relu"}


class Trace(msgspec.Struct, frozen=True, kw_only=True):
    """What ran, by first execution.

    Attributes:
        layers: Name and module of each `nn.Linear` and `nn.Conv2d`.
        neurons: Name and module of each `snntorch.Leaky`.
        activations: `sigmoid` or `relu` modules.
        others: Name and kind of all else that computes.
    """

    layers: tuple[tuple[str, nn.Module], ...]
    neurons: tuple[tuple[str, nn.Module], ...]
    activations: tuple[str, ...]
    others: tuple[tuple[str, str], ...]


def trace(module: nn.Module, frames: Tensor) -> Trace:
    """Runs the module once and notes its leaf modules."""
    ran: dict[str, nn.Module] = {}
    leaves = {name: part for name, part in module.named_modules() if name and not any(part.children())}
    hooks = [part.register_forward_hook(_noting(ran, name)) for name, part in leaves.items()]
    try:
        with torch.no_grad():
            module(frames)
    finally:
        for hook in hooks:
            hook.remove()
    layers = tuple((name, part) for name, part in ran.items() if isinstance(part, nn.Linear | nn.Conv2d))
    neurons = tuple((name, part) for name, part in ran.items() if type(part) is snntorch.Leaky)
    known = {name for name, _ in (*layers, *neurons)}
    return Trace(
        layers=layers,
        neurons=neurons,
        activations=tuple(_ACTIVATIONS[type(part)] for part in ran.values() if type(part) in _ACTIVATIONS),
        others=tuple(
            (name, type(part).__name__)
            for name, part in ran.items()
            if name not in known and not isinstance(part, _TRANSPARENT) and type(part) not in _ACTIVATIONS
        ),
    )


def _noting(ran: dict[str, nn.Module], name: str) -> Callable[[nn.Module, Any, Any], None]:
    def hook(part: nn.Module, _inputs: Any, _output: Any) -> None:
        ran.setdefault(name, part)

    return hook


_SLOPES: dict[str, Callable[[Callable[[float], float]], float]] = {
    "atan": lambda d: 2 * d(0.0),
    "fast_sigmoid": lambda d: (d(-1.0) ** -0.5 - 1) if d(-1.0) > 0 else -1.0,
    "ste": lambda _: 1.0,
    "triangular": lambda d: d(-1.0),
    "sigmoid": lambda d: 4 * d(0.0),
    "spike_rate_escape": lambda d: d(1.0),
}
"""The parameter of each surrogate, read off its derivative at one point."""
_GRID = (-2.3, -0.9, -0.31, -0.12, -0.04, -0.007, 0.007, 0.03, 0.11, 0.29, 0.83, 1.6)


def surrogate_of(spike: Callable[[Tensor], Tensor]) -> tuple[str, float] | None:
    """Name and parameter of the surrogate derivative that a spike function has, by sampling it; `None` when unknown."""

    def derivative(u: Tensor) -> Tensor:
        leaf = u.clone().requires_grad_()
        (found,) = torch.autograd.grad(spike(leaf).sum(), leaf)
        return found

    points = torch.tensor(_GRID)
    try:
        sampled = derivative(points)
        for name, read in _SLOPES.items():
            slope = read(lambda u: float(derivative(torch.tensor([u]))))
            if slope <= 0:
                continue
            expected = SURROGATES[name].derivative(points, slope)
            if bool(torch.allclose(sampled, expected, rtol=1e-4, atol=1e-9)):
                return name, round(slope, 5)
    except RuntimeError:
        return None
    return None


def neuron_of(part: nn.Module) -> NeuronSpec | str:
    """A Leaky neuron as the task's record, or why it has none."""
    values: dict[str, float] = {}
    for name in ("beta", "threshold"):
        value = getattr(part, name)
        if value.numel() != 1:
            return f"it has {value.numel()} values of {name}, one for all neurons is known"
        values[name] = float(value.detach())
    spike: Any = part.spike_grad
    found = surrogate_of(spike)
    if found is None:
        return "its surrogate derivative is none of " + ", ".join(SURROGATES)
    beta, threshold = min(max(values["beta"], 0.0), 1.0), values["threshold"]
    if threshold <= 0:
        return f"its threshold {threshold:g} is not positive"
    reset: Any = part.reset_mechanism
    kind: Any = found[0]
    return NeuronSpec(beta=beta, threshold=threshold, reset=reset, surrogate=kind, surrogate_slope=found[1])
