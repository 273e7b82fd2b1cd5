"""Known work for a calibration: training steps of several shapes, timed against a meter."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import msgspec
import numpy as np

from contract.models.layout import initial_parameters
from contract.models.operations import OperationCounter
from contract.task import EncodingSpec, ModelSpec, TaskSpec
from edge_client.engine import open_engine
from hardware.calibration import Window
from hardware.meter import Meter
from server.export import training_graph

REPEATS = 3
_CLASSES = 10
COUNTED = ("macs", "acs", "membrane_updates", "backward_macs", "memory_bytes")
"""Fields of `Operations` in the order of `hardware.profile.OPERATIONS`."""


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of work: a network, a batch and how many of its inputs spike.

    Attributes:
        inputs: Width of the input.
        hidden: Widths of the hidden layers.
        steps: T; 0 for the ANN.
        batch: Samples.
        rate: Share of the input that is not 0.
    """

    inputs: int
    hidden: tuple[int, ...]
    steps: int
    batch: int
    rate: float

    @property
    def task(self) -> TaskSpec:
        """Its task, with float weights."""
        snn = self.steps > 0
        return TaskSpec(
            encoding=EncodingSpec(kind="rate" if snn else "direct", steps=max(1, self.steps)),
            model=ModelSpec(family="snn" if snn else "ann", hidden=self.hidden, weight_bits=None, activation="relu"),
        )


SHAPES: dict[str, Shape] = {
    "wide ANN, one sample": Shape(inputs=784, hidden=(256,), steps=0, batch=1, rate=1.0),
    "wide ANN, 32 samples": Shape(inputs=784, hidden=(256,), steps=0, batch=32, rate=1.0),
    "sparse SNN, one sample": Shape(inputs=784, hidden=(256,), steps=10, batch=1, rate=0.05),
    "sparse SNN, 32 samples": Shape(inputs=784, hidden=(256,), steps=10, batch=32, rate=0.05),
    "dense SNN, 32 samples": Shape(inputs=784, hidden=(256,), steps=10, batch=32, rate=0.9),
    "many neurons, few weights": Shape(inputs=4, hidden=(4096,), steps=10, batch=8, rate=0.5),
    "deep SNN, 8 samples": Shape(inputs=128, hidden=(256, 256), steps=20, batch=8, rate=0.3),
}
"""Shapes of which no operation is a fixed multiple of others."""


class Work:
    """Training steps of one shape over random input."""

    def __init__(self, shape: Shape) -> None:
        task, self._size = shape.task, (shape.inputs,)
        graphs = {"training": training_graph(task, self._size, _CLASSES)}
        self._engine = open_engine("onnx", task, self._size, _CLASSES, graphs=graphs)
        self._params = {name: 3 * value for name, value in initial_parameters(task, self._size, _CLASSES).items()}
        rng = np.random.default_rng(1)
        given = rng.random((max(1, shape.steps), shape.batch, *self._size), dtype=np.float32)
        self._frames = (given < shape.rate).astype(np.float32)
        self._labels = rng.integers(0, _CLASSES, shape.batch)
        counter = OperationCounter(task, self._size, _CLASSES)
        counter.give(self._frames)
        self.step()
        for passes in self._engine.emitted():
            counter.add(passes)
        self.counts = tuple(getattr(counter.total(), name) for name in COUNTED)
        """Operations of one step: the same for each, as nothing is trained."""

    def step(self) -> None:
        """One forward and backward pass."""
        self._engine.gradients(self._params, self._frames, self._labels)


class Bench:
    """Times work against a meter.

    Args:
        meter: The meter, open.
        clock: Monotonic seconds.
        rest: Lets seconds pass without work.
        work: Makes the work of a shape.
    """

    def __init__(
        self,
        meter: Meter,
        *,
        clock: Callable[[], float] = time.monotonic,
        rest: Callable[[float], None] = time.sleep,
        work: Callable[[Shape], Work] = Work,
    ) -> None:
        self._meter, self._clock, self._rest, self._work = meter, clock, rest, work
        self.faults: list[str] = []

    def windows(self, window_s: float, repeats: int = REPEATS) -> Iterator[tuple[str, Window]]:
        """Rest and every shape in turn, so often; windows that the meter cannot tell are left out and kept as faults.

        Args:
            window_s: Length of each.
            repeats: Rounds.
        """
        works = {name: self._work(shape) for name, shape in SHAPES.items()}
        self._meter.start()
        for _ in range(repeats):
            for name in ("rest", *works):
                self._meter.read()
                steps = self._spend(works.get(name), window_s)
                reading = self._meter.read()
                if reading.energy_j is None or reading.duration_s <= 0:
                    self.faults.append(reading.reason)
                    continue
                counts = works[name].counts if name in works else (0,) * len(COUNTED)
                counted = tuple(steps * count for count in counts)
                yield name, Window(energy_j=reading.energy_j, duration_s=reading.duration_s, counts=counted)

    def _spend(self, work: Work | None, window_s: float) -> int:
        if work is None:
            self._rest(window_s)
            return 0
        until_s, steps = self._clock() + window_s, 0
        while self._clock() < until_s:
            work.step()
            steps += 1
        return steps
