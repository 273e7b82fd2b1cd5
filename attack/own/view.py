"""A user's network as the attacker of a run sees it: from its own copy of the file, or from the task's names alone."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

import msgspec
import torch

from attack.module_network import ModuleNetwork
from attack.own.behaviour import coupled, once, time_use
from attack.own.outline import aliases, outline
from attack.own.tracing import trace
from contract.errors import ConfigurationError
from contract.models.layout import parameter_shapes
from contract.models.own import UserNetwork, user_network
from contract.task import TaskSpec, task_hash

log = logging.getLogger(__name__)

NO_FILE = "the network is the user's own, and this attacker was not given its file: set model = 'FILE.py:FACTORY'"
_BATCH = 2


class OwnView(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What the attacks are told of a user's network.

    Attributes:
        names: The network's name of each parameter by the attacks' name; first layer first, readout last.
        network: To simulate it; `None` without the file.
        first_bias: The attacks' name of the first layer's bias where that layer is fully connected and has none.
        unknown: Why it cannot be simulated; empty when it can.
    """

    names: Mapping[str, str]
    network: ModuleNetwork | None = None
    first_bias: str | None = None
    unknown: str = ""


class OwnViews:
    """The views of the tasks that this attacker meets.

    Args:
        spec: `FILE.py:FACTORY`, a copy of the server's file on this machine; code never comes over the network.
    """

    def __init__(self, spec: str | None) -> None:
        self._spec = spec
        self._held: dict[str, OwnView] = {}

    def of(self, task: TaskSpec, shape: tuple[int, ...], classes: int) -> OwnView | None:
        """The view of a task's network; `None` when the task itself describes it."""
        if task.model.own is None:
            return None
        key = task_hash(task)
        if key not in self._held:
            self._held[key] = self._made(task, shape, classes)
            if self._held[key].unknown:
                log.warning("%s", self._held[key].unknown)
        return self._held[key]

    def _made(self, task: TaskSpec, shape: tuple[int, ...], classes: int) -> OwnView:
        reason = NO_FILE
        if self._spec is not None:
            try:
                loaded, _ = user_network(self._spec, task, shape, classes, named=f"model = {self._spec!r}")
                return _simulated(loaded, shape, classes)
            except ConfigurationError as error:
                reason = str(error)
        return OwnView(names=_guessed(parameter_shapes(task, shape, classes), shape, classes), unknown=reason)


def _simulated(loaded: UserNetwork, shape: tuple[int, ...], classes: int) -> OwnView:
    module, steps = loaded.module, loaded.steps
    frames = torch.rand((steps, _BATCH, *shape), generator=torch.Generator().manual_seed(1))
    trained = tuple(loaded.trained)
    seen = outline(module, trace(module, frames), trained, shape=shape, steps=steps, classes=classes)
    names = aliases(trained, seen)
    first = next(iter(names)).rpartition(".")[0] if seen.dense else None
    network = ModuleNetwork(
        module,
        names=names,
        steps=steps,
        first=first,
        reason="this one is a user's own, which can only be simulated",
        timeless=time_use(module, frames) != "dynamics",
        tells_labels=seen.readout is not None,
        once=once(module, shape=shape, steps=steps, batch=_BATCH),
        coupled=coupled(module, shape=shape, steps=steps),
    )
    lacking = f"{first}.bias" if first is not None and seen.first_bias is None else None
    return OwnView(names=names, network=network, first_bias=lacking)


def _guessed(shapes: Mapping[str, tuple[int, ...]], shape: tuple[int, ...], classes: int) -> dict[str, str]:
    """The first layer whose weights fit a sample is put first, the last one with a row for each class last."""
    layers = [name.rpartition(".")[0] for name in shapes if name.endswith(".weight")]
    weights = {layer: shapes[f"{layer}.weight"] for layer in layers}
    takes = {2: math.prod(shape), 4: shape[0]}
    first = next((layer for layer, s in weights.items() if len(s) > 1 and s[1] == takes.get(len(s))), None)
    last = next((layer for layer, s in reversed(weights.items()) if s[0] == classes and layer != first), None)
    order = {first: -1, last: 1}
    return {name: name for name in sorted(shapes, key=lambda name: order.get(name.rpartition(".")[0], 0))}
