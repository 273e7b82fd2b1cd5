"""What a module does, seen from outside: its gradients, its use of time, whether its samples act on each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from contract.models.own import SAME

TimeUse = Literal["dynamics", "mean", "first"]
"""What logits depend on: `dynamics`, or, in a module without, the `mean` over all frames, or the `first` alone."""
_SCALES = (1.0, 3.0, 10.0)


def difference(a: Tensor, b: Tensor) -> float:
    """``‖a − b‖ / ‖b‖``, 0 for two zeros."""
    norm = float(b.norm())
    error = float((a - b).norm())
    return error / norm if norm else (0.0 if not error else float("inf"))


def time_use(module: nn.Module, frames: Tensor) -> TimeUse:
    """How the module uses time, from what it makes of frames `[T, B, *shape]` in [0, 1]."""
    steps = frames.shape[0]
    if steps == 1:
        return "dynamics" if _spikes(module) else "first"
    claims: set[TimeUse] = {"mean", "first"}
    informative = False
    with torch.no_grad():
        for scale in _SCALES:
            full = module(scale * frames)
            informative |= difference(module(scale * (1 - frames)), full) > SAME
            averages: dict[TimeUse, Tensor] = {"mean": frames.mean(0), "first": frames[0]}
            for claim, one in averages.items():
                if difference(module(scale * one.expand_as(frames)), full) > SAME:
                    claims.discard(claim)
    if not informative or not claims:
        return "dynamics"
    return min(claims)


def _spikes(module: nn.Module) -> bool:
    return any("snntorch" in type(part).__module__ or hasattr(part, "threshold") for part in module.modules())


def gradients(
    module: nn.Module, parameters: Mapping[str, Tensor], frames: Tensor, labels: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits, and the gradient of the mean cross-entropy by each parameter, at parameters of one's choice."""
    leaves = {name: value.detach().clone().requires_grad_() for name, value in parameters.items()}
    logits: Tensor = functional_call(module, leaves, (frames,))
    loss = cross_entropy(logits, labels)
    found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return logits.detach(), dict(zip(leaves, found, strict=True))


def once(module: nn.Module, *, shape: tuple[int, ...], steps: int, batch: int) -> str:
    """Why the gradient cannot be differentiated by the input, as gradient matching must; empty when it can.

    A surrogate written as `torch.autograd.Function` whose backward leaves the graph is the usual cause.
    """
    frames = torch.rand((steps, batch, *shape), generator=torch.Generator().manual_seed(2)).requires_grad_()
    parameters = [p for p in module.parameters() if p.requires_grad]
    try:
        loss = cross_entropy(module(frames), torch.zeros(batch, dtype=torch.long))
        first = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True, materialize_grads=True)
        torch.autograd.grad(torch.stack([g.square().sum() for g in first]).sum(), frames)
    except RuntimeError as error:
        return str(error).strip().splitlines()[0]
    return ""


def coupled(module: nn.Module, *, shape: tuple[int, ...], steps: int) -> bool:
    """Whether one sample's logits depend on the others in its batch, as with batch norm in training."""
    generator = torch.Generator().manual_seed(3)
    frames = torch.rand((steps, 2, *shape), generator=generator)
    other = frames.clone()
    other[:, 1] = 1 - other[:, 1]
    try:
        with torch.no_grad():
            return difference(module(frames)[0], module(other)[0]) > SAME
    except (RuntimeError, ValueError):
        return False  # a module made for one batch size
