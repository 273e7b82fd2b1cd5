"""`make bench`: ratios of medians of pairs taken in one run; no absolute claim outlives the machine."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from attack.optimisation.candidates import Candidates
from attack.optimisation.objectives import OBJECTIVES, relative_square
from contract.codecs import CODECS, buffer_view
from contract.encodings import encode
from contract.models.layout import initial_parameters
from contract.models.network import Network
from contract.models.reference import SteppingNetwork
from contract.task import EncodingSpec, ModelSpec, TaskSpec
from tests.benchmarks import breaching, fleet, flower, footprint, literature
from tests.benchmarks.board import report_client
from tests.science.image_updates import observe, task_of

SHAPE, CLASSES = (1, 28, 28), 10


def pairs(
    first: Callable[[], object], second: Callable[[], object], *, repeats: int = 30
) -> tuple[float, float, float]:
    """Median processor milliseconds of both, run in turn, and the median of the pairs' ratios first / second."""
    for _ in range(3):
        first()
        second()
    taken: list[tuple[float, float]] = []
    for _ in range(repeats):
        times = []
        for work in (first, second):
            began = time.process_time()
            work()
            times.append(1e3 * (time.process_time() - began))
        taken.append((times[0], times[1]))
    firsts, seconds = zip(*taken, strict=True)
    return [statistics.median(firsts), statistics.median(seconds), statistics.median(a / b for a, b in taken)]


def training_step(steps: int, batch: int, kind: str) -> None:
    """One forward and backward pass: snntorch stepped in Python against the layer-wise network."""
    task = TaskSpec(encoding=EncodingSpec(kind=kind, steps=steps), model=ModelSpec(weight_bits=None))
    start = initial_parameters(task, SHAPE, CLASSES)
    parameters = {name: torch.from_numpy(value.copy()).requires_grad_() for name, value in start.items()}
    rng = np.random.default_rng(1)
    frames = torch.from_numpy(np.ascontiguousarray(encode(task.encoding, rng.random((batch, *SHAPE), np.float32), rng)))
    labels = torch.from_numpy(rng.integers(0, CLASSES, batch))
    ours, theirs = Network(task, SHAPE, CLASSES), SteppingNetwork(task, SHAPE, CLASSES)
    stepped = frames.expand(steps, *frames.shape[1:])

    def gradient_of(logits: torch.Tensor, leaves: list[torch.Tensor]) -> object:
        return torch.autograd.grad(torch.nn.functional.cross_entropy(logits, labels), leaves)

    slow, fast, ratio = pairs(
        lambda: gradient_of(theirs(stepped), list(theirs.parameters())),
        lambda: gradient_of(ours(parameters, frames), list(parameters.values())),
    )
    case = f"training step {kind:6} T={steps:3} B={batch:2}"
    print(f"{case}: snntorch {slow:7.2f} ms, layer-wise {fast:7.2f} ms, {ratio:5.1f}×")


def codecs() -> None:
    """Throughput of each codec in fp32 megabytes a second, both ways, against a plain copy of the same array."""
    x = np.random.default_rng(1).standard_normal(1_250_000).astype(np.float32)
    for name, codec in CODECS.items():
        rng = np.random.default_rng(2)
        buffer, scale = codec.encode(x, rng)
        packed = buffer_view(np.array(buffer))
        copy_ms, encode_ms, to = pairs(x.copy, lambda codec=codec, rng=rng: codec.encode(x, rng), repeats=15)
        _, decode_ms, back = pairs(
            x.copy,
            lambda codec=codec, packed=packed, scale=scale: codec.decode(packed, x.shape, scale),
            repeats=15,
        )
        print(
            f"codec {name:7}: {packed.nbytes / x.nbytes:6.2%} of fp32, encode {_rate(x, encode_ms)}, decode "
            f"{_rate(x, decode_ms)} MB/s of fp32; a plain copy takes {to:.2f} and {back:.2f} of their time "
            f"({copy_ms:.2f} ms)"
        )


def _rate(x: np.ndarray, milliseconds: float) -> str:
    rate = x.nbytes / 1e3 / milliseconds
    return f"{rate:6.0f}" if rate < 1e5 else " a view"


def restarts() -> None:
    """Gradient evaluations of matching: restarts in one tensor against one after the other."""
    for name, options in {
        "fc ann": {"family": "ann"},
        "fc snn direct": {},
        "fc snn rate T=8": {"encoding": "rate", "steps": 8},
        "conv snn T=10": {"kind": "conv", "channels": (12,), "hidden": ()},
    }.items():
        for count in (1, 4, 8, 16):
            one, all_at_once, ratio = pairs(*matched(options, count), repeats=10)
            print(
                f"matching {name:15} R={count:2}: plain gradients {1e3 * count / one:5.0f}/s, "
                f"rows of all restarts {1e3 * count / all_at_once:5.0f}/s, {ratio:4.1f}×"
            )


def matched(options: dict[str, object], count: int) -> tuple[Callable[[], object], Callable[[], object]]:
    """An evaluation of the relative square and its derivative for `count` candidates: plain gradients, and rows."""
    rng = np.random.default_rng(0)
    x, labels = rng.random((1, *SHAPE), np.float32), rng.integers(0, CLASSES, 1)
    observation, _ = observe(task_of(**options), x, labels)
    candidates, y = Candidates(observation, dtype=torch.float64), torch.from_numpy(labels)
    simulator = candidates.simulator
    frames = torch.from_numpy(rng.random((count, simulator.steps, 1, *SHAPE))).requires_grad_()

    def plain() -> object:
        found = [simulator.gradients(restart, y, create_graph=True) for restart in frames]
        losses = torch.stack([relative_square(gradient, simulator.target) for gradient in found])
        return torch.autograd.grad(losses.sum(), frames)

    def rows() -> object:
        return torch.autograd.grad(OBJECTIVES["relative_square"](candidates.compare(frames, y)).sum(), frames)

    return plain, rows


def main() -> None:
    """Runs all benchmarks on one thread."""
    torch.set_num_threads(1)
    for steps, batch in ((10, 1), (25, 1), (10, 32), (25, 32), (100, 8)):
        training_step(steps, batch, "rate")
    training_step(25, 32, "direct")
    codecs()
    restarts()
    report_client(Path(sys.executable), 3)
    breaching.main([])
    footprint.main([])
    fleet.main([])
    flower.main([])
    literature.main(["ann-sigmoid", "snn-atan", "--seeds", "2", "--budget", "2"])


if __name__ == "__main__":
    main()
