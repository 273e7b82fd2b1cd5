"""The ledger before everything that is said: one commit for a whole batch, and nothing said without it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.ledger import FILE_NAME, Ledger
from server.outgoing import Outgoing


class Wire:
    """Notes with each message how many events the ledger held for another process at that moment."""

    frame_bytes = 1000

    def __init__(self, path: Path) -> None:
        self.connected = True
        self.said: list[tuple[str, int]] = []
        self._path = path

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:  # noqa: ARG002
        with sqlite3.connect(self._path) as other:
            (count,) = other.execute("SELECT COUNT(*) FROM events").fetchone()
        other.close()
        self.said.append((topic, count))
        return self.connected


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / FILE_NAME) as opened:
        yield opened


def test_all_that_is_said_in_a_batch_is_said_after_its_one_commit(ledger: Ledger) -> None:
    wire = Wire(ledger.path)
    outgoing = Outgoing(wire, ledger)
    with outgoing.together():
        for number in range(3):
            with ledger.transaction():
                ledger.event("info", str(number))
            assert outgoing.publish(f"ack/{number}", b"")
        assert wire.said == []
    assert wire.said == [("ack/0", 3), ("ack/1", 3), ("ack/2", 3)]
    outgoing.publish("later", b"")
    assert wire.said[-1] == ("later", 3)


def test_a_batch_that_fails_leaves_nothing_and_says_nothing(ledger: Ledger) -> None:
    wire = Wire(ledger.path)
    outgoing = Outgoing(wire, ledger)

    def fail() -> None:
        with outgoing.together():
            ledger.event("info", "x")
            outgoing.publish("ack", b"")
            raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        fail()
    assert wire.said == []
    assert ledger.value("SELECT COUNT(*) FROM events") == 0
    assert outgoing.publish("ack", b""), "after it the wire is as before"


def test_what_is_said_offline_is_not_kept(ledger: Ledger) -> None:
    wire = Wire(ledger.path)
    wire.connected = False
    outgoing = Outgoing(wire, ledger)
    with outgoing.together():
        assert not outgoing.publish("ack", b"")
    assert wire.said == []


def test_a_nested_transaction_is_all_or_nothing_by_itself(ledger: Ledger) -> None:
    def fail() -> None:
        with ledger.transaction():
            ledger.event("info", "inner")
            raise ValueError("inner")

    with ledger.transaction():
        ledger.event("info", "before")
        with pytest.raises(ValueError, match="inner"):
            fail()
        with ledger.transaction(), ledger.transaction():
            ledger.event("info", "after")
    assert [row["text"] for row in ledger.rows("SELECT text FROM events ORDER BY rowid")] == ["before", "after"]
