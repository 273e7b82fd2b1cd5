"""`spikeleak export`: a run's ledger as Parquet files, one a table. `spikeleak cite`: what its methods come from."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from attack.citations import CITATIONS
from attack.method import Citation
from contract.errors import ConfigurationError
from server.aggregation.citations import CITATIONS as RULES
from server.ledger import FILE_NAME, Ledger
from server.settings import ScheduleEntry

_TYPES: dict[str, type] = {"TEXT": str, "INTEGER": int, "REAL": float}
FOLDER = "export"


class _Scheduled(msgspec.Struct, frozen=True):
    """What is read of a ledger's settings."""

    schedule: tuple[ScheduleEntry, ...]


def export(directory: Path) -> list[Path]:
    """Writes every table of a run's ledger, and of its twin's, to ``export/`` in its folder.

    Columns of bytes (updates, models, pictures) are left out: they stay in the ledger. Nulls stay nulls.

    Args:
        directory: Folder of a run.

    Returns:
        The files.

    Raises:
        ConfigurationError: The folder holds no run.
    """
    written = _exported(directory / FILE_NAME, directory / FOLDER)
    twin = directory / "twin" / FILE_NAME
    if twin.exists():
        written += _exported(twin, directory / FOLDER / "twin")
    return written


def _exported(ledger_path: Path, folder: Path) -> list[Path]:
    from deploy import parquet  # noqa: PLC0415 - takes a moment

    with Ledger.open_read(ledger_path) as ledger:
        folder.mkdir(parents=True, exist_ok=True)
        names = [
            row["name"] for row in ledger.rows("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
        ]
        paths = []
        for name in names:
            if name.startswith("sqlite_"):
                continue
            schema = _schema(ledger, name)
            rows = [dict(row) for row in ledger.rows(f'SELECT {", ".join(schema)} FROM "{name}"')]  # noqa: S608 - ours
            paths.append(folder / f"{name}.parquet")
            parquet.write(paths[-1], rows, schema)
    return paths


def _schema(ledger: Ledger, table: str) -> dict[str, type]:
    columns: Iterable[sqlite3.Row] = ledger.rows("SELECT name, type FROM pragma_table_info(?)", table)
    return {row["name"]: _TYPES[row["type"]] for row in columns if row["type"] in _TYPES}


def citations(directory: Path | None) -> list[Citation]:
    """Works behind the attacks and the rounds of a run, or of any run of a sweep; all of them without a folder.

    Args:
        directory: Folder of a run or of a sweep.

    Raises:
        ConfigurationError: The folder holds neither.
    """
    from attack.methods import KNOWN  # noqa: PLC0415 - brings torch

    if directory is None:
        return [*CITATIONS.values(), *(Citation(key=key, entry=entry) for key, entry in RULES.items())]
    ledgers = sorted(directory.glob(FILE_NAME)) + sorted(directory.glob(f"twin/{FILE_NAME}"))
    ledgers += sorted(directory.glob(f"runs/*/{FILE_NAME}")) + sorted(directory.glob(f"runs/*/twin/{FILE_NAME}"))
    if not ledgers:
        raise ConfigurationError(f"{directory}: holds no {FILE_NAME}, so no run; name the --out folder of one")
    names: dict[str, Any] = {}
    rules: set[str] = set()
    for path in ledgers:
        with Ledger.open_read(path) as ledger:
            names |= dict.fromkeys(row["attack"] for row in ledger.rows("SELECT DISTINCT attack FROM reconstructions"))
            settings = msgspec.json.decode(ledger.meta("settings") or '{"schedule": []}', type=_Scheduled)
        rules.update(key for entry in settings.schedule for key in entry.cited)
    used = {KNOWN[name].citation.key for name in names if name in KNOWN} | {"spikeleak"}
    attacks = [citation for key, citation in CITATIONS.items() if key in used]
    return [*attacks, *(Citation(key=key, entry=entry) for key, entry in RULES.items() if key in rules)]
