from __future__ import annotations

import shutil
import time

from server.checkpoints import AFTER_BYTES, Checkpoints, move
from server.ledger import FILE_NAME, Ledger

PATIENCE_S = 5.0


def test_the_log_is_moved_beside_the_writer_and_nothing_of_it_is_lost(tmp_path):
    """A copy without the log is what the file alone holds."""
    path = tmp_path / FILE_NAME
    with Ledger(path) as ledger, Checkpoints(path) as checkpoints:
        ledger.event("info", "early" * 100_000)
        checkpoints.look(AFTER_BYTES - 1)
        with ledger.transaction():
            ledger.event("info", "in a transaction while it is moved")
            checkpoints.look(AFTER_BYTES)
            wait_until_in_the_file(path, tmp_path / "copy.sqlite", "early")
        ledger.event("info", "late")
    with Ledger.open_read(path) as ledger:
        assert [row["text"][:5] for row in ledger.rows("SELECT text FROM events ORDER BY id")] == [
            "early",
            "in a ",
            "late",
        ]


def wait_until_in_the_file(path, copy, text: str) -> None:
    end_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < end_s:
        shutil.copy(path, copy)
        if text.encode() in copy.read_bytes():
            return
        time.sleep(0.01)
    raise AssertionError(f"{text} is not in {path} after {PATIENCE_S} s")


def test_a_fault_of_the_disk_is_logged_and_left_to_the_commits(tmp_path, caplog):
    with Checkpoints(tmp_path / "no folder" / FILE_NAME) as checkpoints:
        checkpoints.look(AFTER_BYTES)
        end_s = time.monotonic() + PATIENCE_S
        while not caplog.records and time.monotonic() < end_s:
            time.sleep(0.01)
    assert "could not be moved" in caplog.text


def test_a_log_that_was_moved_is_begun_anew(tmp_path):
    path = tmp_path / FILE_NAME
    with Ledger(path) as ledger:
        for _ in range(3):
            ledger.event("info", "x" * 1_000_000)
            pages, moved = move(path)
            assert pages == moved > 60
        assert path.with_name(f"{FILE_NAME}-wal").stat().st_size < 2_200_000
