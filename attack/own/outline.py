"""First layer and readout of a module that no network of the project expresses, found by what their gradients do.

With two random samples in direct coding a fully connected first layer's gradient is ``dW = δ_1 x_1ᵀ + δ_2 x_2ᵀ`` and
``db = δ_1 + δ_2``, whatever lies above: a parameter of which that holds sees the input. With one label for both, a
readout's bias gradient has the signs of ``softmax(z) − y``. (Two, because batch norm refuses a single one.)
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import torch
from torch import Tensor, nn

from attack.own.behaviour import difference, gradients
from attack.own.tracing import Trace

_SPANNED = 1e-4
_GAINS = (1.0, 3.0, 10.0)


class Outline(msgspec.Struct, frozen=True, kw_only=True):
    """Names of parameters; `None` where none was found.

    Attributes:
        first: Weight of the layer that sees the input.
        first_bias: Its bias.
        dense: Whether the first layer is fully connected, as its gradient shows.
        readout: Weight of the layer whose gradient tells labels.
        readout_bias: Its bias.
    """

    first: str | None
    first_bias: str | None
    dense: bool
    readout: str | None
    readout_bias: str | None


def outline(
    module: nn.Module,
    traced: Trace,
    names: tuple[str, ...],
    *,
    shape: tuple[int, ...],
    steps: int,
    classes: int,
) -> Outline:
    """Looks at the gradients of pairs of random samples, also at larger weights so that neurons spike."""
    trials = [
        _trial(module, shape=shape, steps=steps, classes=classes, gain=gain, seed=seed)
        for seed, gain in enumerate(_GAINS)
    ]
    dense = [name for name in names if _sees_input(name, trials)]
    readouts = [name for name in names if _tells_labels(name, trials, classes)]
    parameters = dict(module.named_parameters())
    first = dense[0] if dense else next((f"{n}.weight" for n, p in traced.layers if isinstance(p, nn.Conv2d)), None)
    bias = next((name for name in names if first in dense and _is_bias(name, first or "", trials)), None)
    readout_bias = next((n for n in readouts if parameters[n].ndim == 1), None)
    paired = f"{(readout_bias or '').rpartition('.')[0]}.weight"
    readout = paired if paired in names else next((n for n in reversed(readouts) if parameters[n].ndim == 2), None)
    if first is not None and not dense:
        conv_bias = f"{first.rpartition('.')[0]}.bias"
        bias = conv_bias if conv_bias in names else None
    return Outline(
        first=first,
        first_bias=bias,
        dense=bool(dense),
        readout=readout,
        readout_bias=readout_bias if readout == paired else None,
    )


class _Sample(msgspec.Struct, frozen=True, kw_only=True):
    x: Tensor
    error: Tensor
    gradients: Mapping[str, Tensor]


def _trial(
    module: nn.Module, *, shape: tuple[int, ...], steps: int, classes: int, gain: float, seed: int
) -> _Sample | None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand((2, *shape), generator=generator)
    label = torch.randint(0, classes, (1,), generator=generator).expand(2)
    own = {n: p.detach() * (gain if p.ndim > 1 else 1.0) for n, p in module.named_parameters()}
    try:
        logits, found = gradients(module, own, x.expand(steps, *x.shape), label)
    except (RuntimeError, ValueError):
        return None  # a module made for one batch size
    error = (torch.softmax(logits, 1) - torch.nn.functional.one_hot(label, classes)).sum(0)
    return _Sample(x=x.flatten(1), error=error, gradients=found)


def _sees_input(name: str, trials: list[_Sample | None]) -> bool:
    seen = [t for t in trials if t is not None and bool(t.gradients[name].any())]
    inputs = seen[0].x.shape[1] if seen else 0
    if not seen or seen[0].gradients[name].ndim != 2 or seen[0].gradients[name].shape[1] != inputs:
        return False
    return all(difference(_adjoints(t.gradients[name], t.x) @ t.x, t.gradients[name]) < _SPANNED for t in seen)


def _adjoints(weight: Tensor, x: Tensor) -> Tensor:
    """``δ`` `[outputs, 2]` by least squares."""
    found: Tensor = weight @ torch.linalg.pinv(x)
    return found


def _is_bias(name: str, first: str, trials: list[_Sample | None]) -> bool:
    seen = [t for t in trials if t is not None and bool(t.gradients[first].any())]
    outputs = seen[0].gradients[first].shape[0] if seen else 0
    return bool(seen) and all(
        t.gradients[name].shape == (outputs,)
        and difference(t.gradients[name], _adjoints(t.gradients[first], t.x).sum(1)) < _SPANNED
        for t in seen
    )


def _tells_labels(name: str, trials: list[_Sample | None], classes: int) -> bool:
    seen = [t for t in trials if t is not None]
    if not seen or seen[0].gradients[name].shape[:1] != (classes,):
        return False
    signals = [t.gradients[name].flatten(1).sum(1) if t.gradients[name].ndim > 1 else t.gradients[name] for t in seen]
    informative = [(s, t.error) for s, t in zip(signals, seen, strict=True) if bool(s.any())]
    return bool(informative) and all(bool((s.sign() == e.sign()).all()) for s, e in informative)


def aliases(names: tuple[str, ...], seen: Outline) -> dict[str, str]:
    """Each parameter by the attacks' name: `….weight` and `….bias` of one stem for the layers that they look for."""
    first = {seen.first: "weight", seen.first_bias: "bias"}
    last = {seen.readout: "weight", seen.readout_bias: "bias"}
    if seen.first == seen.readout:
        last = {}

    def named(part: Mapping[str | None, str]) -> dict[str, str]:
        weight = next(iter(part), None)
        if weight is None:
            return {}
        stem = weight.removesuffix(".weight")
        return {f"{stem}.{kind}": name for name, kind in part.items() if name is not None}

    middle = {name: name for name in names if name not in first and name not in last}
    return {**named(first), **middle, **named(last)}
