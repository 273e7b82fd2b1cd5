"""The history checker finds what it should: each claim broken once in a forged history, and in a real run's files."""

from __future__ import annotations

import re
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace

from edge_client.spool import Journal, SpoolItem, _Box
from tests.faults.chaos import recomputation, witness
from tests.faults.chaos.claims import violations
from tests.faults.chaos.history import AggregateRow, History, RoundRow, Spooled, UpdateRow, items, read
from tests.faults.chaos.parties import Federation
from tests.faults.chaos.proof import prove
from tests.faults.chaos.witness import Heard


def row(uid: str, node: str, round_: int, **changes: object) -> UpdateRow:
    fields = {"epoch": 1, "model_version": round_ - 1, "status": "admitted", "sha256": uid * 2, "samples": 16}
    return UpdateRow(**{"uid": uid, "node": node, "round": round_, **fields, **changes})  # type: ignore[arg-type]


def counted(uid: str, version: int, **changes: object) -> AggregateRow:
    return AggregateRow(**{"version": version, "round": version, "uid": uid, "weight": 16.0, **changes})  # type: ignore[arg-type]


def spool(*receipts: str, residual: str, **changes: object) -> Spooled:
    journal = Journal(run="r", node="n", epoch=1, published=2, residual=residual)
    fields = {"outbox": {}, "receipts": frozenset(receipts), "residuals": frozenset({residual})}
    return Spooled(**{"journal": journal, **fields, **changes})  # type: ignore[arg-type]


WHOLE = History(
    updates=(
        row("a1", "a", 1),
        row("b1", "b", 1),
        row("a2", "a", 2),
        row("b2", "b", 2, status="refused", code="closed"),
    ),
    rounds=(RoundRow(round=1, admitted=2, new_version=1), RoundRow(round=2, admitted=1, new_version=2)),
    aggregated=(counted("a1", 1), counted("b1", 1), counted("a2", 2)),
    reports=frozenset({"ea1"}),
    reported=frozenset({"a1", "b1", "a2", "b2"}),
    spools={
        "a": spool("a1", "a2", residual="a2"),
        "b": spool("b1", residual="b2", returned=frozenset({"b2"})),
    },
    heard=(
        Heard(node="a", said="sent", uid="a1", detail="a1a1"),
        Heard(node="a", said="missing", uid="a1"),
        Heard(node="a", said="admitted", uid="a1"),
        Heard(node="a", said="admitted", uid="ea1"),
        Heard(node="b", said="refused", uid="b2", detail="closed: over"),
    ),
    lost=0,
    duplicated=0,
)


def with_spool(node: str, **changes: object) -> History:
    return replace(WHOLE, spools={**WHOLE.spools, node: replace(WHOLE.spools[node], **changes)})


def with_journal(node: str, **changes: object) -> History:
    return with_spool(node, journal=replace(WHOLE.spools[node].journal, **changes))


def hearing(*heard: Heard) -> History:
    return replace(WHOLE, heard=(*WHOLE.heard, *heard))


def counting(*aggregated: AggregateRow) -> History:
    return replace(WHOLE, aggregated=aggregated)


ADDED = (*WHOLE.aggregated, counted("zz", 2))
FORGED: dict[str, tuple[History, str]] = {
    "acknowledged, not in the ledger": (
        hearing(Heard(node="a", said="admitted", uid="a9")),
        "a9 of a was acknowledged as admitted and is not in the ledger",
    ),
    "acknowledged as admitted, refused in the ledger": (
        hearing(Heard(node="b", said="admitted", uid="b2")),
        "b2 was acknowledged to b as admitted; the ledger has it as refused",
    ),
    "acknowledged to another device": (hearing(Heard(node="b", said="admitted", uid="a1")), "acknowledged to b"),
    "acknowledged both ways": (hearing(Heard(node="a", said="refused", uid="ea1")), "as admitted and as refused"),
    "admitted, in no aggregate": (
        counting(*WHOLE.aggregated[:2]),
        "a2 of a, round 2, was admitted and is in no aggregate",
    ),
    "counted twice": (counting(*WHOLE.aggregated, counted("a1", 1)), "a1 was counted 2 times"),
    "counted in two rounds": (counting(*WHOLE.aggregated, counted("a1", 2)), "a1 was counted 2 times"),
    "counted in another round": (counting(*WHOLE.aggregated[1:], counted("a1", 2)), "a1 of round 1 .* in version 2"),
    "counted with another weight": (
        counting(*WHOLE.aggregated[1:], counted("a1", 1, weight=17.0)),
        "a1 of round 1 with 16 samples .* with weight 17",
    ),
    "counted, never admitted": (counting(*ADDED), "zz is in version 2 and was never admitted"),
    "counted though refused": (counting(*WHOLE.aggregated, counted("b2", 2)), "b2 is in version 2 and was never"),
    "a round's number does not fit": (
        replace(WHOLE, rounds=(replace(WHOLE.rounds[0], admitted=3), WHOLE.rounds[1])),
        "round 1 closed with 3 updates, 2 are in its version",
    ),
    "admitted, made by nobody": (with_spool("a", receipts=frozenset({"a1"})), "a2 was admitted from a, which has no"),
    "other bytes than were sent": (
        hearing(Heard(node="a", said="sent", uid="a2", detail="ffff")),
        "a2: a sent ffff, the ledger has a2a2 of a",
    ),
    "believed delivered, not there": (with_journal("a", published=3), "a published 3 updates; 2 are in the ledger"),
    "more arrived than were made": (with_journal("a", published=1), "a published 1 updates; 2 are in the ledger"),
    "a file is damaged": (with_spool("a", damaged=("0.update.1.a1",)), "a: damaged files"),
    "an update was given up": (with_journal("a", quarantined_updates=1), "1 updates given up"),
    "a receipt was dropped": (with_journal("b", dropped_receipts=1), "b dropped 1 receipts"),
    "an energy report is missing": (replace(WHOLE, reported=frozenset({"a1", "b1", "b2"})), "1 updates are without an"),
    "two residuals": (with_spool("a", residuals=frozenset({"a1", "a2"})), "a holds the residuals .'a1', 'a2'."),
    "no residual": (with_spool("a", residuals=frozenset()), "a holds the residuals ..; its journal names 'a2'"),
    "the residual of an update that was never sent": (
        replace(with_journal("a", residual="a9"), heard=()),
        "the residual is that of a9, which is neither",
    ),
    "the residual of an update before the last": (
        with_journal("a", residual="a1"),
        "that of a1, though .'a2'. came later",
    ),
    "an admitted update was taken back": (
        with_spool("a", returned=frozenset({"a1"})),
        "a took back a1, which was admitted",
    ),
    "the summary says lost": (replace(WHOLE, lost=1), "lost = 1, duplicated = 0"),
    "the summary says duplicated": (replace(WHOLE, duplicated=2), "lost = 0, duplicated = 2"),
}


def test_a_whole_history_has_no_fault() -> None:
    assert violations(WHOLE) == []


def test_an_update_that_waits_is_not_lost() -> None:
    waiting = with_journal("a", published=3, residual="a3")
    kept = replace(waiting.spools["a"], outbox={"a3": "update"}, residuals=frozenset({"a3"}))
    assert violations(replace(waiting, spools={**waiting.spools, "a": kept})) == []


@pytest.mark.parametrize("case", FORGED)
def test_each_forgery_is_found(case: str) -> None:
    history, said = FORGED[case]
    found = violations(history)
    assert any(re.search(said, fault) for fault in found), found


# --- a real run's files ---------------------------------------------------------------------------------------------


def test_a_run_without_faults_is_proven(calm_run: Federation) -> None:
    told = prove(calm_run)
    assert {row.code for row in told.updates} == {"", "closed"}, "the schedule makes some updates come late"
    assert len(told.heard) > 2 * len(told.updates), "each was sent, and acknowledged"


def test_recomputed_models_must_be_the_ledgers(calm_run: Federation, tmp_path: Path) -> None:
    forged = tmp_path / "ledger.sqlite"
    shutil.copy(calm_run.ledger, forged)
    assert list(recomputation.models(forged)) == []
    connection = sqlite3.connect(forged)
    connection.execute("UPDATE updates SET status = 'refused' WHERE rowid = (SELECT MIN(rowid) FROM updates)")
    connection.commit()
    connection.close()
    found = list(recomputation.models(forged))
    assert found, "an update was taken away"
    assert found[0].startswith("version 1: the admitted updates give")


def ahead(item: SpoolItem) -> SpoolItem:
    """The residual with one bit more in it."""
    values = np.frombuffer(item.blob, dtype="<f4").copy()
    values[0] = np.nextafter(values[0], np.float32(1))
    return replace(item, blob=values.tobytes())


TAMPERED: dict[str, tuple[Callable[[SpoolItem], SpoolItem], str]] = {
    "as it was left": (lambda item: item, ""),
    "one bit off": (ahead, "the residual on disk is not what its"),
    "of zeros": (lambda item: replace(item, blob=bytes(len(item.blob))), "the residual on disk is not what its"),
}


@pytest.mark.parametrize("case", TAMPERED)
def test_the_residual_on_disk_must_follow_from_the_updates(calm_run: Federation, tmp_path: Path, case: str) -> None:
    change, said = TAMPERED[case]
    settings = calm_run.devices["device-1"]
    folder = tmp_path / "device-1"
    shutil.copytree(settings.directory, folder)
    (item,) = items(folder / "residuals").values()
    _Box(folder / "residuals", folder / "quarantine", sync=False).put(change(item))
    told = _told(calm_run)
    found = list(recomputation.updates(told, calm_run.ledger, replace(settings, directory=folder)))
    assert (not found) if not said else (found and said in found[0]), found


def test_an_update_that_counted_the_residual_twice_is_found(calm_run: Federation) -> None:
    told = _told(calm_run)
    first = next(row for row in told.updates if row.node == "device-1")
    without = replace(told, updates=tuple(row for row in told.updates if row.uid != first.uid))
    (found,) = recomputation.updates(without, calm_run.ledger, calm_run.devices["device-1"])
    assert "is not what the 1 histories of its residual give" in found


def _told(calm_run: Federation) -> History:
    folders = {name: settings.directory for name, settings in calm_run.devices.items()}
    return read(calm_run.ledger, folders, witness.read(calm_run.folder / "witness.jsonl"))


def test_the_witness_log_reads_back(tmp_path: Path) -> None:
    lines = [msgspec.json.encode(heard) for heard in WHOLE.heard]
    log = tmp_path / "witness.jsonl"
    log.write_bytes(b"\n".join(lines) + b"\n")
    assert witness.read(log) == WHOLE.heard
