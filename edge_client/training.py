"""How a device makes one update: draws, encodes, trains, and writes down what it took to rebuild the truth later."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from contract.datasets.cache import Samples
from contract.encodings import encode, input_shape
from contract.errors import ConfigurationError
from contract.messages import Operations, Seen
from contract.models.emissions import Emitted
from contract.models.operations import OperationCounter
from contract.streams import stream
from contract.task import EncodingSpec, RoundPlan, TaskSpec, task_hash
from edge_client import aligned
from edge_client.engine import Engine, Frames

Parameters = dict[str, NDArray[np.float32]]

LARGEST_FRAMES_BYTES = 16 * 1024 * 1024
"""Encoded input up to this size is made before the training window opens; more is made step by step inside it."""


class Shard(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """The samples that one device owns.

    Attributes:
        x: Samples `[N, *shape]`: intensities in [0, 1], levels, or event masks.
        y: Labels `[N]`.
        classes: Number of classes of the data set.
    """

    x: Samples
    y: NDArray[np.int64]
    classes: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return self.x.shape[1:]


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """From which the truth of one update can be rebuilt, given the shard.

    Attributes:
        uid: The update.
        round: Its round.
        task_hash: The task; decides the shard.
        draws: Positions in the shard, per local step.
        encoding_seeds: Seed of the encoding's generator, per local step.
        awaited: What is seen of the update and was not scored yet; with the last the receipt goes.
    """

    uid: str
    round: int
    task_hash: str
    draws: tuple[tuple[int, ...], ...]
    encoding_seeds: tuple[int, ...]
    awaited: tuple[Seen, ...] = ("update",)

    @property
    def samples(self) -> tuple[int, ...]:
        """Positions in the shard of all draws, in order; a sample's place here is its index within the update."""
        return tuple(position for draw in self.draws for position in draw)


class LocalUpdate(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What local training brought forth.

    Attributes:
        tensors: Mean gradient (`fedsgd`), or weights before minus weights after (`fedavg`).
        loss: Mean loss over the local steps.
        operations: Counted over all local steps; `None` for a network of the user's own, of one that diverged, or where
            nothing is counted.
        receipt: What was trained on.
        encoded_ahead: Whether all frames were made before the first local step.
    """

    tensors: Parameters
    loss: float
    operations: Operations | None
    receipt: Receipt
    encoded_ahead: bool

    @property
    def samples(self) -> int:
        """Samples drawn, with repetition."""
        return len(self.receipt.samples)


def update_stream(secret: int, purpose: str, node: str, round_: int, uid: str) -> np.random.Generator:
    """The draws of one update for one purpose: the same for the same secret, device, round and uid.

    The secret is the device's own. Everything else is public, so that draws from a public seed would let anyone
    repeat the encoding of an update and read the input off it.
    """
    return stream(secret, purpose, node, round_, uid)


def draw_batches(rng: np.random.Generator, samples: int, batch_size: int, steps: int) -> list[NDArray[np.int64]]:
    """Batches without replacement within an epoch.

    An epoch is one shuffle of the shard; its last samples are left out when they do not fill a batch, and the next
    epoch shuffles anew. A shard smaller than the batch makes the batch smaller.

    Args:
        rng: Draws the shuffles.
        samples: Size of the shard, at least 1.
        batch_size: Samples per batch wished for.
        steps: Number of batches.

    Returns:
        `steps` arrays of `min(batch_size, samples)` positions each.
    """
    size = min(batch_size, samples)
    per_epoch = samples // size
    batches: list[NDArray[np.int64]] = []
    while len(batches) < steps:
        order = rng.permutation(samples)[: per_epoch * size].astype(np.int64)
        batches.extend(order.reshape(per_epoch, size))
    return batches[:steps]


def make_receipt(
    task: TaskSpec,
    plan: RoundPlan,
    shard_size: int,
    *,
    secret: int,
    node: str,
    round_: int,
    uid: str,
    fellows: bool = False,
) -> Receipt:
    """Draws samples and encoding seeds of one update; `fellows`: whether one attacks successive models.

    Raises:
        ConfigurationError: The shard is empty.
    """
    if shard_size < 1:
        raise ConfigurationError(f"shard of device {node!r} is empty: use fewer 'shards' or another partition")
    rng = update_stream(secret, "batches", node, round_, uid)
    batches = draw_batches(rng, shard_size, plan.batch_size, plan.local_steps)
    seeds = rng.integers(0, 2**63, size=plan.local_steps)
    return Receipt(
        uid=uid,
        round=round_,
        task_hash=task_hash(task),
        draws=tuple(tuple(int(i) for i in batch) for batch in batches),
        encoding_seeds=tuple(int(seed) for seed in seeds),
        awaited=_awaited(plan, fellows=fellows),
    )


def _awaited(plan: RoundPlan, *, fellows: bool) -> tuple[Seen, ...]:
    together: tuple[Seen, ...] = () if plan.secure is None else ("aggregate",)
    return ("update", *together, *(("models",) if fellows and plan.applied and plan.secure is None else ()))


def encoded_steps(receipt: Receipt, shard: Shard, spec: EncodingSpec) -> Iterator[NDArray[np.float32]]:
    """The input frames of each local step, as they were and will always be for this receipt."""
    for draw, seed in zip(receipt.draws, receipt.encoding_seeds, strict=True):
        yield encode(spec, shard.x[list(draw)], np.random.default_rng(seed))


def true_frames(receipt: Receipt, shard: Shard, spec: EncodingSpec) -> NDArray[np.uint8]:
    """The spike frames that the update was made from, `[M, T, *shape]`, one sample for each draw."""
    steps = [np.moveaxis(frames, 1, 0).astype(np.uint8) for frames in encoded_steps(receipt, shard, spec)]
    return np.concatenate(steps)


def local_update(
    engine: Engine,
    params: Mapping[str, NDArray[np.float32]],
    *,
    task: TaskSpec,
    plan: RoundPlan,
    shard: Shard,
    receipt: Receipt,
    enter: Callable[[str], None] = lambda _phase: None,
    counted: bool = True,
) -> LocalUpdate:
    """Makes one update from the global model.

    FedSGD gives the mean gradient of one batch. FedAvg runs ``v ← m·v + g, w ← w − η·v`` with momentum m for
    `local_steps` steps (McMahan et al. 2017, arXiv 1602.05629) and gives the weights before minus the weights after.
    With `proximal` μ each step descends ``loss + μ/2·‖w − w₀‖²`` with the global model w₀, so that
    ``g = ∇loss + μ·(w − w₀)`` (FedProx, Li et al. 2020, arXiv 1812.06127); the loss reported is without that term.

    Args:
        engine: Computes the gradients.
        params: The global model; not changed.
        task: The task.
        plan: How to train.
        shard: The device's samples.
        receipt: Which samples and seeds to use, from `make_receipt`.
        enter: Called with `load`, `encode` and `train` as these phases begin.
        counted: Whether operations are counted; not, where it is measured what that costs.

    Returns:
        The update; its gradients may be non-finite when the model is.
    """
    enter("load")
    labels = [shard.y[list(draw)] for draw in receipt.draws]
    enter("encode")
    ahead = len(receipt.samples) * _sample_bytes(task.encoding, shard.shape) <= LARGEST_FRAMES_BYTES
    steps = _Counter(task, shard, counted=counted)
    frames: Iterable[Frames]
    if ahead:
        frames = _frames_ahead(receipt, shard, task.encoding, steps)
    else:
        frames = map(steps.given, encoded_steps(receipt, shard, task.encoding))
    enter("train")
    engine.emitted()  # of an update that was broken off
    run = _fedsgd if plan.algorithm == "fedsgd" else _fedavg
    tensors = run(engine, params, plan, zip(frames, labels, strict=True), steps)
    steps.passed(engine.emitted())
    loss = sum(steps.losses) / len(steps.losses)
    return LocalUpdate(
        tensors=tensors,
        loss=loss,
        operations=steps.operations if math.isfinite(loss) else None,
        receipt=receipt,
        encoded_ahead=ahead,
    )


def _sample_bytes(spec: EncodingSpec, shape: tuple[int, ...]) -> int:
    """Bytes that one encoded sample takes while it waits."""
    return (4 if spec.kind == "direct" else spec.steps) * math.prod(input_shape(spec, shape))


def _frames_ahead(receipt: Receipt, shard: Shard, spec: EncodingSpec, counter: _Counter) -> Frames:
    """Those of all local steps, counted, `[K, S, B, *shape]`; spikes as bytes, a quarter of the memory.

    Of levels under direct encoding the same are 0 as of the frames, in a quarter of the memory.
    """
    steps = len(receipt.draws)
    if spec.kind == "direct":  # where nothing is drawn, all steps are encoded at once
        drawn = shard.x[list(receipt.samples)]
        shape = (steps, 1, -1, *shard.shape)
        levels = drawn.dtype == np.uint8
        if levels:  # while they lie in the cache
            counter.given_together(cast("Frames", drawn).reshape(shape))
        whole = encode(spec, drawn, np.random.default_rng(0)).reshape(shape)
        return whole if levels else counter.given_together(whole)
    encoded = encoded_steps(receipt, shard, spec)
    first = next(encoded)
    frames = np.empty((steps, *first.shape), np.uint8)
    for place, step in zip(frames, itertools.chain([first], encoded), strict=True):
        place[...] = step
    return counter.given_together(frames)


class _Counter:
    """Losses and operations of the local steps."""

    def __init__(self, task: TaskSpec, shard: Shard, *, counted: bool = True) -> None:
        unknown = task.model.own is not None or not counted
        self._operations = (
            None if unknown else OperationCounter(task, input_shape(task.encoding, shard.shape), shard.classes)
        )
        self.losses: list[float] = []

    @property
    def operations(self) -> Operations | None:
        """What was counted; `None` for nothing, or where the network diverged."""
        return None if self._operations is None else self._operations.total()

    def given(self, frames: Frames) -> Frames:
        """Counts the frames of a step, in whichever phase they are made."""
        self.given_together(frames[np.newaxis])
        return frames

    def given_together(self, frames: Frames) -> Frames:
        """Counts those of several steps, `[K, S, B, *shape]`."""
        if self._operations is not None:
            self._operations.give_together(frames)
        return frames

    def step(
        self,
        engine: Engine,
        params: Mapping[str, NDArray[np.float32]],
        frames: Frames,
        labels: NDArray[np.int64],
    ) -> Parameters:
        result = engine.gradients(params, frames, labels)
        self.losses.append(result.loss)
        return result.gradients

    def passed(self, emitted: tuple[Emitted, ...]) -> None:
        """Counts what hidden layers emitted in these steps."""
        if self._operations is not None:
            for passes in emitted:
                self._operations.add(passes)


_Steps = Iterable[tuple[Frames, NDArray[np.int64]]]


def _fedsgd(
    engine: Engine, params: Mapping[str, NDArray[np.float32]], _plan: RoundPlan, steps: _Steps, counter: _Counter
) -> Parameters:
    (frames, labels) = next(iter(steps))
    gradients = counter.step(engine, params, frames, labels)
    return {name: np.array(gradient) for name, gradient in gradients.items()}  # which the engine writes again


def _fedavg(
    engine: Engine, params: Mapping[str, NDArray[np.float32]], plan: RoundPlan, steps: _Steps, counter: _Counter
) -> Parameters:
    """All in place: of each parameter the weights and, with momentum, their velocity are the only copies."""
    weights: Parameters = dict(params)  # arrays of its own from the first step on
    velocity: Parameters = {}
    rate, momentum, proximal = (np.float32(x) for x in (plan.learning_rate, plan.momentum, plan.proximal))
    for frames, labels in steps:
        for name, gradient in counter.step(engine, weights, frames, labels).items():
            here, moved, first = weights[name], gradient, weights[name] is params[name]
            if momentum and not first:
                moved = velocity[name]
                moved *= momentum
                moved += gradient
            if proximal:
                moved += proximal * (here - params[name])
            if momentum and first:
                velocity[name] = aligned.copied(moved)
            change = np.multiply(rate, moved, out=gradient)
            weights[name] = np.subtract(here, change, out=aligned.empty(here.shape) if first else here)
    return {name: np.subtract(params[name], weights[name], out=weights[name]) for name in weights}
