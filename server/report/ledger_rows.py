"""One network's run, read from its ledger's tables (`server.schema`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from sqlite3 import Row
from typing import Any

import msgspec

from contract.messages import AttackScore, Operations
from contract.task import RoundPlan, TaskSpec, task_hash
from hardware.energy import EnergyReading
from server.integer_inference import noted
from server.ledger import Ledger
from server.mirror import ATTACKED, half_seen, reach
from server.privacy import privacy
from server.report.data import (
    Counts,
    Device,
    EnergyRow,
    Family,
    NoiseRow,
    OperationsRow,
    Refusal,
    RoundKind,
    RoundRow,
    ScoreRow,
    UpdateRow,
    View,
)
from server.report.ledger_pictures import read_pictures
from server.report.secure import read_secure
from server.report.sights import of_server
from server.report.waiting import read_waiting

_READING = EnergyReading.__struct_fields__
_SCORE = AttackScore.__struct_fields__
_OPERATIONS = Operations.__struct_fields__


def read_family(ledger: Ledger, summary: Mapping[str, Any], *, twin: bool) -> Family:
    """A whole run.

    Args:
        ledger: Open for reading.
        summary: `summary.json` of this run; what it does not have is counted from the ledger, or not known.
        twin: Whether this is the twin of another run.
    """
    task = _task(ledger)
    kinds: dict[int, RoundKind] = {row["round"]: row["kind"] for row in ledger.rows("SELECT round, kind FROM rounds")}
    seen = read_scores(ledger)
    scores = tuple(of_server(seen, half_seen(ledger)))
    updates = _updates(ledger, kinds)
    refusals = _refusals(ledger)
    planned = ledger.meta("rounds")
    return Family(
        title="ANN twin" if twin else "SNN" if task is None else _title(task),
        status=_status(ledger),
        task=task,
        task_hash=ledger.meta("task_hash") or ("" if task is None else task_hash(task)),
        rounds=_rounds(ledger),
        rounds_planned=None if planned is None else int(planned),
        initial_accuracy=ledger.value("SELECT accuracy FROM evaluations WHERE version = 0"),
        devices=_devices(ledger),
        updates=updates,
        refusals=refusals,
        counts=_counts(summary, admitted=len(updates), refused=len(refusals)),
        bytes_up=_whole(summary, "bytes_up", sum(update.payload_bytes for update in updates)),
        evaluated_on=ledger.value("SELECT samples FROM evaluations ORDER BY version DESC LIMIT 1"),
        unevaluated=ledger.meta("unevaluated") or "",
        energy=_energy(ledger, kinds),
        operations=_operations(ledger, kinds),
        scores=scores,
        seen=tuple(seen),
        views=_views(ledger),
        secure=read_secure(ledger),
        reach=reach(ledger),
        noise=read_noise(ledger),
        pictures=read_pictures(ledger, scores),
        int8=noted(ledger),
        waiting=read_waiting(ledger),
        wall_s=ledger.value("SELECT SUM(duration_s) FROM sessions"),
    )


def _pick(row: Row, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: row[name] for name in names}


def _task(ledger: Ledger) -> TaskSpec | None:
    settings = ledger.meta("settings")
    return None if settings is None else msgspec.convert(json.loads(settings)["task"], TaskSpec)


def _status(ledger: Ledger) -> str:
    outcome = ledger.meta("outcome")
    if outcome:
        return outcome
    newest = ledger.value("SELECT MAX(round) FROM rounds")
    return "no round was opened" if newest is None else f"stopped in round {newest}"


def _rounds(ledger: Ledger) -> tuple[RoundRow, ...]:
    made = {row["round"]: row for row in ledger.rows("SELECT round, accuracy, loss FROM evaluations WHERE version > 0")}
    last = "SELECT *, MAX(attempt) FROM rounds GROUP BY round ORDER BY round"
    return tuple(
        RoundRow(
            round=row["round"],
            plan=msgspec.json.decode(row["plan"], type=RoundPlan),
            accuracy=made[row["round"]]["accuracy"] if row["round"] in made else None,
            loss=made[row["round"]]["loss"] if row["round"] in made else None,
            updates=row["admitted"],
            selected=len(json.loads(row["invited"])),
            closed_by=row["closed"] or "",
        )
        for row in ledger.rows(last)
    )


def _devices(ledger: Ledger) -> tuple[Device, ...]:
    rows = ledger.rows("SELECT *, MAX(epoch) FROM nodes GROUP BY node ORDER BY node")
    said = _privacy(ledger)
    names = tuple(name for name in Device.__struct_fields__ if name != "privacy")
    return tuple(Device(**_pick(row, names), privacy=said.get(row["node"], "")) for row in rows)


def _privacy(ledger: Ledger) -> dict[str, str]:
    found = privacy(ledger)
    return {
        node: f"no guarantee: {found['reasons'][node]}" if value is None else f"{value:.3g} at δ = {found['delta']:g}"
        for node, value in found["by_device"].items()
    }


def _updates(ledger: Ledger, kinds: Mapping[int, RoundKind]) -> tuple[UpdateRow, ...]:
    sql = "SELECT uid, node, round, samples, bytes FROM updates WHERE status = 'admitted' ORDER BY round, node"
    return tuple(
        UpdateRow(
            uid=row["uid"],
            node=row["node"],
            round=row["round"],
            kind=kinds.get(row["round"], "train"),
            samples=row["samples"] or 0,
            payload_bytes=row["bytes"],
        )
        for row in ledger.rows(sql)
    )


def _refusals(ledger: Ledger) -> tuple[Refusal, ...]:
    rows = ledger.rows("SELECT node, round, reason FROM updates WHERE status = 'refused' ORDER BY round, node")
    return tuple(Refusal(node=row["node"], round=row["round"], reason=row["reason"]) for row in rows)


def _counts(summary: Mapping[str, Any], *, admitted: int, refused: int) -> Counts:
    part = summary.get("updates")
    given = part if isinstance(part, dict) else {}
    return Counts(
        published=_whole(given, "published", None),
        admitted=admitted,
        refused=_whole(given, "refused", refused),
        lost=_whole(given, "lost", None),
        duplicated=_whole(given, "duplicated", None),
    )


def _whole(part: Mapping[str, Any], key: str, otherwise: int | None) -> int | None:
    value = part.get(key)
    return value if isinstance(value, int) else otherwise


def _energy(ledger: Ledger, kinds: Mapping[int, RoundKind]) -> tuple[EnergyRow, ...]:
    return tuple(
        EnergyRow(
            node=row["node"],
            round=row["round"],
            kind=kinds.get(row["round"], "train"),
            phase=row["phase"],
            reading=EnergyReading(**_pick(row, _READING)),
            update=row["update_uid"],
        )
        for row in ledger.rows("SELECT * FROM energy ORDER BY round, node")
    )


def _title(task: TaskSpec) -> str:
    return "own network" if task.model.own is not None else task.model.family.upper()


def _operations(ledger: Ledger, kinds: Mapping[int, RoundKind]) -> tuple[OperationsRow, ...]:
    return tuple(
        OperationsRow(
            node=row["node"],
            round=row["round"],
            kind=kinds.get(row["round"], "train"),
            operations=_counts_of(row),
        )
        for row in ledger.rows("SELECT * FROM operations ORDER BY round, node")
    )


def _counts_of(row: Row) -> Operations:
    layers = {name: tuple(json.loads(row[name])) for name in ("active", "sites")}
    return Operations(**_pick(row, _OPERATIONS) | layers)


def _views(ledger: Ledger) -> tuple[View, ...]:
    rows = ledger.rows("SELECT seen, round, parts, note FROM views ORDER BY round, seen")
    return tuple(
        View(seen=r["seen"], round=r["round"], samples=tuple(p[2] for p in json.loads(r["parts"])), note=r["note"])
        for r in rows
    )


def read_scores(ledger: Ledger) -> list[ScoreRow]:
    """Scores of all attacks that were made, in the order of rounds, each thing that was seen for itself."""
    kinds: dict[int, RoundKind] = {row["round"]: row["kind"] for row in ledger.rows("SELECT round, kind FROM rounds")}
    return [
        ScoreRow(
            update=row["update_uid"],
            node=row["node"],
            round=row["round"],
            kind=kinds.get(row["round"], "train"),
            samples=row["batch"],
            score=msgspec.convert(_pick(row, _SCORE), AttackScore),
            seen=row["seen"],
        )
        for row in ledger.rows(
            f"SELECT * FROM scores WHERE {ATTACKED} ORDER BY round, node, update_uid, seconds"  # noqa: S608
        )
    ]


def read_noise(ledger: Ledger) -> tuple[NoiseRow, ...]:
    """What the attacks said of the noise controls, and what it was worth."""
    rows = ledger.rows(
        "SELECT told.*, held.verdict IS NOT NULL AS scored, held.psnr_db FROM noise_controls AS told "
        "LEFT JOIN noise_scores AS held USING (update_uid, attack, seen) ORDER BY told.round, told.node, told.seconds"
    )
    return tuple(
        NoiseRow(
            update=row["update_uid"],
            attack=row["attack"],
            seen=row["seen"],
            verdict=row["verdict"],
            reason=row["reason"],
            scored=bool(row["scored"]),
            psnr_db=row["psnr_db"],
        )
        for row in rows
    )
