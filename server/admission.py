"""Which updates enter the ledger as admitted, and why the others do not. Pure: no I/O, no clock.

Checks run from the cheapest to the dearest; the first that fails gives the refusal. Its code is one of `CODES`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from contract.codecs import decode_tensors
from contract.errors import WireError
from contract.masking import CODEC as MASKED
from contract.masking import read_masked
from contract.messages import Update, unpack
from contract.pipeline import euclidean_norm
from contract.task import RoundPlan
from contract.topics import Topic
from server.settings import AdmissionSettings

CODES: dict[str, str] = {
    "size": "the object is larger than an update of this task can be",
    "schema": "the object does not follow the schema of an update",
    "node": "node, uid or round in the object are not those of the topic",
    "task": "another task",
    "future": "its round has not been opened yet",
    "closed": "its round is closed",
    "uninvited": "the device was not asked for this round",
    "plan": "made by another plan than the round's",
    "model": "made from another version of the model",
    "stale": "made from a model that is too many versions old, in an asynchronous round",
    "masks": "its masks are not those of the present opening of its round",
    "epoch": "made in a life of the device before its last birth",
    "second": "the device has an admitted update in this round already, or one that waits for its version",
    "tensors": "names, shapes or codec of the tensors are not the model's",
    "samples": "more samples than the plan's steps and batch can draw",
    "finite": "a value is not finite",
    "norm": "the Euclidean norm is over the bound",
}
"""Every refusal code and what it says."""

LARGEST_COUNT = 2**53


class Expected(msgspec.Struct, frozen=True, kw_only=True):
    """What an update is held against: a view of the server's state at this moment.

    Attributes:
        round: The current round; 0 before the first.
        open: Whether it takes updates.
        plan, model_version, invited: Of the open round.
        shapes: Parameter shapes of the task by name.
        births: Last known epoch of each device.
        delivered: Devices with an admitted update in the open round; in an asynchronous one, which takes more, those
            that are to wait for the version with theirs.
        max_staleness: Versions that an update's model may be behind.
        attempt: Opening of a round with secure aggregation; 0 in others.
        members: Devices whose masks cancel in it.
    """

    task_hash: str
    shapes: Mapping[str, tuple[int, ...]]
    settings: AdmissionSettings = AdmissionSettings()
    round: int = 0
    open: bool = False
    plan: RoundPlan = RoundPlan()
    model_version: int = 0
    invited: frozenset[str] = frozenset()
    births: Mapping[str, int] = {}
    delivered: frozenset[str] = frozenset()
    max_staleness: int = 0
    attempt: int = 0
    members: frozenset[str] = frozenset()


class Refusal(msgspec.Struct, frozen=True):
    """Why an update is not admitted; `update` is its head when that could be read."""

    code: str
    text: str
    update: Update | None = None

    @property
    def reason(self) -> str:
        """Code and text, as it goes on `ack/`."""
        return f"{self.code}: {self.text}"


class Admission(msgspec.Struct, frozen=True, eq=False):
    """An update that may enter.

    Attributes:
        norm: Its Euclidean norm; `None` of a masked one: nobody can tell.
        tensors: As decoded; `None` of a masked one.
    """

    update: Update
    norm: float | None
    tensors: Mapping[str, npt.NDArray[np.float32]] | None = None


def examine(topic: Topic, blob: bytes | bytearray | memoryview, expected: Expected) -> Admission | Refusal:
    """Holds one complete object against what is expected now.

    Args:
        topic: Topic under which its frames came.
        blob: The object.
        expected: The server's state.
    """
    try:
        update, views = unpack(memoryview(blob), Update)
    except WireError as error:
        return Refusal("schema", str(error))
    if max(update.epoch, update.round, update.model_version, update.samples) > LARGEST_COUNT:
        return Refusal("schema", f"a count is over {LARGEST_COUNT}")
    fault = next(_head_faults(topic, update, expected), None)
    if fault is not None:
        return Refusal(*fault, update)
    return _weigh(update, views, expected)


def _weigh(update: Update, views: Sequence[memoryview], expected: Expected) -> Admission | Refusal:
    """The checks that need the tensors' values; of masked ones only their lengths can be checked."""
    try:
        if expected.plan.secure is not None:
            read_masked(update.tensors, views)
            return Admission(update, None)
        tensors = decode_tensors(update.tensors, views)
    except WireError as error:
        return Refusal("tensors", str(error), update)
    norm = euclidean_norm(tensors)
    if not np.isfinite(norm):
        return Refusal("finite", f"{_first_bad(tensors)} holds a value that is not finite", update)
    if norm > expected.settings.max_norm:
        return Refusal("norm", f"norm {norm:.6g}, at most {expected.settings.max_norm:g} is admitted", update)
    return Admission(update, norm, tensors)


def _head_faults(topic: Topic, update: Update, expected: Expected) -> Iterator[tuple[str, str]]:
    """All faults of the head, in the order in which they are checked."""
    said = (topic.node, topic.uid, topic.round)
    if (update.node, update.uid, update.round) != said:
        yield "node", f"object says node {update.node}, uid {update.uid}, round {update.round}; its topic {said}"
    if update.task_hash != expected.task_hash:
        yield "task", f"task {update.task_hash[:12]}, this run's is {expected.task_hash[:12]}"
    yield from _round_faults(update, expected)
    if update.plan != expected.plan:
        yield "plan", f"plan {update.plan}, round {expected.round} asks for {expected.plan}"
    yield from _model_faults(update, expected)
    if update.masks != expected.attempt or (expected.attempt and update.node not in expected.members):
        yield "masks", f"masks of opening {update.masks}, the round wears those of {expected.attempt or 'none'}"
    born = expected.births.get(update.node, 0)
    if update.epoch < born:
        yield "epoch", f"epoch {update.epoch}, the device was born again with {born}"
    if update.node in expected.delivered:
        yield "second", f"round {expected.round} has an update of {update.node} already"
    drawn = update.plan.local_steps * update.plan.batch_size
    if update.samples > drawn:
        yield "samples", f"{update.samples} samples, the plan draws at most {drawn}"
    if update.loss is not None and not np.isfinite(update.loss):
        yield "finite", f"loss {update.loss}"
    yield from _record_faults(update, expected)


def _round_faults(update: Update, expected: Expected) -> Iterator[tuple[str, str]]:
    if update.round > expected.round:
        yield "future", f"round {update.round}, the server is at {expected.round}"
    elif update.round < expected.round or not expected.open:
        yield "closed", f"round {update.round} is closed, the server is at {expected.round}"
    elif update.node not in expected.invited:
        yield "uninvited", f"{update.node} was not drawn for round {update.round}"


def _model_faults(update: Update, expected: Expected) -> Iterator[tuple[str, str]]:
    behind = expected.model_version - update.model_version
    if behind < 0 or (behind and expected.plan.mode == "synchronous"):
        text = f"model version {update.model_version}, round {expected.round} starts from {expected.model_version}"
        yield "model", text
    elif behind > expected.max_staleness:
        text = f"model version {update.model_version} is {behind} behind {expected.model_version}"
        yield "stale", f"{text}, at most {expected.max_staleness} are admitted"


def _record_faults(update: Update, expected: Expected) -> Iterator[tuple[str, str]]:
    found = {record.name: record.shape for record in update.tensors}
    if len(found) != len(update.tensors) or found != dict(expected.shapes):
        yield "tensors", f"tensors {_brief(found)}, the model's are {_brief(expected.shapes)}"
    codec = expected.plan.codec if expected.plan.secure is None else MASKED
    strange = sorted({record.codec for record in update.tensors} - {codec})
    if strange:
        yield "tensors", f"codec {', '.join(strange)}, the plan says {codec}"
    if expected.plan.compression == "none" and any(record.inflated for record in update.tensors):
        yield "tensors", "tensors are deflated, the plan says compression none"


def _brief(shapes: Mapping[str, Sequence[int]]) -> str:
    text = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
    return text if len(text) <= 300 else text[:300] + "…"


def _first_bad(tensors: Mapping[str, npt.NDArray[np.float32]]) -> str:
    return next((name for name, tensor in tensors.items() if not np.isfinite(tensor).all()), "the update")
