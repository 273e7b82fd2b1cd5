"""What counting operations costs a device: the same training with the counter and without, in turn.

`python -m tests.benchmarks.counter [SECONDS] [CASE ...]`. Two lines a case: the device's local training, whole,
by its own code (batches encoded, gradients, SGD with momentum), of which at most 3 % may be the counter's; and the
graph's gradients alone, of frames that were encoded and counted ahead, which tells where it comes from. Without the
counter the graph does not add up what its layers emitted. What is done once an update shows in the first line alone.

Three arms take turns in changing order: with the counter, without, and once more without, whose difference from the
second is what this machine cannot tell apart. A turn is several steps in a row after one (of local training: twenty)
that is not timed, in processor time. All arms are made anew several times, since where their memory happens to
lie makes a difference of its own. Given is the median of the turns' ratios with the 95 % interval of a bootstrap over
those lives and the turns in each.
"""

from __future__ import annotations

import functools
import itertools
import sys
import time
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from contract.models.layout import initial_parameters
from contract.task import EncodingSpec, ModelSpec, RoundPlan, TaskSpec
from edge_client.engines.onnx import OnnxEngine
from edge_client.training import Shard, local_update, make_receipt
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
SECONDS = 8.0
LIVES = 24
"""So often the arms are made anew, in changing order."""
TURN_S, LONGEST = 5e-3, 64
"""A turn takes about as long, and at most so many steps."""
MOST = 0.03
"""The counter may slow a step by this part."""
LOCAL_STEPS = 20


def task_of(kind: str, encoding: str, steps: int) -> TaskSpec:
    """784-256-10, or 8 and 16 channels before the readout; float weights."""
    family = "ann" if kind == "ann" else "snn"
    layers = {"kind": "conv", "hidden": ()} if kind == "conv" else {"hidden": (256,)}
    return TaskSpec(
        encoding=EncodingSpec(kind=encoding, steps=steps), model=ModelSpec(family=family, weight_bits=None, **layers)
    )


class Step:
    """The gradients of one local step, with or without the counter."""

    steps = 1

    def __init__(self, task: TaskSpec, batch: int, *, counted: bool) -> None:
        graph = training_model(task, SHAPE, CLASSES, counted=counted).SerializeToString()
        self.engine = OnnxEngine(task, SHAPE, CLASSES, {"training": graph})
        self.weights = initial_parameters(task, SHAPE, CLASSES)
        rng = np.random.default_rng(1)
        steps = 1 if task.encoding.kind == "direct" else task.encoding.steps
        self.at_rest = (rng.random((steps, batch, *SHAPE)) < 0.2).astype(np.uint8 if steps > 1 else np.float32)
        self.labels = rng.integers(0, CLASSES, batch)

    def __call__(self) -> None:
        self.engine.gradients(self.weights, self.at_rest, self.labels)


class Training:
    """A device's local training of `LOCAL_STEPS` steps, with or without the counter."""

    steps = LOCAL_STEPS

    def __init__(self, task: TaskSpec, batch: int, *, counted: bool) -> None:
        graph = training_model(task, SHAPE, CLASSES, counted=counted).SerializeToString()
        engine, weights = (
            OnnxEngine(task, SHAPE, CLASSES, {"training": graph}),
            initial_parameters(task, SHAPE, CLASSES),
        )
        plan = RoundPlan(local_steps=LOCAL_STEPS, batch_size=batch, learning_rate=1e-3, momentum=0.9)
        rng = np.random.default_rng(1)
        images = np.where(rng.random((256, *SHAPE)) < 0.2, rng.integers(1, 256, (256, *SHAPE)), 0).astype(np.uint8)
        shard = Shard(x=images, y=rng.integers(0, CLASSES, 256), classes=CLASSES)
        receipt = make_receipt(task, plan, 256, secret=1, node="a", round_=1, uid="0" * 32)
        given = {"task": task, "plan": plan, "shard": shard, "receipt": receipt, "counted": counted}
        self._train = functools.partial(local_update, engine, weights, **given)

    def __call__(self) -> None:
        self._train()


class Interval(msgspec.Struct, frozen=True):
    """A median of ratios less 1, and the ends of its 95 % interval."""

    middle: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.middle:+.1%} [{self.low:+.1%}, {self.high:+.1%}]"


def _milliseconds(work: Callable[[], None], times: int) -> float:
    """Processor time of one, from so many in a row."""
    began = time.process_time_ns()
    for _ in range(times):
        work()
    return (time.process_time_ns() - began) / 1e6 / times


def turns(works: Sequence[Callable[[], None]], seconds: float) -> NDArray[np.float64]:
    """Milliseconds of one step in each turn, `[turns, works]`; a whole number of times through all orders."""
    for work in works:
        work()
    together = max(1, min(LONGEST, round(TURN_S * 1e3 / _milliseconds(works[-1], 3))))
    orders = list(itertools.permutations(range(len(works))))
    taken: list[list[float]] = []
    until = time.monotonic() + seconds
    while time.monotonic() < until or not taken:
        for order in orders:
            times = [0.0] * len(works)
            for which in order:
                works[which]()
                times[which] = _milliseconds(works[which], together)
            taken.append(times)
    return np.array(taken)


def interval(ratios: Sequence[NDArray[np.float64]], resamples: int = 2000) -> Interval:
    """Of the median over all lives' turns: lives are drawn with replacement, and turns within each drawn life."""
    rng = np.random.default_rng(0)
    medians = []
    for _ in range(resamples):
        drawn = [ratios[i] for i in rng.integers(0, len(ratios), len(ratios))]
        medians.append(np.median(np.concatenate([rng.choice(life, len(life)) for life in drawn])))
    low, high = np.percentile(medians, (2.5, 97.5))
    return Interval(float(np.median(np.concatenate(ratios))) - 1, float(low) - 1, float(high) - 1)


def measured(kind: type[Step | Training], task: TaskSpec, batch: int, seconds: float) -> tuple[str, Interval]:
    """A line on one case, and what the counter costs in it."""
    lives, orders = [], list(itertools.permutations(range(3)))
    for life in range(LIVES):
        made = {arm: kind(task, batch, counted=arm == 0) for arm in orders[life % len(orders)]}
        lives.append(turns([made[arm] for arm in range(3)], seconds / LIVES))
    cost, alike = (interval([life[:, arm] / life[:, 1] for life in lives]) for arm in (0, 2))
    plain_ms = float(np.median(np.concatenate(lives)[:, 1])) / kind.steps
    return f"{plain_ms:7.3f} ms, counted {cost}; alike {alike}; {sum(map(len, lives))} turns", cost


def main(seconds: float = SECONDS, *names: str) -> int:
    """Prints two lines a case; in how many of the local trainings the counter costs more than it may."""
    above = 0
    for name in names or CASES:
        kind, encoding, steps, batch = CASES[name]
        task = task_of(kind, encoding, steps)
        line, cost = measured(Training, task, batch, seconds)
        above += cost.middle > MOST
        print(f"{name:20} local training: {line}", flush=True)
        print(f"{name:20} gradients     : {measured(Step, task, batch, seconds)[0]}", flush=True)
    print(f"local training: {above} of {len(names or CASES)} above {MOST:.0%}")
    return above


if __name__ == "__main__":
    sys.exit(main(*map(float, sys.argv[1:2]), *sys.argv[2:]) > 0)
