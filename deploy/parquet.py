"""Rows as Parquet files, for pandas, polars and DuckDB."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet


def write(path: Path, rows: Sequence[Mapping[str, Any]], schema: Mapping[str, type], *, about: str = "") -> None:
    """Writes a table in one step: another reader sees the old file or the new one.

    Args:
        path: The file.
        rows: One mapping each; a key that is missing is null.
        schema: Type by column, in their order: `str`, `int`, `float` or `bool`.
        about: Kept in the file's metadata under ``about``.
    """
    types = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    fields = [pa.field(name, types[kind]) for name, kind in schema.items()]
    described = pa.schema(fields, metadata={"about": about} if about else None)
    table = pa.Table.from_pylist([{name: row.get(name) for name in schema} for row in rows], schema=described)
    temporary = path.with_name(path.name + ".tmp")
    parquet.write_table(table, temporary, compression="zstd")
    temporary.replace(path)


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a table, in their order."""
    found: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
    return found
