"""What an audited module does, seen from outside: does it run, is it a function, does it use time."""

from __future__ import annotations

import msgspec
import torch
from torch import Tensor, nn

from attack.own.behaviour import TimeUse, difference, time_use
from contract.errors import ConfigurationError
from contract.models.own import SAME
from deploy.audit.request import AuditRequest, require


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
    return Behaviour(classes=logits.shape[1], time=time_use(module, frames), notes=tuple(notes))


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
