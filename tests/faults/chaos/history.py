"""Proves from what is left on disk that no update was lost or counted twice.

Read are the server's ledger, every device's spool as it lies (nothing is opened for writing), and the witness's log.
`violations` is a pure function of what was read, so that forged histories can show that it finds what it should.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct

from edge_client.residual import ResidualNote
from edge_client.spool import Journal, SpoolItem, _Box
from server.accounting import count_updates
from server.ledger import Ledger
from tests.faults.chaos.witness import Heard

ADMITTED, REFUSED = "admitted", "refused"
Row = TypeVar("Row", bound=Struct)


class UpdateRow(Struct, frozen=True, kw_only=True):
    """A row of the ledger's `updates`; `order` counts them as they were written."""

    uid: str
    node: str
    round: int
    epoch: int
    model_version: int
    status: str
    sha256: str
    samples: int
    order: int = 0
    code: str = ""


class RoundRow(Struct, frozen=True, kw_only=True):
    """A closed round and the version that it made."""

    round: int
    admitted: int
    new_version: int


class AggregateRow(Struct, frozen=True, kw_only=True):
    """An update in a version."""

    version: int
    round: int
    uid: str
    weight: float


class Spooled(Struct, frozen=True, kw_only=True):
    """What a device's folder holds.

    Attributes:
        outbox: Objects that wait for an acknowledgement, by uid: their kind.
        receipts: Updates of which it keeps a receipt: it made them.
        residuals: Files in `residuals/`.
        returned: Refused updates that the residual which holds has taken back.
        damaged: Files in `quarantine/`.
    """

    journal: Journal
    outbox: dict[str, str]
    receipts: frozenset[str]
    residuals: frozenset[str]
    returned: frozenset[str] = frozenset()
    damaged: tuple[str, ...] = ()


class History(Struct, frozen=True, kw_only=True):
    """All that is known of a run."""

    updates: tuple[UpdateRow, ...]
    rounds: tuple[RoundRow, ...]
    aggregated: tuple[AggregateRow, ...]
    reports: frozenset[str]
    reported: frozenset[str]
    spools: dict[str, Spooled]
    heard: tuple[Heard, ...]
    lost: int
    duplicated: int


# --- reading --------------------------------------------------------------------------------------------------------


def read(ledger_path: Path, folders: dict[str, Path], heard: tuple[Heard, ...]) -> History:
    """The history of a run whose parties have left.

    Args:
        ledger_path: The server's ledger.
        folders: Each device's spool.
        heard: The witness's log.
    """
    with Ledger.open_read(ledger_path) as ledger:
        counted = count_updates(ledger)
        return History(
            updates=_rows(ledger, UpdateRow, "SELECT *, rowid AS 'order' FROM updates ORDER BY rowid"),
            rounds=_rows(ledger, RoundRow, "SELECT * FROM rounds WHERE new_version IS NOT NULL ORDER BY round"),
            aggregated=_rows(ledger, AggregateRow, "SELECT * FROM aggregated"),
            reports=frozenset(row["uid"] for row in ledger.rows("SELECT uid FROM objects")),
            reported=frozenset(row[0] for row in ledger.rows("SELECT update_uid FROM objects WHERE kind = 'energy'")),
            spools={node: read_spool(folder) for node, folder in folders.items()},
            heard=heard,
            lost=counted["lost"],
            duplicated=counted["duplicated"],
        )


def _rows(ledger: Ledger, kind: type[Row], sql: str) -> tuple[Row, ...]:
    names = kind.__struct_fields__
    return tuple(msgspec.convert({name: row[name] for name in names}, kind) for row in ledger.rows(sql))


def read_spool(folder: Path) -> Spooled:
    """A device's folder as it lies, after its process has left cleanly."""
    journal = msgspec.json.decode((folder / "journal.json").read_bytes(), type=Journal)
    residuals = items(folder / "residuals")
    held = residuals.get(journal.residual)
    returned = () if held is None else msgspec.msgpack.decode(held.note, type=ResidualNote).returned
    return Spooled(
        journal=journal,
        outbox={uid: item.kind for uid, item in items(folder / "outbox").items()},
        receipts=frozenset(items(folder / "receipts")),
        residuals=frozenset(residuals),
        returned=frozenset(returned),
        damaged=tuple(sorted(path.name for path in (folder / "quarantine").iterdir())),
    )


def items(folder: Path) -> dict[str, SpoolItem]:
    """What lies in one box of a spool, oldest first.

    Raises:
        ValueError: A file is damaged, or an unfinished one was left.
    """
    found = (_Box._read(path) for path in sorted(folder.iterdir()))
    return {item.uid: item for item in found}


# --- the claims -----------------------------------------------------------------------------------------------------


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
