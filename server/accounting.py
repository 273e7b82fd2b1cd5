"""Where every update went: what devices say they published, against what the ledger holds."""

from __future__ import annotations

from typing import Any

from server.drain import outstanding
from server.ledger import Ledger


def count_updates(ledger: Ledger) -> dict[str, Any]:
    """Fate of all updates of a run.

    Returns:
        `published`: what arrived, united with what devices say they published (the counter in their last
        `NodeState`, and the updates that their energy reports name). `admitted` and `refused`: rows of the ledger.
        `pending`: still in a device's spool by its own last word. `lost`: published, neither pending nor in the
        ledger, or acknowledged to the device and not in the ledger. `duplicated`: uids that entered an aggregate more
        than once. `redelivered`: arrivals of an update that had its verdict already, answered and not counted again.
        `refused_by_code`: refusals by reason. `unscored` and `without_energy`: admitted updates that nobody scored, or
        without an energy report.
    """
    left = outstanding(ledger)
    nodes = [_of_node(ledger, row["node"]) for row in ledger.rows(_NODES)]
    return {
        "published": sum(node["published"] for node in nodes),
        "admitted": ledger.value("SELECT COUNT(*) FROM updates WHERE status = 'admitted'"),
        "refused": ledger.value("SELECT COUNT(*) FROM updates WHERE status = 'refused'"),
        "lost": sum(node["lost"] for node in nodes),
        "duplicated": ledger.value(
            "SELECT COUNT(*) FROM (SELECT uid FROM aggregated GROUP BY uid HAVING COUNT(*) > 1)"
        ),
        "pending": sum(node["pending"] for node in nodes),
        "redelivered": ledger.value("SELECT COALESCE(SUM(redelivered), 0) FROM updates"),
        "refused_by_code": {
            row["code"]: row["n"]
            for row in ledger.rows(
                "SELECT code, COUNT(*) AS n FROM updates WHERE status = 'refused' GROUP BY code ORDER BY code"
            )
        },
        "unscored": left.scores,
        "without_energy": left.energy,
    }


_NODES = "SELECT node FROM nodes UNION SELECT node FROM updates UNION SELECT node FROM objects ORDER BY node"


def _of_node(ledger: Ledger, node: str) -> dict[str, int]:
    said = ledger.row("SELECT * FROM nodes WHERE node = ? ORDER BY epoch DESC LIMIT 1", node)
    arrived = int(ledger.value("SELECT COUNT(*) FROM updates WHERE node = ?", node))
    unseen = int(
        ledger.value(
            "SELECT COUNT(DISTINCT update_uid) FROM objects WHERE node = ? AND kind = 'energy' "
            "AND update_uid NOT IN (SELECT uid FROM updates)",
            node,
        )
    )
    counter = said["published"] if said is not None else 0
    waiting = said["pending"] if said is not None else 0
    published = max(arrived + unseen, counter)
    pending = min(waiting, published - arrived - unseen)
    return {"published": published, "pending": pending, "lost": published - arrived - pending}
