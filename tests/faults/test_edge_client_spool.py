"""The spool through crashes, full disks and damaged files."""

from __future__ import annotations

import errno
import os
import random
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.errors import ConfigurationError, EnvironmentFaultError
from edge_client import spool as module
from edge_client.spool import Spool, SpoolItem


def item(number: int, kind: str = "update", **changes) -> SpoolItem:
    fields = {
        "uid": f"{number:032x}",
        "kind": kind,
        "round": number,
        "note": b"note",
        "blob": bytes([number % 256]) * 50,
    }
    return SpoolItem(**(fields | changes))


def opened(tmp_path: Path, **changes) -> Spool:
    return Spool(tmp_path / "spool", "run", "node", **changes)


def reopened(spool: Spool, tmp_path: Path, **changes) -> Spool:
    spool.close()
    return opened(tmp_path, **changes)


def numbers(spool: Spool) -> list[int]:
    return [int(found.uid, 16) for found in spool.pending()]


def test_what_was_put_is_there_after_a_restart_in_order(tmp_path):
    spool = opened(tmp_path)
    for number in (12, 3, 7):
        spool.outbox.put(item(number, "energy" if number == 3 else "update"))
    spool.outbox.delete(item(12).uid)
    spool = reopened(spool, tmp_path)
    assert numbers(spool) == [3, 7]
    spool.outbox.put(item(1))
    spool = reopened(spool, tmp_path)
    assert numbers(spool) == [3, 7, 1]
    assert spool.outbox.get(item(3).uid) == item(3, "energy")
    assert spool.outbox.get(item(99).uid) is None
    assert spool.pending()[0].note == b"note"
    assert spool.pending()[0].blob == b""


def test_an_object_put_again_replaces_itself(tmp_path):
    spool = opened(tmp_path)
    spool.outbox.put(item(1))
    spool.outbox.put(item(2))
    spool.outbox.put(item(1, blob=b"new"))
    spool = reopened(spool, tmp_path)
    assert numbers(spool) == [1, 2]
    assert spool.outbox.get(item(1).uid).blob == b"new"
    spool.outbox.delete(item(1).uid)
    spool.outbox.delete(item(1).uid)
    assert numbers(spool) == [2]


def test_every_start_is_a_new_epoch_and_the_journal_is_kept(tmp_path):
    spool = opened(tmp_path)
    assert spool.journal.epoch == 1
    spool.record(published=4, made=("t", 3, 1))
    spool = reopened(spool, tmp_path)
    assert (spool.journal.epoch, spool.journal.published, spool.journal.made) == (2, 4, ("t", 3, 1))


def test_a_damaged_journal_never_lets_epochs_go_back(tmp_path):
    spool = opened(tmp_path)
    (tmp_path / "spool" / "journal.json").write_bytes(b'{"run": "run", "no')
    spool = reopened(spool, tmp_path)
    assert spool.journal.epoch > 1_000_000_000
    assert (tmp_path / "spool" / "quarantine" / "journal.json").exists()


def test_a_folder_belongs_to_one_device_and_one_process(tmp_path):
    spool = opened(tmp_path)
    with pytest.raises(EnvironmentFaultError, match="in use by another process"):
        opened(tmp_path)
    spool.close()
    with pytest.raises(ConfigurationError, match="belongs to device 'node' of run 'run', not to 'node' of 'other'"):
        Spool(tmp_path / "spool", "other", "node")
    opened(tmp_path).close()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 200), st.sampled_from(["cut", "flip", "append"]), st.integers(1, 255))
def test_a_damaged_file_is_set_aside_and_the_rest_goes_on(tmp_path_factory, place, damage, byte):
    tmp_path = tmp_path_factory.mktemp("damaged")
    spool = opened(tmp_path)
    for number in (1, 2, 3):
        spool.outbox.put(item(number))
    (victim,) = (tmp_path / "spool" / "outbox").glob(f"*.{item(2).uid}")
    data = bytearray(victim.read_bytes())
    place %= len(data)
    if damage == "cut":
        del data[place:]
    elif damage == "flip":
        data[place] ^= byte
    else:
        data.append(byte)
    victim.write_bytes(data)
    assert spool.outbox.get(item(2).uid) is None
    victim.write_bytes(data)
    spool = reopened(spool, tmp_path)
    assert numbers(spool) == [1, 3]
    assert spool.journal.quarantined_updates == 1
    assert [p.name for p in (tmp_path / "spool" / "quarantine").iterdir()] == [victim.name]
    spool.close()


def test_strange_and_unfinished_files_are_no_obstacle(tmp_path):
    spool = opened(tmp_path)
    spool.outbox.put(item(1))
    folder = tmp_path / "spool" / "outbox"
    (folder / "000000000009.update.1.ff.tmp").write_bytes(b"half")
    (folder / "README").write_text("what am I doing here", encoding="utf-8")
    spool = reopened(spool, tmp_path)
    assert numbers(spool) == [1]
    assert len(list(folder.iterdir())) == 1


def test_receipts_are_capped_and_the_loss_is_counted(tmp_path, caplog):
    spool = opened(tmp_path, receipts_kept=3)
    for number in range(5):
        spool.keep_receipt(item(number, "receipt"))
    assert [int(uid, 16) for uid in spool.receipts] == [2, 3, 4]
    assert spool.journal.dropped_receipts == 2
    assert "3 receipts wait for a score" in caplog.text
    spool = reopened(spool, tmp_path, receipts_kept=3)
    assert [int(uid, 16) for uid in spool.receipts] == [2, 3, 4]
    assert spool.journal.dropped_receipts == 2


@pytest.mark.parametrize("call", ["fsync", "replace", "open"])
def test_a_full_disk_is_a_clear_error_and_leaves_no_half_file(tmp_path, monkeypatch, call):
    spool = opened(tmp_path)
    spool.outbox.put(item(1))

    def full(*_args: object, **_kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    owner = {"fsync": os, "replace": Path, "open": Path}[call]
    monkeypatch.setattr(owner, call, full)
    with pytest.raises(EnvironmentFaultError, match=r"No space left on device.*make room"):
        spool.outbox.put(item(2))
    monkeypatch.undo()
    assert len(list((tmp_path / "spool" / "outbox").iterdir())) == 1
    assert spool.outbox.get(item(2).uid) is None
    spool.outbox.put(item(2))
    assert numbers(reopened(spool, tmp_path)) == [1, 2]


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(EnvironmentFaultError, match="cannot be used"):
        Spool(tmp_path / "file" / "spool", "run", "node")


def test_the_rename_comes_after_the_sync_and_the_folder_is_synced_last(tmp_path, monkeypatch):
    calls: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        calls.append("sync " + ("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"))
        fsync(descriptor)

    def renamed(self: Path, target: Path) -> Path:
        calls.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    module.write_durably(tmp_path / "x", b"a", b"b")
    assert calls == ["sync file", "rename", "sync folder"]
    assert (tmp_path / "x").read_bytes() == b"ab"


def test_a_spool_that_is_not_synced_writes_over_what_it_deleted(tmp_path):
    spool = opened(tmp_path, sync=False)
    outbox = tmp_path / "spool" / "outbox"
    for number in (1, 2, 3):
        spool.outbox.put(item(number, blob=b"long" * 5000))
    for number in (1, 2, 3):
        spool.outbox.delete(item(number).uid)
    assert list(outbox.iterdir()) == []
    assert len(list((tmp_path / "spool").glob("spare.*"))) == 2
    for number in (4, 5, 6):
        spool.outbox.put(item(number))
    assert list((tmp_path / "spool").glob("spare.*")) == []
    assert [spool.outbox.get(item(number).uid) for number in (4, 5, 6)] == [item(4), item(5), item(6)]
    for number in (4, 5):
        spool.outbox.delete(item(number).uid)
    for spare in (tmp_path / "spool").glob("spare.*"):
        spare.unlink()  # whoever tidies up does no harm
    spool.outbox.put(item(7))
    assert numbers(reopened(spool, tmp_path, sync=False)) == [6, 7]
    assert list((tmp_path / "spool").glob("spare.*")) == []


def test_a_synced_spool_writes_over_nothing(tmp_path):
    """A power cut may undo a renaming, but not what was written over."""
    spool = opened(tmp_path)
    spool.outbox.put(item(1))
    spool.outbox.delete(item(1).uid)
    assert list((tmp_path / "spool").glob("spare.*")) == []


WRITER = """
import sys
from pathlib import Path
from edge_client.spool import Spool, SpoolItem
spool = Spool(Path(sys.argv[1]), "run", "node", sync=sys.argv[2] == "synced")
print("epoch", spool.journal.epoch, flush=True)
number = spool.journal.published
while True:
    number += 1
    uid = f"{number:032x}"
    blob = number.to_bytes(4, "little") * 100_000
    spool.outbox.put(SpoolItem(uid=uid, kind="update", round=number, blob=blob))
    spool.record(published=number)
    print("put", number, flush=True)
    if number % 3 == 0:
        print("deleting", number - 2, flush=True)
        spool.outbox.delete(f"{number - 2:032x}")
"""


@pytest.mark.parametrize("sync", ["synced", "unsynced"])
def test_sigkill_in_mid_write_loses_nothing_that_was_put(tmp_path, sync):
    chance = random.Random(7)
    put: set[int] = set()
    deleted: set[int] = set()
    for life in range(1, 6):
        child = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / "spool"), sync], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        assert child.stdout.readline() == f"epoch {2 * life - 1}\n"
        time.sleep(chance.uniform(0.02, 0.15))
        child.send_signal(signal.SIGKILL)
        for line in child.communicate()[0].splitlines(keepends=True):
            if not line.endswith("\n"):
                continue  # cut by the kill
            verb, number = line.split()
            (put if verb == "put" else deleted).add(int(number))
        spool = opened(tmp_path)
        found = numbers(spool)
        assert found == sorted(found)
        assert put - deleted <= set(found)
        assert spool.journal.quarantined_updates == 0
        # The last write may have ended just before its line was printed, nothing else.
        assert set(found) - put <= {max(put, default=0) + 1}
        for number in found:
            assert spool.outbox.get(f"{number:032x}").blob == number.to_bytes(4, "little") * 100_000
        put |= set(found)
        spool.record(published=max(put))
        spool.close()
    assert len(put) > 5
