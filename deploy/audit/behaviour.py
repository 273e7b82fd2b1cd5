"""What a module does, seen from outside: does it run, is it a function, does it use time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from contract.errors import ConfigurationError
from deploy.audit.request import AuditRequest, require

TimeUse = Literal["dynamics", "mean", "first"]
SAME = 1e-5
"""Relative difference of logits below which two computations are the same up to float32's rounding."""
_SCALES = (1.0, 3.0, 10.0)


class Behaviour(msgspec.Struct, frozen=True, kw_only=True):
    """A module's outside.

    Attributes:
        classes: Number of logits.
        time: `dynamics`, or a module without: it reads the `mean` over all frames, or the `first` frame only.
        notes: What the user should know of it.
    """

    classes: int
    time: TimeUse
    notes: tuple[str, ...]


def difference(a: Tensor, b: Tensor) -> float:
    """``‖a − b‖ / ‖b‖``, 0 for two zeros."""
    norm = float(b.norm())
    error = float((a - b).norm())
    return error / norm if norm else (0.0 if not error else float("inf"))


def observe(module: nn.Module, request: AuditRequest) -> Behaviour:
    """Calls the module on random frames.

    Raises:
        ConfigurationError: It raises, returns something else than finite logits, or keeps state between calls.
    """
    notes = _settle(module)
    generator = torch.Generator().manual_seed(0)
    shape = (request.steps, request.batch_size, *request.input_shape)
    frames = torch.rand(shape, generator=generator)
    logits = _called(module, frames, request)
    again = _called(module, frames, request)
    require(
        difference(again, logits) < SAME,
        f"--model {request.model}: the same frames gave other logits in a second call (relative difference "
        f"{difference(again, logits):.1e}, limit {SAME:.0e}): reset neuron states at the start of forward(), "
        "and draw no random numbers in it",
    )
    return Behaviour(classes=logits.shape[1], time=_time_use(module, frames), notes=tuple(notes))


def _settle(module: nn.Module) -> list[str]:
    """Training mode, as the client had it, but for dropout, whose draws nobody knows."""
    module.train()
    notes = []
    for name, part in module.named_modules():
        if isinstance(part, nn.modules.dropout._DropoutNd) and part.p > 0:  # noqa: SLF001 - their common class
            part.eval()
            notes.append(f"dropout {name!r} (p = {part.p:g}) is left out of simulations: its draws are not known")
        if isinstance(part, nn.modules.batchnorm._BatchNorm):  # noqa: SLF001
            notes.append(f"batch norm {name!r} is simulated with the batch's own statistics, as in training")
    return notes


def _called(module: nn.Module, frames: Tensor, request: AuditRequest) -> Tensor:
    steps, batch, *sides = frames.shape
    given = f"frames [{steps}, {batch}, {', '.join(map(str, sides))}]"
    try:
        with torch.no_grad():
            logits: Tensor = module(frames)
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        raise ConfigurationError(
            f"--model {request.model}: the module fails on {given} ({type(error).__name__}: {lines[0]}); check "
            "--input-shape, --steps and --batch-size, or wrap it so that it takes [T, B, *shape]"
        ) from error
    require(
        isinstance(logits, Tensor),
        f"--model {request.model}: the module returns a {type(logits).__name__} for {given}; logits [{batch}, classes] "
        "are expected: wrap it so that it returns, for instance, the readout's membrane averaged over time",
    )
    found = list(logits.shape)
    require(
        logits.ndim == 2 and found[0] == batch and found[1] >= 2,
        f"--model {request.model}: the module returns shape {found} for {given}; logits [{batch}, classes], at least "
        "two classes, are expected: wrap it so that it averages over time",
    )
    require(
        bool(logits.isfinite().all()),
        f"--model {request.model}: logits of random frames are not finite; check --weights",
    )
    return logits


def _time_use(module: nn.Module, frames: Tensor) -> TimeUse:
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


def once(module: nn.Module, request: AuditRequest) -> str:
    """Why the gradient cannot be differentiated by the input, as gradient matching must; empty when it can.

    A surrogate written as `torch.autograd.Function` whose backward leaves the graph is the usual cause.
    """
    shape = (request.steps, request.batch_size, *request.input_shape)
    frames = torch.rand(shape, generator=torch.Generator().manual_seed(2)).requires_grad_()
    parameters = [p for p in module.parameters() if p.requires_grad]
    try:
        loss = cross_entropy(module(frames), torch.zeros(request.batch_size, dtype=torch.long))
        first = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True, materialize_grads=True)
        torch.autograd.grad(torch.stack([g.square().sum() for g in first]).sum(), frames)
    except RuntimeError as error:
        return str(error).strip().splitlines()[0]
    return ""


def coupled(module: nn.Module, request: AuditRequest) -> bool:
    """Whether one sample's logits depend on the others in its batch, as with batch norm in training."""
    generator = torch.Generator().manual_seed(3)
    frames = torch.rand((request.steps, 2, *request.input_shape), generator=generator)
    other = frames.clone()
    other[:, 1] = 1 - other[:, 1]
    try:
        with torch.no_grad():
            return difference(module(frames)[0], module(other)[0]) > SAME
    except (RuntimeError, ValueError):
        return False  # a module made for one batch size
