"""What secure aggregation did and cost in a run, for `summary.json`."""

from __future__ import annotations

from typing import Any

from server.ledger import Ledger

_UP = "('KeyOffer', 'ShareOffer', 'Reveal')"


def secure(ledger: Ledger) -> dict[str, Any] | None:
    """Bytes and joules that masks added; `None` of a run without.

    Returns:
        `rounds`: that were closed with their sum. `openings_failed`: came to nothing, or were cut off by a restart.
        `survivors` and `lost`: devices in these sums, and those whose masks were taken out. `bytes_messages`: payloads
        about keys, shares and survivors, up and down, failed openings and repetitions included; the updates themselves
        are in `bytes_up` of the run. `energy_j`: by work (computing, sending) and provenance, with the number of
        readings and of those that are unavailable; never added up over provenances.
    """
    if ledger.row("SELECT 1 FROM rounds WHERE json_extract(plan, '$.secure') IS NOT NULL LIMIT 1") is None:
        return None
    sums = ledger.row(
        "SELECT COUNT(*) AS rounds, COALESCE(SUM(json_array_length(survivors)), 0) AS survivors, "
        "COALESCE(SUM(json_array_length(members) - json_array_length(survivors)), 0) AS lost, "
        "SUM(unmask_s) AS unmask_s FROM masked_sums WHERE (round, attempt) IN "
        "(SELECT round, attempt FROM rounds WHERE closed IN ('complete', 'deadline'))"
    )
    sent = ledger.row(
        f"SELECT COALESCE(SUM(bytes), 0) AS total, COALESCE(SUM(bytes * (message IN {_UP})), 0) AS up "  # noqa: S608
        "FROM masking_messages"
    )
    assert sums is not None
    assert sent is not None
    failed = ledger.value(
        "SELECT COUNT(*) FROM rounds WHERE json_extract(plan, '$.secure') IS NOT NULL AND closed IN "
        "('empty', 'interrupted')"
    )
    return {
        "rounds": sums["rounds"],
        "openings_failed": failed,
        "survivors": sums["survivors"],
        "lost": sums["lost"],
        "bytes_messages": sent["total"],
        "bytes_messages_up": sent["up"],
        "bytes_messages_per_update": sent["total"] / sums["survivors"] if sums["survivors"] else None,
        "unmask_s": sums["unmask_s"],
        "energy_j": _energy(ledger),
    }


def _energy(ledger: Ledger) -> list[dict[str, Any]]:
    rows = ledger.rows(
        "SELECT work, provenance, SUM(energy_j) AS energy_j, SUM(duration_s) AS duration_s, COUNT(*) AS readings, "
        "COUNT(DISTINCT update_uid) AS updates, MAX(reason) AS reason FROM masking_costs "
        "GROUP BY work, provenance ORDER BY work, provenance"
    )
    return [dict(row) for row in rows]
