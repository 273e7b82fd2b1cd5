"""What counting operations costs a device: the same training step with the counter and without, in turn.

`python -m tests.benchmarks.counter [SECONDS]`. A step is what a device does for each batch: the graph's gradients and,
for `fedavg`, the SGD update of the weights; the frames were encoded, and counted, ahead. Without the counter the graph
does not put out what its layers emitted.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import numpy as np

from contract.models.layout import initial_parameters
from contract.models.operations import OperationCounter
from contract.task import EncodingSpec, ModelSpec, TaskSpec
from edge_client.engines.onnx import OnnxEngine
from server.graphs.assembly import training_model

SHAPE, CLASSES = (1, 28, 28), 10
CASES: dict[str, tuple[str, str, int, int]] = {
    "fc rate T=10 B=1": ("fc", "rate", 10, 1),
    "fc rate T=10 B=16": ("fc", "rate", 10, 16),
    "fc rate T=25 B=32": ("fc", "rate", 25, 32),
    "fc direct T=10 B=16": ("fc", "direct", 10, 16),
    "conv rate T=10 B=1": ("conv", "rate", 10, 1),
    "conv rate T=10 B=16": ("conv", "rate", 10, 16),
    "ann B=1": ("ann", "direct", 1, 1),
    "ann B=16": ("ann", "direct", 1, 16),
}
SECONDS = 4.0
RATE, MOMENTUM = np.float32(0.1), np.float32(0.9)


def task_of(kind: str, encoding: str, steps: int) -> TaskSpec:
    """784-256-10, or 8 and 16 channels before the readout; float weights."""
    family = "ann" if kind == "ann" else "snn"
    layers = {"kind": "conv", "hidden": ()} if kind == "conv" else {"hidden": (256,)}
    return TaskSpec(
        encoding=EncodingSpec(kind=encoding, steps=steps), model=ModelSpec(family=family, weight_bits=None, **layers)
    )


class Step:
    """One local step of a device, with or without the counter."""

    def __init__(self, task: TaskSpec, batch: int, *, counted: bool, update: bool) -> None:
        graph = training_model(task, SHAPE, CLASSES, counted=counted).SerializeToString()
        self.engine = OnnxEngine(task, SHAPE, CLASSES, {"training": graph})
        self.counter = OperationCounter(task, SHAPE, CLASSES) if counted else None
        self.weights = initial_parameters(task, SHAPE, CLASSES)
        self.velocity = {name: np.zeros_like(value) for name, value in self.weights.items()}
        self.update = update
        self.counting_ns = 0
        rng = np.random.default_rng(1)
        steps = 1 if task.encoding.kind == "direct" else task.encoding.steps
        self.at_rest = (rng.random((steps, batch, *SHAPE)) < 0.2).astype(np.uint8 if steps > 1 else np.float32)
        self.labels = rng.integers(0, CLASSES, batch)

    def __call__(self) -> None:
        frames = self.at_rest.astype(np.float32, copy=False)
        found = self.engine.gradients(self.weights, frames, self.labels)
        began = time.process_time_ns()  # in both arms: the clock is a call of the system
        if self.counter is not None:
            self.counter.add(len(self.labels), found.emitted)
        self.counting_ns += time.process_time_ns() - began
        if self.update:
            for name, gradient in found.gradients.items():
                self.velocity[name] *= MOMENTUM
                self.velocity[name] += gradient
                self.weights[name] -= RATE * self.velocity[name] * np.float32(0)


def measured(with_it: Callable[[], None], without: Callable[[], None], seconds: float) -> tuple[float, float, float]:
    """Median processor milliseconds of both, and the median of the pairs' ratios; the order alternates."""
    works = (with_it, without)
    for work in works * 5:
        work()
    taken: list[tuple[float, float]] = []
    until = time.monotonic() + seconds
    while time.monotonic() < until or len(taken) < 15:
        times = [0.0, 0.0]
        for which in (0, 1) if len(taken) % 2 else (1, 0):
            began = time.process_time_ns()
            works[which]()
            times[which] = (time.process_time_ns() - began) / 1e6
        taken.append((times[0], times[1]))
    ons, offs = zip(*taken, strict=True)
    return statistics.median(ons), statistics.median(offs), statistics.median(a / b for a, b in taken)


def main(seconds: float = SECONDS) -> None:
    """Prints a line per case: the gradient alone, and the device's whole step."""
    for name, (kind, encoding, steps, batch) in CASES.items():
        task = task_of(kind, encoding, steps)
        for what, update in (("gradient alone", False), ("gradient and SGD", True)):
            counted, plain, other = (Step(task, batch, counted=c, update=update) for c in (True, False, False))
            began = time.process_time_ns()
            on, off, ratio = measured(counted, plain, seconds)
            share = counted.counting_ns / ((time.process_time_ns() - began) / 2 - counted.counting_ns)
            _, _, control = measured(other, plain, seconds / 2)
            print(
                f"{name:20} {what:16}: {on:7.3f} ms counted, {off:7.3f} ms not, median of pairs {ratio - 1:+.1%} "
                f"(two alike without it {control - 1:+.1%}); the counter's own time {share:.1%}",
                flush=True,
            )


if __name__ == "__main__":
    main(*map(float, sys.argv[1:2]))
