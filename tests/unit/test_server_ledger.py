from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from contract.errors import ConfigurationError, EnvironmentFaultError
from server.app import _faults_of
from server.ledger import FILE_NAME, Ledger, differences
from server.settings import ScheduleEntry
from tests.unit.server_world import World, name_of, settings

ROOT = Path(__file__).resolve().parents[2]


def test_what_a_transaction_wrote_is_there_and_what_it_did_not_finish_is_not(tmp_path):
    with Ledger(tmp_path / "new" / FILE_NAME) as ledger:
        with ledger.transaction():
            ledger.event("info", "kept")
        with pytest.raises(RuntimeError):
            fail_inside(ledger)
    with Ledger.open_read(tmp_path / "new" / FILE_NAME) as ledger:
        assert [row["text"] for row in ledger.rows("SELECT text FROM events")] == ["kept"]


def test_the_file_alone_holds_all_once_its_writer_closed_it(tmp_path):
    """A reader that stays leaves the log behind; whoever copies the file alone must lose nothing."""
    ledger = Ledger(tmp_path / FILE_NAME)
    with Ledger.open_read(tmp_path / FILE_NAME):
        with ledger.transaction():
            ledger.event("info", "kept")
        ledger.close()
        (tmp_path / "copy").mkdir()
        (tmp_path / "copy" / FILE_NAME).write_bytes((tmp_path / FILE_NAME).read_bytes())
    with Ledger.open_read(tmp_path / "copy" / FILE_NAME) as copy:
        assert [row["text"] for row in copy.rows("SELECT text FROM events")] == ["kept"]


def fail_inside(ledger: Ledger) -> None:
    with ledger.transaction():
        ledger.event("info", "lost")
        with ledger.transaction():
            ledger.event("info", "lost too")
        raise RuntimeError


def test_the_cause_is_said_where_sqlite_has_rolled_back_itself(tmp_path):
    with Ledger(tmp_path / "l.sqlite") as ledger:
        with pytest.raises(ValueError, match="the cause"), ledger.transaction():  # noqa: PT012
            ledger.execute("ROLLBACK")  # as SQLite does on a full disk
            raise ValueError("the cause")
        with ledger.transaction():
            ledger.set_meta("after", "fine")
        assert ledger.meta("after") == "fine"


def test_it_is_durable_by_its_settings(tmp_path):
    with Ledger(tmp_path / FILE_NAME) as ledger:
        assert ledger.value("PRAGMA journal_mode") == "wal"
        assert ledger.value("PRAGMA synchronous") == 2


def test_a_reader_looks_on_and_cannot_write(tmp_path):
    with Ledger(tmp_path / FILE_NAME) as ledger, Ledger.open_read(tmp_path / FILE_NAME) as reader:
        ledger.event("info", "now")
        assert reader.value("SELECT COUNT(*) FROM events") == 1
        with pytest.raises(Exception, match="readonly"):
            reader.event("info", "no")


def test_faults_are_said_plainly(tmp_path):
    with pytest.raises(ConfigurationError, match="no such ledger"):
        Ledger.open_read(tmp_path / FILE_NAME)
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(EnvironmentFaultError, match="folder that can be written"):
        Ledger(tmp_path / "file" / FILE_NAME)
    (tmp_path / FILE_NAME).write_bytes(b"not a database, but longer than the header of one" * 100)
    with pytest.raises(EnvironmentFaultError, match="not a database"):
        Ledger(tmp_path / FILE_NAME)


def test_a_ledger_of_another_schema_is_refused(tmp_path):
    with Ledger(tmp_path / FILE_NAME) as ledger:
        ledger.set_meta("schema", "999")
    with pytest.raises(ConfigurationError, match="schema '999'"):
        Ledger(tmp_path / FILE_NAME)


def test_resuming_with_other_settings_names_what_differs(tmp_path):
    entry = ScheduleEntry(rounds=2)
    first = settings(tmp_path, entry)
    with Ledger(tmp_path / FILE_NAME) as ledger:
        assert ledger.claim(first.identity()) is False
        assert ledger.claim(settings(tmp_path, entry, drain_s=1.0).identity()) is True, "patience is no part of a run"
        with pytest.raises(ConfigurationError, match=r"schedule\[0\]\.batch_size: 32 -> 8"):
            ledger.claim(settings(tmp_path, ScheduleEntry(rounds=2, batch_size=8)).identity())
        with pytest.raises(ConfigurationError, match=r"clients: 3 -> 4"):
            ledger.claim(settings(tmp_path, entry, clients=4).identity())


def test_differences_of_plain_values():
    before, now = {"a": [1, {"b": 2}], "c": 3}, {"a": [1, {"b": 5}], "d": 4}
    assert list(differences(before, now)) == ["a[1].b: 2 -> 5", "c: 3 -> null", "d: null -> 4"]


CHILD = """
import os, signal, sys
from pathlib import Path
from contract import topics
from server.settings import ScheduleEntry
from tests.unit.server_world import World, settings

world = World(settings(Path(sys.argv[1]), ScheduleEntry(), clients=2))
publish = world.wire.publish

def die_at_the_ack(topic, payload, *, retain=False):
    if topics.parse(topic).kind == "ack":
        os.kill(os.getpid(), signal.SIGKILL)
    return publish(topic, payload, retain=retain)

world.wire.publish = die_at_the_ack
world.node("a")
world.node("b")
world.update("a")
"""


def test_a_server_killed_between_journal_and_acknowledgement_has_the_update(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    child = subprocess.run([sys.executable, "-c", CHILD, tmp_path], env=environment, check=False, timeout=60)
    assert child.returncode == -signal.SIGKILL
    world = World(settings(tmp_path, ScheduleEntry(), clients=2))
    assert world.column("SELECT node FROM updates WHERE status = 'admitted'") == ["a"]
    assert world.column("SELECT closed FROM rounds") == ["interrupted"]
    uid = world.update("a", 1)
    assert uid == name_of("update", "a", 1)
    assert world.wire.verdicts(uid) == [("admitted", "")], "the device sends it again and hears that it is in"
    assert world.column("SELECT redelivered FROM updates") == [1]
    world.node("a")
    world.node("b")
    assert world.state.selected == ("b",)
    world.update("b")
    assert world.column("SELECT closed FROM rounds ORDER BY attempt") == ["interrupted", "complete"]
    assert sorted(world.column("SELECT uid FROM aggregated")) == sorted(name_of("update", n, 1) for n in "ab")
    assert world.server.drain is not None


def test_a_disk_that_fills_up_is_one_message_and_what_was_stored_stays(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.set_meta("run", "before")
        pages = ledger.value("PRAGMA page_count")
        ledger.value(f"PRAGMA max_page_count = {pages + 1}")
        with pytest.raises(EnvironmentFaultError, match="database or disk is full") as caught:
            overfill(ledger)
        assert str(tmp_path) in str(caught.value)
        assert "make room" in str(caught.value)
        assert ledger.meta("run") == "before"


def overfill(ledger: Ledger) -> None:
    with _faults_of(ledger.path.parent), ledger.transaction():
        ledger.set_meta("run", "after")
        ledger.set_meta("large", "x" * 100_000)
