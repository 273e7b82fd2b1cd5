"""Proves from what is left of a run that no update was lost or counted twice.

`violations` is a pure function of a history, so that forged ones can show that it finds what it should.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from tests.faults.chaos.history import History

ADMITTED, REFUSED = "admitted", "refused"


def violations(history: History) -> list[str]:
    """Every claim that the history breaks, in words; empty when all hold."""
    return [
        *_acknowledged(history),
        *_counted_once(history),
        *_made_by_devices(history),
        *(fault for node in history.spools for fault in _delivered(history, node)),
        *(fault for node in history.spools for fault in _residual(history, node)),
        *_summary(history),
    ]


def _acknowledged(history: History) -> Iterator[str]:
    """What was acknowledged on the wire is in the ledger with the same verdict."""
    rows = {row.uid: row for row in history.updates}
    verdicts: dict[str, set[str]] = {}
    for heard in history.heard:
        if heard.said not in {ADMITTED, REFUSED}:
            continue
        verdicts.setdefault(heard.uid, set()).add(heard.said)
        row = rows.get(heard.uid)
        if row is None and heard.uid not in history.reports and heard.said == ADMITTED:
            yield f"{heard.uid} of {heard.node} was acknowledged as admitted and is not in the ledger"
        elif row is not None and (row.status, row.node) != (heard.said, heard.node):
            yield (
                f"{heard.uid} was acknowledged to {heard.node} as {heard.said}; the ledger has it as {row.status} of "
                f"{row.node}"
            )
    for uid, said in verdicts.items():
        if len(said) > 1:
            yield f"{uid} was acknowledged as admitted and as refused"


def _counted_once(history: History) -> Iterator[str]:
    """Each admitted update is in the aggregate of its own closed round, once, with its weight; nothing else is."""
    times = Counter(row.uid for row in history.aggregated)
    admitted = {row.uid: row for row in history.updates if row.status == ADMITTED}
    versions = {row.round: row.new_version for row in history.rounds}
    for uid, row in admitted.items():
        if times[uid] == 0:
            yield f"{uid} of {row.node}, round {row.round}, was admitted and is in no aggregate"
    for uid, count in times.items():
        if count > 1:
            yield f"{uid} was counted {count} times"
    for entry in history.aggregated:
        update = admitted.get(entry.uid)
        if update is None:
            yield f"{entry.uid} is in version {entry.version} and was never admitted"
        elif (entry.round, entry.weight, entry.version) != (
            update.round,
            update.samples,
            versions.get(update.round),
        ):
            yield (
                f"{entry.uid} of round {update.round} with {update.samples} samples is in version {entry.version} of "
                f"round {entry.round} with weight {entry.weight:g}"
            )
    for closed in history.rounds:
        found = sum(entry.version == closed.new_version for entry in history.aggregated)
        if found != closed.admitted:
            yield f"round {closed.round} closed with {closed.admitted} updates, {found} are in its version"


def _made_by_devices(history: History) -> Iterator[str]:
    """What was admitted was made by the device that it names, and has the bytes that were sent."""
    sent = {heard.uid: heard for heard in history.heard if heard.said == "sent"}
    for row in history.updates:
        spool = history.spools.get(row.node)
        if spool is None or (row.status == ADMITTED and row.uid not in spool.receipts):
            yield f"{row.uid} was admitted from {row.node}, which has no receipt of it"
        seen = sent.get(row.uid)
        if seen is not None and (seen.node, seen.detail) != (row.node, row.sha256):
            yield f"{row.uid}: {seen.node} sent {seen.detail[:12]}, the ledger has {row.sha256[:12]} of {row.node}"


def _delivered(history: History, node: str) -> Iterator[str]:
    """Whatever entered the outbox is in the outbox or in the ledger; so is an admitted update's energy report."""
    spool = history.spools[node]
    arrived = {row.uid for row in history.updates if row.node == node}
    waiting = {uid for uid, kind in spool.outbox.items() if kind == "update"}
    known = len(arrived | waiting)
    if spool.journal.published != known:
        yield (
            f"{node} published {spool.journal.published} updates; {known} are in the ledger ({len(arrived)}) or still "
            f"in its outbox ({len(waiting)})"
        )
    if spool.damaged or spool.journal.quarantined_updates:
        yield f"{node}: damaged files {spool.damaged}, {spool.journal.quarantined_updates} updates given up"
    if spool.journal.dropped_receipts:
        yield f"{node} dropped {spool.journal.dropped_receipts} receipts"
    reports = sum(kind == "energy" for kind in spool.outbox.values())
    silent = {row.uid for row in history.updates if row.node == node} - history.reported - waiting
    if len(silent) > reports:
        yield f"{node}: {len(silent)} updates are without an energy report, {reports} reports wait in its outbox"


def _residual(history: History, node: str) -> Iterator[str]:
    """One residual is held: that of the update which the device made last; it took back nothing that was admitted."""
    spool = history.spools[node]
    held = spool.journal.residual
    if spool.residuals != ({held} if held else set()):
        yield f"{node} holds the residuals {sorted(spool.residuals)}; its journal names {held!r}"
    rows = {row.uid: row for row in history.updates if row.node == node}
    if held and held not in rows and spool.outbox.get(held) != "update":
        yield f"{node}: the residual is that of {held}, which is neither in the ledger nor in the outbox"
    later = [row.uid for row in rows.values() if held in rows and row.round > rows[held].round]
    if later or (rows and not held):
        yield f"{node}: the residual is that of {held or 'no update'}, though {sorted(later or rows)} came later"
    for uid in sorted(spool.returned):
        if uid in rows and rows[uid].status != REFUSED:
            yield f"{node} took back {uid}, which was admitted"


def _summary(history: History) -> Iterator[str]:
    if history.lost or history.duplicated:
        yield f"summary: lost = {history.lost}, duplicated = {history.duplicated}"


def require(faults: Iterable[str]) -> None:
    """Raises when there are violations.

    Raises:
        AssertionError: Names the first of them and how many there are.
    """
    found = list(faults)
    assert not found, f"{len(found)} violations: {'; '.join(found[:5])}"
