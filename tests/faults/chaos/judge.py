"""Updates with a fault of their own, and what SPEC.md says the server must answer: written apart from the server."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from contract import messages
from contract.codecs import decode_tensors
from contract.messages import Update
from contract.task import RoundPlan
from tests.unit.server_world import difference, make_update

FAULTS = (
    "", "", "", "", "", "", "", "", "task", "plan", "model", "stale", "samples", "loss", "nan", "norm", "shape",
    "codec", "past", "future", "misplaced", "stolen",
)  # fmt: skip
"""What may be wrong with an update; a good many have no fault of their own."""


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """An update that a device made.

    Attributes:
        node: Who sends it.
        round: The round that it says.
        topic_round: The round of its topic.
        fault: Of `FAULTS`.
        blob: The object.
        decoded: Its tensors as the server decodes them.
        nan_code: What a NaN in it is refused with: codecs without one have a bad scale instead.
    """

    uid: str
    node: str
    epoch: int
    round: int
    topic_round: int
    model_version: int
    plan: RoundPlan
    samples: int
    fault: str
    blob: bytes
    decoded: Any
    nan_code: str


class Verdict(msgspec.Struct, frozen=True):
    """Whose update it is and the code of the refusal; empty when admitted."""

    node: str
    code: str


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """Where the run stands when an update gets whole.

    Attributes:
        round: The round that takes updates, or the last one that did.
        open: Whether it takes updates.
    """

    round: int
    open: bool
    plan: RoundPlan
    model_version: int
    invited: frozenset[str]
    births: dict[str, int]
    delivered: frozenset[str]


def make(uid: str, node: str, epoch: int, standing: Standing, *, fault: str, seed: int) -> Made:
    """An update for the round that stands, with a fault."""
    plan, round_ = standing.plan, max(1, standing.round)
    tensors = difference(node, seed)
    said: dict[str, Any] = {}
    if fault == "task":
        said["task_hash"] = "ab" * 32
    elif fault == "plan":
        plan = msgspec.structs.replace(plan, learning_rate=plan.learning_rate * 2)
    elif fault == "samples":
        said["samples"] = plan.local_steps * plan.batch_size + 1
    elif fault == "loss":
        said["loss"] = float("inf")
    elif fault == "norm":
        tensors["layers.0.weight"] = tensors["layers.0.weight"] + np.float32(1e5)
    elif fault == "shape":
        tensors["layers.0.bias"] = np.zeros(3, dtype=np.float32)
    elif fault == "past":
        round_ -= 1
    elif fault == "future":
        round_ += 1
    version = standing.model_version + (fault == "model")
    codec = ("fp16" if plan.codec != "fp16" else "fp32") if fault == "codec" else plan.codec
    blob, _ = make_update(
        node, round_, plan=plan, model_version=version, uid=uid, tensors=tensors, codec=codec,
        epoch=max(0, epoch - (fault == "stale")), **said,
    )  # fmt: skip
    update, views = messages.unpack(blob, Update)
    if fault == "nan":
        blob = _not_finite(blob, update)
        update, views = messages.unpack(blob, Update)
    return Made(
        uid=uid, node=node, epoch=update.epoch, round=round_, topic_round=round_ + (fault == "misplaced"),
        model_version=version, plan=plan, samples=update.samples, fault=fault, blob=blob,
        nan_code="finite" if _plain(update) else "tensors",
        decoded=None if fault == "nan" else decode_tensors(update.tensors, views),
    )  # fmt: skip


def _not_finite(blob: bytes, update: Update) -> bytes:
    """The same object whose first tensor holds a NaN; for codecs without one, a scale that is none."""
    tensors = sum(record.nbytes for record in update.tensors)
    if _plain(update):
        at = len(blob) - tensors
        return blob[:at] + np.float32(np.nan).tobytes() + blob[at + 4 :]
    records = (msgspec.structs.replace(update.tensors[0], scale=float("nan")), *update.tensors[1:])
    return messages.pack(msgspec.structs.replace(update, tensors=records), [blob[len(blob) - tensors :]])


def _plain(update: Update) -> bool:
    return update.plan.codec == "fp32" and not update.tensors[0].inflated


def judge(made: Made, now: Standing) -> str:
    """The code with which an update that got whole must be refused; empty when it must be admitted."""
    of_the_round = made.round == now.round and now.open
    in_order = (
        ("node", made.fault == "misplaced"),
        ("task", made.fault == "task"),
        ("future", made.round > now.round),
        ("closed", made.round <= now.round and not of_the_round),
        ("uninvited", made.node not in now.invited),
        ("plan", made.plan != now.plan),
        ("model", made.model_version != now.model_version),
        ("epoch", made.epoch < now.births[made.node]),
        ("second", made.node in now.delivered),
        ("samples", made.fault == "samples"),
        ("finite", made.fault == "loss"),
        ("tensors", made.fault in {"shape", "codec"}),
        (made.nan_code, made.fault == "nan"),
        ("norm", made.fault == "norm"),
    )
    return next((code for code, wrong in in_order if wrong), "")
