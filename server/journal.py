"""Rows for what devices and the attacker report. Each write is one transaction, and idempotent per update.

Values that the ledger cannot hold are a `WireError`, so that no message can stop the server.
"""

from __future__ import annotations

import json
import math
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from contract.codecs import decode_plain
from contract.errors import WireError
from contract.messages import EnergyReport, Message, NodeState, Reconstruction, Score, TensorRecord, Truth
from server.exchange_desk import write_cost
from server.ledger import Ledger
from server.vantages import holds, kind_of

Images = npt.NDArray[np.float32]
Views = Sequence[memoryview]

_OF_NOISE = ("attack", "verdict", "reason", "psnr_db", "ssim", "identified")
KINDS: dict[type[Message], str] = {EnergyReport: "energy", Score: "score", Truth: "truth"}


@contextmanager
def storable(ledger: Ledger) -> Iterator[None]:
    """A transaction in which a value that SQLite cannot hold is the sender's fault.

    Raises:
        WireError: A number out of range, or a missing one where one must be.
    """
    with _storable(), ledger.transaction():
        yield


@contextmanager
def _storable() -> Iterator[None]:
    try:
        yield
    except (OverflowError, sqlite3.IntegrityError) as error:
        raise WireError(f"a value that cannot be stored: {error}") from error


def write_node(ledger: Ledger, state: NodeState) -> None:
    """The last word of one life of a device."""
    values = {name: getattr(state, name) for name in NodeState.__struct_fields__}
    with _storable():  # one statement is all or nothing by itself
        ledger.insert("nodes", {**values, "seen_wall": time.time()}, or_replace=True)


def write_report(ledger: Ledger, report: EnergyReport | Score | Truth, views: Views, *, nbytes: int) -> None:
    """An energy report, a score or a truth. The first of its kind for an update counts; others are only noted.

    Args:
        ledger: The ledger.
        report: The object's head.
        views: Its tensors.
        nbytes: Size of the object.

    Raises:
        WireError: A truth whose tensor does not fit, or a value that cannot be stored.
    """
    kind = kind_of(KINDS[type(report)], report.seen if isinstance(report, Score) else "update")
    with storable(ledger):
        first = ledger.row("SELECT 1 FROM objects WHERE kind = ? AND update_uid = ?", kind, report.update_uid) is None
        place = {"node": report.node, "round": report.round, "update_uid": report.update_uid}
        ledger.insert(
            "objects", {"uid": report.uid, "kind": kind, **place, "bytes": nbytes, "received_wall": time.time()}
        )
        if first:
            _WRITERS[type(report)](ledger, report, views, place)


def _write_energy(ledger: Ledger, report: EnergyReport, _views: Views, place: dict[str, Any]) -> None:
    for phase in report.phases:
        for reading in phase.readings:
            ledger.insert("energy", {**place, "phase": phase.phase, **msgspec.structs.asdict(reading)})
    for baseline in report.baselines:
        ledger.insert("baselines", {**place, **msgspec.structs.asdict(baseline)})
    if report.operations is not None:
        counts = msgspec.structs.asdict(report.operations)
        counts |= {name: json.dumps(counts[name]) for name in ("active", "sites")}
        ledger.insert("operations", {**place, "payload_bytes": report.payload_bytes, **counts})
    if report.masking is not None:
        write_cost(ledger, place, "setup", report.masking)


def _write_score(ledger: Ledger, score: Score, _views: Views, place: dict[str, Any]) -> None:
    for attack in score.attacks:
        values = {name: _finite(value) for name, value in msgspec.structs.asdict(attack).items()}
        ledger.insert("scores", {**place, "seen": score.seen, "batch": score.samples, **values})
    for attack in score.noise:
        values = {name: _finite(getattr(attack, name)) for name in _OF_NOISE}
        ledger.insert("noise_scores", {**place, "seen": score.seen, **values})


def _write_truth(ledger: Ledger, truth: Truth, views: Views, place: dict[str, Any]) -> None:
    images = images_of(truth.tensors, views, 0)
    if images is None or not len(images) == len(truth.indices) == len(truth.labels):
        raise WireError(
            f"{len(truth.indices)} samples, {len(truth.labels)} labels: one image and label for each sample"
        )
    for sample, label, image in zip(truth.indices, truth.labels, images, strict=True):
        shape = _json(image.shape)
        ledger.insert("truths", {**place, "sample": sample, "label": label, "shape": shape, "image": image.tobytes()})


_WRITERS: dict[type[Message], Callable[[Ledger, Any, Views, dict[str, Any]], None]] = {
    EnergyReport: _write_energy,
    Score: _write_score,
    Truth: _write_truth,
}


def write_reconstruction(ledger: Ledger, recon: Reconstruction, views: Views, *, keep: int) -> None:
    """What the attacker made of one update; images of audit rounds only. A repeat changes nothing.

    Args:
        ledger: The ledger.
        recon: The object's head.
        views: Its tensors.
        keep: Images kept per attack.

    Raises:
        WireError: An update that is not in the ledger, a tensor that does not hold images, or one that several results
            name: each would be stored.
    """
    named = [result.images for result in recon.results if result.images >= 0]
    if len(set(named)) < len(named):
        raise WireError(f"results name the tensors {named[:8]}: each holds the images of one")
    kind = ledger.value(
        "SELECT kind FROM rounds WHERE round = (SELECT round FROM updates WHERE uid = ? AND node = ?)",
        recon.update_uid,
        recon.node,
    )
    if kind is None:
        raise WireError(f"update {recon.update_uid} of {recon.node} is not in the ledger")
    if not holds(ledger, recon.update_uid, recon.seen):
        raise WireError(f"update {recon.update_uid} is part of no {recon.seen} that was mirrored")
    place = {"update_uid": recon.update_uid, "node": recon.node, "round": recon.round, "seen": recon.seen}
    with storable(ledger):
        for result in recon.results:
            found = images_of(recon.tensors, views, result.images)
            kept = found[:keep] if found is not None and kind == "audit" else None
            values = {
                **place,
                "received_wall": time.time(),
                "attack": result.attack,
                "verdict": result.verdict,
                "reason": result.reason,
                "seconds": result.seconds,
                "objective": _finite(result.objective),
                "labels": _json(result.labels),
                "shape": _json(() if found is None else found.shape),
                "images": None if kept is None else kept.tobytes(),
                "kept": 0 if kept is None else len(kept),
            }
            ledger.insert("reconstructions", values, or_ignore=True)
        for result in recon.noise:
            said = {"attack": result.attack, "verdict": result.verdict, "reason": result.reason}
            ledger.insert("noise_controls", {**place, **said, "seconds": result.seconds}, or_ignore=True)


def images_of(records: Sequence[TensorRecord], views: Views, index: int) -> Images | None:
    """One tensor of an object as images `[n, …]`; `None` for index -1.

    Raises:
        WireError: No such tensor, or it has no axis of images.
    """
    if index == -1:
        return None
    if not 0 <= index < len(records) or not records[index].shape:
        raise WireError(f"tensor {index} of {len(records)} does not hold images")
    return np.ascontiguousarray(decode_plain((records[index],), (views[index],))[records[index].name])


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
