"""What devices spend on waiting: idle time between their updates, synchronous rounds beside asynchronous ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from hardware.energy import Provenance
from server.ledger import Ledger
from server.report.quantities import MISSING, duration, energy, percent

MODES = ("synchronous", "asynchronous")


class IdleJoules(msgspec.Struct, frozen=True, kw_only=True):
    """Joules of idle time of one provenance, source and scope, over `updates` updates."""

    provenance: Provenance
    source: str
    scope: str
    energy_j: float
    updates: int


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """One device in all rounds of one mode.

    Attributes:
        updates: Updates with an energy report: what the rest is about.
        idle_s: Seconds of their phase `idle`, from the settling of the update before to the beginning of this one. What
            comes after the last update is in no report.
        busy_s: Seconds of loading, encoding, training and packing.
        sending_s: Seconds from the storing of an update to its acknowledgement, where they are known.
        joules: Of the idle time, as far as there are figures; sums of like with like.
        reason: Why there are none; empty with some.
    """

    node: str
    mode: str
    updates: int
    idle_s: float
    busy_s: float
    sending_s: float
    joules: tuple[IdleJoules, ...] = ()
    reason: str = ""

    @property
    def idle_share(self) -> float | None:
        """Share of the time up to the last update; `None` when there was none."""
        whole_s = self.idle_s + self.busy_s + self.sending_s
        return self.idle_s / whole_s if whole_s > 0 else None


_SECONDS = """
SELECT node, mode, COUNT(DISTINCT update_uid) AS updates,
    SUM(seconds * (phase = 'idle')) AS idle_s, SUM(seconds * (phase = 'transmit')) AS sending_s,
    SUM(seconds * (phase NOT IN ('idle', 'transmit'))) AS busy_s
FROM (
    SELECT e.node, e.update_uid, e.phase, MAX(e.duration_s) AS seconds, r.mode
    FROM energy e JOIN (SELECT round, MAX(json_extract(plan, '$.mode')) AS mode FROM rounds GROUP BY round) r
    USING (round) GROUP BY e.node, e.update_uid, e.phase, r.mode
) GROUP BY node, mode ORDER BY node, mode DESC
"""
_JOULES = """
SELECT e.node, r.mode, e.provenance, e.source, e.scope, e.reason, SUM(e.energy_j) AS energy_j, COUNT(*) AS updates
FROM energy e JOIN (SELECT round, MAX(json_extract(plan, '$.mode')) AS mode FROM rounds GROUP BY round) r USING (round)
WHERE e.phase = 'idle' GROUP BY e.node, r.mode, e.provenance, e.source, e.scope, e.reason
ORDER BY e.provenance, e.source, e.scope
"""


def read_waiting(ledger: Ledger) -> tuple[Waiting, ...]:
    """Every device's waiting, by mode; devices without an energy report are not in it."""
    readings = ledger.rows(_JOULES)
    return tuple(
        Waiting(
            node=row["node"],
            mode=row["mode"],
            updates=row["updates"],
            idle_s=row["idle_s"],
            busy_s=row["busy_s"],
            sending_s=row["sending_s"],
            **_joules([r for r in readings if (r["node"], r["mode"]) == (row["node"], row["mode"])]),
        )
        for row in ledger.rows(_SECONDS)
    )


def _joules(rows: Sequence[Any]) -> dict[str, Any]:
    names = IdleJoules.__struct_fields__
    found = tuple(IdleJoules(**{name: row[name] for name in names}) for row in rows if row["energy_j"] is not None)
    missing = [row["reason"] for row in sorted(rows, key=lambda row: row["source"].startswith("model"))]
    return {"joules": found, "reason": "" if found else next(iter(missing), "no reading of the phase 'idle'")}


def summarised(waiting: Iterable[Waiting]) -> dict[str, Any]:
    """What `summary.json` says of it: per mode, seconds and joules of all devices together.

    Returns:
        By mode `updates`, `idle_s`, `busy_s`, `sending_s`, `idle_share`, and `joules`: one entry per provenance, source
        and scope; empty when there is no figure.
    """
    listed = tuple(waiting)
    return {
        mode: _total([w for w in listed if w.mode == mode]) for mode in MODES if any(w.mode == mode for w in listed)
    }


def _total(rows: Sequence[Waiting]) -> dict[str, Any]:
    every = [one for row in rows for one in row.joules]
    keys = dict.fromkeys((one.provenance, one.source, one.scope) for one in every)
    sums = [
        IdleJoules(
            provenance=key[0],
            source=key[1],
            scope=key[2],
            energy_j=sum(one.energy_j for one in same),
            updates=sum(one.updates for one in same),
        )
        for key in keys
        if (same := [one for one in every if (one.provenance, one.source, one.scope) == key])
    ]
    whole = Waiting(
        node="",
        mode="",
        updates=sum(row.updates for row in rows),
        idle_s=sum(row.idle_s for row in rows),
        busy_s=sum(row.busy_s for row in rows),
        sending_s=sum(row.sending_s for row in rows),
    )
    names = ("updates", "idle_s", "busy_s", "sending_s", "idle_share")
    return {**{name: getattr(whole, name) for name in names}, "joules": msgspec.to_builtins(sums)}


class WaitingLine(msgspec.Struct, frozen=True, kw_only=True):
    """A device's waiting as text: synchronous rounds, then asynchronous ones; an em dash where there were none."""

    who: str
    node: str
    cells: tuple[tuple[str, str, str, str], ...]


def waiting_lines(title: str, rows: Sequence[Waiting]) -> tuple[WaitingLine, ...]:
    """One line per device of a network.

    Args:
        title: What the page calls the network.
        rows: Of its devices.
    """
    by_place = {(row.node, row.mode): row for row in rows}
    return tuple(
        WaitingLine(who=title, node=node, cells=tuple(_cells(by_place.get((node, mode))) for mode in MODES))
        for node in dict.fromkeys(row.node for row in rows)
    )


def _cells(row: Waiting | None) -> tuple[str, str, str, str]:
    """Updates, idle time, its share, and its joules with what they are, or why there are none."""
    if row is None:
        return (MISSING,) * 4
    joules = ", ".join(f"{energy(one.energy_j)} {one.provenance} ({one.source}, {one.scope})" for one in row.joules)
    return str(row.updates), duration(row.idle_s), percent(row.idle_share), joules or f"unavailable: {row.reason}"
