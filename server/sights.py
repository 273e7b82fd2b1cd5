"""What is seen of several devices of a round together, and by whom: made when the round closes, from the ledger alone.

Under secure aggregation a curious server reads a masked update of each device, and their mean. A fellow client reads
neither; it holds two successive global models, whose difference is what the server made of all updates, and its own
update, which it takes out. Both are mirrored like an update and attacked by the same ladder (`attack.aggregate`).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec
import numpy as np

from contract.codecs import decode_tensors, encode_tensors
from contract.messages import Aggregate, AggregatePart, Seen, Update, pack, unpack
from contract.task import RoundPlan
from server import unmasking
from server.aggregation import Recipe
from server.aggregation.contribution import Array
from server.aggregation.mean import Mean
from server.ledger import Ledger
from server.model import parameters_of

HALF_ULP = 2.0**-24
"""Largest relative error of a number rounded to float32."""


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """A round that closes.

    Attributes:
        model_version: The version that its updates start from.
        new_version: The one that it made; `None`: it left the model alone.
    """

    round: int
    attempt: int
    plan: RoundPlan
    task_hash: str
    model_version: int
    uids: tuple[str, ...]
    new_version: int | None = None


class Sight(msgspec.Struct, frozen=True, kw_only=True):
    """A mean of updates, and how exact it is."""

    value: Mapping[str, Array]
    errors: Mapping[str, float]
    parts: tuple[AggregatePart, ...]
    note: str = ""


class UnseenError(Exception):
    """There is nothing to be seen, or no way to work it out; the text says why."""


def show_sum(ledger: Ledger, closing: Round) -> None:
    """Writes down the mean that secure aggregation opened."""
    secure = closing.plan.secure
    assert secure is not None, "asked for after rounds with secure aggregation only"
    found = unmasking.aggregate(ledger, closing.round, closing.uids)
    parts = _parts(ledger, closing.uids)
    uneven = len({part.samples for part in parts}) > 1
    sight = Sight(
        value=found.value,
        errors=dict.fromkeys(found.value, secure.step),
        parts=parts,
        note="devices count alike, though their numbers of samples differ" if uneven else "",
    )
    _write(ledger, closing, "aggregate", sight)


def show_models(ledger: Ledger, closing: Round, recipe: Recipe, fellow: str) -> None:
    """Writes down what a fellow client reads off two successive models, or why it reads nothing.

    Args:
        ledger: With both models.
        closing: The round between them.
        recipe: How it made a model.
        fellow: Name of the curious device; its own update is taken out when it took part.
    """
    try:
        _write(ledger, closing, "models", _difference(ledger, closing, recipe, fellow))
    except UnseenError as error:
        _insert(ledger, closing, "models", note=str(error))


def _difference(ledger: Ledger, closing: Round, recipe: Recipe, fellow: str) -> Sight:
    """The mean of the others' updates: ``((w − w') / η · W − n x) / (W − n)``, n samples of the fellow's own x.

    η is `server_learning_rate`, times `learning_rate` under FedSGD; W all samples. Rounding w' to float32 is the error.
    """
    if reason := _unsupported(closing, recipe):
        raise UnseenError(reason)
    parts = _parts(ledger, closing.uids)
    others = tuple(part for part in parts if part.node != fellow)
    if not others:
        raise UnseenError(f"{fellow} was alone in the round: the models differ by its own update")
    assert closing.new_version is not None
    before, after = (_model(ledger, version) for version in (closing.new_version - 1, closing.new_version))
    plan = closing.plan
    rate = plan.server_learning_rate * (plan.learning_rate if plan.algorithm == "fedsgd" else 1.0)
    total, rest = (float(sum(part.samples for part in some)) for some in (parts, others))
    value = {n: (before[n].astype(np.float64) - after[n].astype(np.float64)) * (total / rest / rate) for n in before}
    for part in parts:
        if part.node == fellow:
            own = _decoded(ledger, part.uid)
            value = {n: v - own[n].astype(np.float64) * (part.samples / rest) for n, v in value.items()}
    errors = {n: float(np.abs(after[n]).max(initial=0.0)) * HALF_ULP * total / rest / rate for n in value}
    took_part = len(others) < len(parts)
    note = f"{fellow} took its own update out" if took_part else f"{fellow} did not take part"
    return Sight(value=value, errors=errors, parts=others, note=note)


def _unsupported(closing: Round, recipe: Recipe) -> str:
    """Why a difference of models cannot be turned into a mean of updates; empty when it can."""
    if closing.new_version is None:
        return "the round left the model as it was: successive models tell nothing of it"
    if recipe.fedbuff is not None:
        return "not supported: an asynchronous round, whose versions hold updates from several models"
    if recipe.optimiser is not None or closing.plan.server_momentum:
        return "not supported: the server's optimiser has moments, and the step is no multiple of the mean alone"
    if not isinstance(recipe.aggregator, Mean):
        return f"not supported: aggregator {type(recipe.aggregator).__name__} is no weighted mean"
    if closing.plan.secure is not None:
        return (
            "not supported: the fellow's own update is masked, so that nobody but it could take it out; what the "
            "server sees of the sum holds for a fellow client all the same"
        )
    return ""


def _parts(ledger: Ledger, uids: Sequence[str]) -> tuple[AggregatePart, ...]:
    rows = [ledger.row("SELECT node, uid, samples FROM updates WHERE uid = ?", uid) for uid in uids]
    parts = [AggregatePart(row["node"], row["uid"], row["samples"]) for row in rows if row is not None]
    return tuple(sorted(parts, key=lambda part: part.node))


def _model(ledger: Ledger, version: int) -> Mapping[str, np.ndarray]:
    blob = ledger.value("SELECT object FROM models WHERE version = ?", version)
    if blob is None:
        raise UnseenError(f"model version {version} is not in the ledger any more")
    return parameters_of(blob)


def _decoded(ledger: Ledger, uid: str) -> Mapping[str, np.ndarray]:
    update, views = unpack(ledger.value("SELECT object FROM updates WHERE uid = ?", uid), Update)
    return decode_tensors(update.tensors, views)


def _write(ledger: Ledger, closing: Round, seen: Literal["aggregate", "models"], sight: Sight) -> None:
    tensors = {name: value.astype(np.float32) for name, value in sight.value.items()}
    records, buffers = encode_tensors("fp32", tensors, np.random.default_rng(0))
    head = Aggregate(
        uid=_uid(closing, seen),
        seen=seen,
        round=closing.round,
        model_version=closing.model_version,
        task_hash=closing.task_hash,
        plan=closing.plan,
        parts=sight.parts,
        errors=tuple(sight.errors[record.name] for record in records),
        tensors=records,
        note=sight.note,
    )
    _insert(ledger, closing, seen, parts=sight.parts, blob=pack(head, buffers), note=sight.note)


def _uid(closing: Round, seen: Seen) -> str:
    text = f"{seen} {closing.task_hash} {closing.round} {closing.attempt} {' '.join(sorted(closing.uids))}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _insert(
    ledger: Ledger,
    closing: Round,
    seen: Seen,
    *,
    parts: tuple[AggregatePart, ...] = (),
    blob: bytes | None = None,
    note: str,
) -> None:
    ledger.insert(
        "views",
        {
            "uid": _uid(closing, seen),
            "seen": seen,
            "round": closing.round,
            "attempt": closing.attempt,
            "model_version": closing.model_version,
            "parts": msgspec.json.encode(parts).decode(),
            "object": blob,
            "note": note,
            "made_wall": time.time(),
        },
    )
