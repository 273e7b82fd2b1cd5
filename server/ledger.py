"""The ledger: everything the server knows, in one SQLite file. What is not in here did not happen.

Write-ahead log with `synchronous=FULL`: when a method returns, its rows survive the process and the machine. The
server acknowledges an object only after that. Readers (`open_read`) may look on from other processes at any time.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import msgspec

from contract.errors import ConfigurationError, EnvironmentFaultError
from server.schema import SCHEMA, SCHEMA_VERSION

FILE_NAME = "ledger.sqlite"
_BUSY_S = 10.0
_PAGE_BYTES = 16384
"""Updates are long rows: fewer, larger pages."""
_CHECKPOINT_PAGES = 8000
"""Log that a commit moves into the file, 128 MB: so long it grows where `server.checkpoints` is not at work."""


class Ledger:
    """The ledger of one run, open for writing. One process only writes.

    Args:
        path: The file; made when it is not there, its folder too.

    Raises:
        EnvironmentFaultError: The folder cannot be written, or the file is no ledger.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._writes = path, True
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.connection = _connect(str(path))
            self.connection.execute(f"PRAGMA page_size={_PAGE_BYTES}")
            self.connection.execute("PRAGMA journal_mode=WAL")
            self.connection.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")
            self.connection.execute("PRAGMA synchronous=FULL")
            self.connection.executescript(f"BEGIN IMMEDIATE;{SCHEMA}COMMIT;")
            with self.transaction():
                self._insert_meta("schema", str(SCHEMA_VERSION))
        except (OSError, sqlite3.Error) as error:
            raise EnvironmentFaultError(f"ledger {path}: {error}; {_remedy(error)}") from error
        self._check_version()

    @classmethod
    def open_read(cls, path: Path) -> Self:
        """Opens an existing ledger for reading only, also while a server writes it.

        Raises:
            ConfigurationError: There is no such ledger.
        """
        if not path.is_file():
            raise ConfigurationError(f"{path}: no such ledger; give the folder of a run")
        self = cls.__new__(cls)
        self.path, self._writes = path, False
        try:
            self.connection = _connect(f"file:{path}?mode=ro", uri=True)
            self._check_version()
        except sqlite3.Error as error:
            raise EnvironmentFaultError(f"ledger {path}: {error}; is this the folder of a run?") from error
        return self

    def _check_version(self) -> None:
        found = self.meta("schema")
        if found != str(SCHEMA_VERSION):
            raise ConfigurationError(
                f"ledger {self.path}: schema {found!r}, this program reads {SCHEMA_VERSION}; start a new folder"
            )

    def close(self) -> None:
        """Closes the file. All of a writer's rows are then in it, none in the log beside it that a copy may forget."""
        if self._writes and not self.connection.in_transaction:
            with suppress(sqlite3.Error):  # a reader at work, a full disk: what is durable stays so, in the log
                self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self.connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing; durable when the block ends. A nested block is all or nothing within the outer one."""
        if self.connection.in_transaction:
            with self._savepoint():
                yield
            return
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.connection.execute("COMMIT")
        except BaseException:
            self._roll_back()
            raise

    @contextmanager
    def _savepoint(self) -> Iterator[None]:
        self.connection.execute("SAVEPOINT nested")  # one within another of this name hides it until its release
        try:
            yield
            self.connection.execute("RELEASE nested")
        except BaseException:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK TO nested")
                self.connection.execute("RELEASE nested")
            raise

    def _roll_back(self) -> None:
        if self.connection.in_transaction:  # SQLite itself rolls back on some errors, a full disk for one
            self.connection.execute("ROLLBACK")

    # --- reading ------------------------------------------------------------------------------------------------

    def rows(self, sql: str, *values: Any) -> list[sqlite3.Row]:
        """All rows of a query; the tables are described in `server.schema`."""
        return self.connection.execute(sql, values).fetchall()

    def row(self, sql: str, *values: Any) -> sqlite3.Row | None:
        """The first row of a query."""
        found: sqlite3.Row | None = self.connection.execute(sql, values).fetchone()
        return found

    def value(self, sql: str, *values: Any) -> Any:
        """First column of the first row; `None` without a row."""
        found = self.row(sql, *values)
        return None if found is None else found[0]

    def meta(self, key: str) -> str | None:
        """One of the run's own facts: `run`, `settings`, `task_hash`, `rounds`, `outcome`."""
        found: str | None = self.value("SELECT value FROM meta WHERE key = ?", key)
        return found

    # --- writing ------------------------------------------------------------------------------------------------

    def insert(
        self, table: str, values: Mapping[str, Any], *, or_ignore: bool = False, or_replace: bool = False
    ) -> bool:
        """Adds one row, with `or_replace` in place of the one with its key.

        Returns:
            Whether a row was added (`False` only with `or_ignore`, when its key was there already).
        """
        columns = ", ".join(values)
        marks = ", ".join("?" * len(values))
        verb = "INSERT OR IGNORE" if or_ignore else "INSERT OR REPLACE" if or_replace else "INSERT"
        cursor = self.connection.execute(
            f"{verb} INTO {table} ({columns}) VALUES ({marks})",
            tuple(values.values()),
        )
        return cursor.rowcount == 1

    def execute(self, sql: str, *values: Any) -> None:
        """One writing statement."""
        self.connection.execute(sql, values)

    def _insert_meta(self, key: str, value: str) -> None:
        self.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", key, value)

    def set_meta(self, key: str, value: str) -> None:
        """Sets one of the run's own facts."""
        self.execute(
            "INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value", key, value
        )

    def start_session(self) -> int:
        """Counts a start of the server; returns its epoch, from 1."""
        with self.transaction():
            epoch = int(self.value("SELECT COALESCE(MAX(epoch), 0) + 1 FROM sessions"))
            self.insert("sessions", {"epoch": epoch, "started_wall": time.time()})
        return epoch

    def event(self, level: str, text: str) -> None:
        """Notes something a reader of the report should know."""
        self.insert("events", {"wall": time.time(), "level": level, "text": text})

    # --- a run's identity -----------------------------------------------------------------------------------------

    def claim(self, settings: Mapping[str, Any]) -> bool:
        """Binds the ledger to a run's settings, or checks that it already is.

        Args:
            settings: What makes the run what it is, as plain values.

        Returns:
            Whether the ledger held this run already, so that it is to be resumed.

        Raises:
            ConfigurationError: It belongs to a run with other settings; the message names what differs.
        """
        held = self.meta("settings")
        if held is None:
            with self.transaction():
                self.set_meta("settings", msgspec.json.encode(settings, order="sorted").decode())
            return False
        before = msgspec.json.decode(held)
        now = msgspec.json.decode(msgspec.json.encode(settings))
        changed = list(differences(before, now))
        if changed:
            raise ConfigurationError(
                f"{self.path.parent} holds a run with other settings: {'; '.join(changed[:5])}; "
                "take the old settings to resume it, or another folder"
            )
        return True


def differences(before: Any, now: Any, where: str = "") -> Iterator[str]:
    """Where two plain values differ, as `key: old -> new`."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted(before.keys() | now.keys()):
            yield from differences(before.get(key), now.get(key), f"{where}.{key}" if where else key)
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for index, pair in enumerate(zip(before, now, strict=True)):
            yield from differences(*pair, f"{where}[{index}]")
    elif before != now:
        yield f"{where}: {msgspec.json.encode(before).decode()} -> {msgspec.json.encode(now).decode()}"


def _remedy(error: Exception) -> str:
    damaged = isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError)
    if damaged:
        return "the file is damaged or no ledger: put a copy back, or start a new folder"
    return "make room or choose a folder that can be written"


def _connect(path: str, *, uri: bool = False) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, uri=uri)
    connection.row_factory = sqlite3.Row
    return connection
