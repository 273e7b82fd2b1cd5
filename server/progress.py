"""How far a run is, read from its ledger by another process."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import msgspec

from contract.errors import SpikeleakError
from server.ledger import FILE_NAME, Ledger


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """The state of one run.

    Attributes:
        status: `waiting` for devices, a round is `open`, `closed`, or the run is `finished` or `failed`.
        round: Newest round, from 1; 0 before the first.
        rounds: Rounds of the whole schedule.
        kind: `train` or `audit`; empty before the first round.
        arrived: Devices of which an update was admitted in the newest round.
        selected: Devices asked for one.
        accuracy: On held-out samples, newest model; `None` before the first evaluation.
        energy_j: Joules reported so far, one sum per provenance, and per scope where measured ones have
            several; they are never added up.
        worst_psnr_db: Highest PSNR that any attack reached on any update so far; `None` without a score.
        admitted: Updates admitted so far.
        scored: Of these, how many have been attacked and scored.
    """

    status: str
    round: int
    rounds: int
    kind: str
    arrived: int
    selected: int
    accuracy: float | None
    energy_j: dict[str, float]
    worst_psnr_db: float | None
    admitted: int
    scored: int


def read_progress(directory: Path) -> Progress | None:
    """The state of the run in `directory`; `None` when its ledger is not there yet, or busy."""
    path = directory / FILE_NAME
    if not path.exists():
        return None
    try:
        with Ledger.open_read(path) as ledger:
            return _read(ledger)
    except (sqlite3.OperationalError, SpikeleakError):
        return None  # being created or locked just now: the next look finds it


def _energy(ledger: Ledger) -> dict[str, float]:
    """Joules by provenance; measured ones of several scopes (a board's sensor and its wall plug) each for itself."""
    rows = ledger.rows(
        "SELECT provenance, CASE provenance WHEN 'measured' THEN scope ELSE '' END AS part, SUM(energy_j) AS j "
        "FROM energy WHERE rowid IN (SELECT MIN(rowid) FROM energy WHERE energy_j IS NOT NULL "
        "GROUP BY update_uid, phase, provenance, scope) GROUP BY 1, 2 ORDER BY 1, 2"
    )
    scopes = sum(row["provenance"] == "measured" for row in rows)
    return {
        f"{row['provenance']} ({row['part']})" if scopes > 1 and row["part"] else row["provenance"]: row["j"]
        for row in rows
    }


def _read(ledger: Ledger) -> Progress | None:
    rounds = ledger.meta("rounds")
    if rounds is None:
        return None
    newest = ledger.row("SELECT * FROM rounds ORDER BY round DESC, attempt DESC LIMIT 1")
    return Progress(
        status=_status(ledger, newest),
        round=0 if newest is None else newest["round"],
        rounds=int(rounds),
        kind="" if newest is None else newest["kind"],
        arrived=0 if newest is None else _admitted(ledger, newest["round"]),
        selected=0 if newest is None else len(msgspec.json.decode(newest["invited"])),
        accuracy=ledger.value("SELECT accuracy FROM evaluations ORDER BY version DESC LIMIT 1"),
        energy_j=_energy(ledger),
        worst_psnr_db=ledger.value("SELECT MAX(psnr_db) FROM scores WHERE seen != 'models'"),
        admitted=ledger.value("SELECT COUNT(*) FROM updates WHERE status = 'admitted'"),
        scored=ledger.value("SELECT COUNT(DISTINCT update_uid) FROM scores"),
    )


def _admitted(ledger: Ledger, round_: int) -> int:
    sql = "SELECT COUNT(DISTINCT node) FROM updates WHERE status = 'admitted' AND round = ?"
    return int(ledger.value(sql, round_))


def _status(ledger: Ledger, newest: sqlite3.Row | None) -> str:
    outcome = ledger.meta("outcome")
    if outcome:
        return outcome.partition(":")[0]
    if newest is None:
        return "waiting"
    return "open" if newest["closed"] is None else "closed"
