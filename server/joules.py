"""Joules of a run for `summary.json`: one sum of one provenance, and every meter by itself.

Figures of two meters, and measured beside modelled ones, stand side by side; nothing here adds them up. A ± is the
half width of a 95 % interval; those of a sum are added up (`hardware.uncertainty`), and one that is not known makes it
`null`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any

from hardware.energy import WAITING
from hardware.uncertainty import added
from server.ledger import Ledger

_ADMITTED = "SELECT COUNT(*) FROM updates WHERE status = 'admitted'"
_MEASURED = (
    "SELECT energy.*, idle.power_w, idle.stdev_w, idle.uncertainty_w FROM energy LEFT JOIN (SELECT update_uid, source, "
    "scope, MAX(power_w) AS power_w, stdev_w, uncertainty_w FROM baselines GROUP BY update_uid, source, scope) AS idle "
    "USING (update_uid, source, scope) WHERE provenance = 'measured' ORDER BY energy.rowid"
)


def energy(ledger: Ledger) -> dict[str, Any]:
    """Joules of the making and sending of all updates: one sum of one provenance, and all sums beside it.

    `value` is measured when every admitted update has measured readings of exactly one meter; otherwise it
    is modelled (operations and radio, which do not overlap) over the `updates_covered` that have any. Time spent
    waiting between updates (idle, asleep) is in `by_phase` and `meters` but not in `value`.
    """
    sums = ledger.rows(
        "SELECT provenance, phase, source, scope, SUM(energy_j) AS value, COUNT(*) AS readings FROM energy "
        "WHERE energy_j IS NOT NULL GROUP BY provenance, phase, source, scope ORDER BY provenance, phase, source, scope"
    )
    provenance = _main_provenance(ledger)
    covered = ledger.value(
        "SELECT COUNT(DISTINCT update_uid) FROM energy WHERE provenance = ? AND phase NOT IN ('idle', 'sleep') "
        "AND update_uid IN (SELECT uid FROM updates WHERE status = 'admitted')",
        provenance,
    )
    rows = ledger.rows(_MEASURED)
    return {
        "value": ledger.value(
            "SELECT SUM(energy_j) FROM energy WHERE provenance = ? AND phase NOT IN ('idle', 'sleep')", provenance
        ),
        "uncertainty": added(row["uncertainty_j"] for row in _spent(rows)) if provenance == "measured" else None,
        "provenance": provenance,
        "updates_covered": covered,
        "updates_admitted": ledger.value(_ADMITTED),
        "by_provenance": _by_provenance(ledger),
        "by_phase": [dict(row) for row in sums],
        "meters": _meters(rows),
        "reconciled": _reconciled(rows),
        "unavailable": [
            dict(row)
            for row in ledger.rows(
                "SELECT phase, source, scope, reason, COUNT(*) AS readings FROM energy WHERE energy_j IS NULL "
                "GROUP BY phase, source, scope, reason ORDER BY phase, source, scope, reason"
            )
        ],
    }


def _by_provenance(ledger: Ledger) -> dict[str, float | None]:
    """Sums of making and sending; `None` for measured ones where several meters saw the same: see `meters`."""
    sums: dict[str, float | None] = {
        row["provenance"]: row["value"]
        for row in ledger.rows(
            "SELECT provenance, SUM(energy_j) AS value FROM energy WHERE energy_j IS NOT NULL "
            "AND phase NOT IN ('idle', 'sleep') GROUP BY provenance ORDER BY provenance"
        )
    }
    twice = ledger.row(
        "SELECT 1 FROM energy WHERE provenance = 'measured' GROUP BY update_uid, phase HAVING COUNT(*) > 1 LIMIT 1"
    )
    return sums if twice is None else {**sums, "measured": None}


def _main_provenance(ledger: Ledger) -> str:
    """The provenance whose sum stands for the run."""
    once = ledger.value(
        "SELECT COUNT(*) FROM (SELECT update_uid FROM energy WHERE provenance = 'measured' AND phase = 'train' "
        "AND update_uid IN (SELECT uid FROM updates WHERE status = 'admitted') "
        "GROUP BY update_uid HAVING COUNT(*) = 1)"
    )
    if once > 0 and once == ledger.value(_ADMITTED):
        return "measured"
    present = {row[0] for row in ledger.rows("SELECT DISTINCT provenance FROM energy WHERE energy_j IS NOT NULL")}
    return next((name for name in ("modelled", "emulated") if name in present), "unavailable")


def _spent(rows: Iterable[sqlite3.Row]) -> list[sqlite3.Row]:
    return [row for row in rows if row["phase"] not in WAITING]


def _sum(rows: Sequence[sqlite3.Row]) -> dict[str, Any]:
    return {
        "value": sum(row["energy_j"] for row in rows) if rows else None,
        "uncertainty": added(row["uncertainty_j"] for row in rows),
        "duration_s": sum(row["duration_s"] for row in rows),
        "readings": len(rows),
    }


# --- idle, dynamic, total -----------------------------------------------------------------------------------------


def _meters(rows: Sequence[sqlite3.Row]) -> list[dict[str, Any]]:
    """Each source and scope by itself, with what its devices take at rest told apart."""
    grouped: dict[tuple[str, str], list[sqlite3.Row]] = {}
    for row in rows:
        grouped.setdefault((row["source"], row["scope"]), []).append(row)
    return [_meter(source, scope, mine) for (source, scope), mine in sorted(grouped.items())]


def _meter(source: str, scope: str, rows: Sequence[sqlite3.Row]) -> dict[str, Any]:
    spent = _spent(rows)
    total = _sum(spent)
    overhead_s, duration_s = added(row["overhead_s"] for row in rows), sum(row["duration_s"] for row in rows)
    return {
        "source": source,
        "scope": scope,
        "updates": len({row["update_uid"] for row in spent}),
        "total": total,
        **_apart(spent, total),
        "waiting": _sum([row for row in rows if row["phase"] in WAITING]),
        "idle_power_w": {
            row["node"]: {"value": row["power_w"], "uncertainty": row["uncertainty_w"], "stdev": row["stdev_w"]}
            for row in rows
            if row["power_w"] is not None
        },
        "overhead_s": overhead_s,
        "overhead_share": overhead_s / duration_s if overhead_s is not None and duration_s > 0 else None,
    }


def _apart(spent: Sequence[sqlite3.Row], total: dict[str, Any]) -> dict[str, Any]:
    """What of `total` the devices would have taken at rest (idle power × duration), and what the work added to it.

    No figure as soon as one reading has no idle power. A difference within its ± of 0 may be negative: it is shown as
    it is.
    """
    without = sum(row["power_w"] is None for row in spent)
    if without or not spent:
        return {"baseline": None, "dynamic": None, "without_baseline": without}
    idle_j = sum(row["power_w"] * row["duration_s"] for row in spent)
    off_j = added(None if row["uncertainty_w"] is None else row["uncertainty_w"] * row["duration_s"] for row in spent)
    return {
        "baseline": {"value": idle_j, "uncertainty": off_j},
        "dynamic": {"value": total["value"] - idle_j, "uncertainty": added((total["uncertainty"], off_j))},
        "without_baseline": 0,
    }


# --- two meters at once -------------------------------------------------------------------------------------------


def _reconciled(rows: Sequence[sqlite3.Row]) -> list[dict[str, Any]]:
    """Pairs of meters that measured the same phase of the same updates, in the order in which devices name them.

    `ratio` is second / first, `difference` second − first: what a wall plug sees beyond the processor's own sensor.
    """
    windows: dict[tuple[str, str], list[sqlite3.Row]] = {}
    for row in rows:
        windows.setdefault((row["update_uid"], row["phase"]), []).append(row)
    pairs: dict[tuple[str, ...], list[tuple[sqlite3.Row, sqlite3.Row]]] = {}
    for (_, phase), found in windows.items():
        for first, second in combinations(found, 2):
            key = (phase, first["source"], first["scope"], second["source"], second["scope"])
            pairs.setdefault(key, []).append((first, second))
    return [_pair(phase, both) for (phase, *_), both in sorted(pairs.items())]


def _pair(phase: str, both: Sequence[tuple[sqlite3.Row, sqlite3.Row]]) -> dict[str, Any]:
    first, second = ([pair[side] for pair in both] for side in (0, 1))
    one, two = _sum(first), _sum(second)
    return {
        "phase": phase,
        "updates": len(both),
        "first": {"source": first[0]["source"], "scope": first[0]["scope"], **one},
        "second": {"source": second[0]["source"], "scope": second[0]["scope"], **two},
        "ratio": two["value"] / one["value"],
        "difference": two["value"] - one["value"],
        "uncertainty": added((one["uncertainty"], two["uncertainty"])),
    }
