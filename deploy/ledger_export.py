"""`spikeleak export`: a run's ledger as Parquet files, one a table."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path

from server.ledger import FILE_NAME, Ledger

_TYPES: dict[str, type] = {"TEXT": str, "INTEGER": int, "REAL": float}
FOLDER = "export"


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
