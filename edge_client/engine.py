"""What computes a gradient on a device: one Protocol and one dict of lazy factories."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Protocol, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from contract.errors import ConfigurationError
from contract.models.emissions import Emitted
from contract.task import TaskSpec

Frames = NDArray[np.float32] | NDArray[np.uint8]


class StepResult(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One forward and backward pass. Its arrays are the caller's to change, until the engine's next pass.

    Attributes:
        loss: Mean loss over the batch.
        gradients: Gradient of that mean, per parameter, in the parameter's shape.
    """

    loss: float
    gradients: dict[str, NDArray[np.float32]]


class Engine(Protocol):
    """Computes gradients of one task's network.

    Attributes:
        name: Its key in `ENGINES`; what says more of where it computes follows in brackets.
    """

    name: str

    def gradients(
        self, params: Mapping[str, NDArray[np.float32]], frames: Frames, labels: NDArray[np.int64]
    ) -> StepResult:
        """Gradient of the mean loss of one batch.

        Args:
            params: The network's parameters; not changed.
            frames: Encoded input `[T, B, *shape]`, or `[1, B, *shape]` standing for all T steps; spikes may be bytes.
            labels: Class of each sample `[B]`.
        """
        ...

    def emitted(self) -> tuple[Emitted, ...]:
        """What hidden layers emitted in all passes since this was last asked; of a user's own network, without counts.

        Its arrays are written again by the next pass.
        In a step it costs next to nothing: the engine adds up where it computes.
        """
        ...


Graphs = Mapping[str, bytes]
"""ONNX graphs of the task by name, as the server published them."""
EngineFactory = Callable[[TaskSpec, tuple[int, ...], int, int, Graphs], Engine]


class EngineKind(msgspec.Struct, frozen=True, kw_only=True):
    """How an engine is come by.

    Attributes:
        factory: Takes task, sample shape, number of classes, threads and graphs; imports the library.
        needs: Names of the graphs that it must be given.
        check: Refuses a task that it can never run, or a machine that lacks what it needs; `None` where the factory
            says all.
    """

    factory: EngineFactory
    needs: tuple[str, ...] = ()
    check: Callable[[TaskSpec | None], None] | None = None


def _onnx(task: TaskSpec, shape: tuple[int, ...], classes: int, threads: int, graphs: Graphs) -> Engine:
    module = importlib.import_module("edge_client.engines.onnx")
    return cast("Engine", module.OnnxEngine(task, shape, classes, graphs, threads=threads))


def _torch(task: TaskSpec, shape: tuple[int, ...], classes: int, threads: int, _graphs: Graphs) -> Engine:
    module = importlib.import_module("edge_client.engines.torch")
    return cast("Engine", module.TorchEngine(task, shape, classes, threads=threads))


def _loihi(task: TaskSpec, shape: tuple[int, ...], classes: int, threads: int, graphs: Graphs) -> Engine:
    module = importlib.import_module("edge_client.engines.loihi")
    return cast("Engine", module.LoihiEngine(task, shape, classes, graphs, threads=threads))


def _check_loihi(task: TaskSpec | None) -> None:
    module = importlib.import_module("edge_client.engines.loihi")
    if task is not None:
        module.check_task(task)
    module.found_lava()


ENGINES: dict[str, EngineKind] = {
    "onnx": EngineKind(factory=_onnx, needs=("training",)),
    "torch": EngineKind(factory=_torch),
    "loihi": EngineKind(factory=_loihi, needs=("training",), check=_check_loihi),
}
"""Every engine by name."""


def open_engine(
    name: str,
    task: TaskSpec,
    shape: tuple[int, ...],
    classes: int,
    *,
    threads: int = 1,
    graphs: Graphs = MappingProxyType({}),
) -> Engine:
    """The engine of a name, built for one task.

    Args:
        name: A key of `ENGINES`.
        task: Decides the network.
        shape: Shape of one sample.
        classes: Number of classes.
        threads: CPU threads, at least 1.
        graphs: At least those that `ENGINES[name].needs` names.

    Raises:
        ConfigurationError: No such engine, its library is not installed here, or a graph that it needs is not there
            or not one of this task.
    """
    check_engine(name)
    if absent := [graph for graph in ENGINES[name].needs if graph not in graphs]:
        raise ConfigurationError(lacking(name, absent))
    try:
        return ENGINES[name].factory(task, shape, classes, threads, graphs)
    except ImportError as error:
        raise ConfigurationError(
            f"engine = {name!r} cannot be loaded here ({error}): install its library, or set another engine"
        ) from error


def lacking(name: str, absent: Iterable[str]) -> str:
    """What to tell a user whose server does not publish what an engine needs."""
    return (
        f"engine = {name!r} needs the task's {' and '.join(absent)} graph, which the server does not publish: "
        "set export = true for the server, or engine = 'torch' for the device"
    )


def check_engine(name: str, task: TaskSpec | None = None) -> None:
    """Refuses a name that is not in `ENGINES`, and what can be known not to work before anything is opened.

    Args:
        name: The engine.
        task: What it shall run, where that is known already.

    Raises:
        ConfigurationError: Lists the engines that there are, or says what the engine lacks.
    """
    if name not in ENGINES:
        raise ConfigurationError(f"engine = {name!r}: there is no such engine; choose one of {', '.join(ENGINES)}")
    check = ENGINES[name].check
    if check is not None:
        check(task)
