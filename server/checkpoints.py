"""Moves the ledger's log into its file beside the server's work: no commit, and so no round, waits for it.

SQLite by itself does so within the commit that finds the log long, tens of milliseconds in which devices wait. A second
connection on a thread of its own may do it while the first goes on to write (`wal_checkpoint(PASSIVE)`); what is
durable when a commit returns is the same. A log that grows on all the same is moved by a commit (`server.ledger`).
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

log = logging.getLogger(__name__)

AFTER_BYTES = 8 * 1024 * 1024
"""Of what has come since the last time."""
_END_S = 30.0


class Checkpoints:
    """The thread; a context in which it lives.

    Args:
        path: The ledger's file, which is open for writing as long as the thread lives.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._noted = path, 0
        self._due, self._ending = threading.Event(), False
        self._thread = threading.Thread(target=self._live, name="checkpoints", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, _type: type[BaseException] | None, _error: object, _traceback: TracebackType | None) -> None:
        self._ending = True
        self._due.set()
        self._thread.join(_END_S)

    def look(self, written_bytes: int) -> None:
        """Has the log moved if that is worth while; returns at once.

        Args:
            written_bytes: About how much was written so far.
        """
        if written_bytes - self._noted >= AFTER_BYTES:
            self._noted = written_bytes
            self._due.set()

    def _live(self) -> None:
        while self._due.wait() and not self._ending:
            self._due.clear()
            try:
                move(self._path)
            except sqlite3.Error as error:  # the next commit meets the same fault, and says what to do
                log.warning("%s: the log could not be moved into the file: %s", self._path, error)


def move(path: Path) -> tuple[int, int]:
    """Moves what the log holds, but for what others still read.

    Returns:
        Pages in the log, and how many of them are in the file now.

    Raises:
        sqlite3.Error: The disk is full or broken.
    """
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        _, pages, moved = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    finally:
        connection.close()
    return pages, moved
