"""From where a run was looked at: who sees what, and what of it was scored."""

from __future__ import annotations

from typing import Any

from contract.messages import Seen
from server.ledger import Ledger

VANTAGES: dict[Seen, tuple[str, ...]] = {
    "update": ("broker", "server"),
    "aggregate": ("broker", "server"),
    "models": ("fellow client",),
}
"""Who sees what. TLS ends at the broker: it reads what the server reads, the opened shares of secure aggregation among
it; whoever taps the line reads nothing.
"""
FELLOW: frozenset[Seen] = frozenset({"models"})
UNSCORED = (
    "FROM views, json_each(views.parts) AS part WHERE object IS NOT NULL AND NOT EXISTS "
    "(SELECT 1 FROM objects WHERE kind = 'score ' || views.seen AND update_uid = json_extract(part.value, '$[1]'))"
)
"""Parts of views that no score has come of."""


def holds(ledger: Ledger, update_uid: str, seen: Seen) -> bool:
    """Whether an update is part of what was mirrored as `seen`."""
    if seen == "update":
        return True
    found = (
        "SELECT 1 FROM views, json_each(views.parts) AS part WHERE seen = ? AND json_extract(part.value, '$[1]') = ?"
    )
    return ledger.row(f"{found} LIMIT 1", seen, update_uid) is not None


def kind_of(kind: str, seen: Seen) -> str:
    """How an object's kind is written in the table `objects`."""
    return kind if seen == "update" else f"{kind} {seen}"


def summarised(ledger: Ledger) -> list[dict[str, Any]]:
    """Each kind of sight of a run: how often it was shown, of how many devices, and why once it could not be."""
    rows = ledger.rows(
        "SELECT seen, COUNT(object) AS shown, COUNT(*) - COUNT(object) AS not_shown, "
        "MAX(CASE WHEN object IS NULL THEN note END) AS reason, MIN(json_array_length(parts)) AS fewest, "
        "MAX(json_array_length(parts)) AS most FROM views GROUP BY seen ORDER BY seen"
    )
    return [{**dict(row), "vantages": VANTAGES[row["seen"]]} for row in rows]
