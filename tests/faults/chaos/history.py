"""What is left of a run: the server's ledger, every device's spool as it lies, and the witness's log.

Nothing is opened for writing, so that what is read is what the last process left.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct

from edge_client.residual import ResidualNote
from edge_client.spool import Journal, SpoolItem, _Box
from server.accounting import count_updates
from server.ledger import Ledger
from tests.faults.chaos.witness import Heard

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
