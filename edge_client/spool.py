"""The device's durable memory: an outbox, receipts, the residual of error feedback, and a journal.

Every file is written to a temporary name, synced, renamed, and its folder synced: after a crash a file is there
wholly or not at all. What is damaged all the same goes to `quarantine/` with a log line.

Layout of a file, little-endian: ``"SPKO" | crc32 u32 of the rest | head length u32 | head: MessagePack | blob``.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from contract.errors import ConfigurationError, EnvironmentFaultError
from edge_client.spares import Spares

log = logging.getLogger(__name__)

Kind = Literal["update", "energy", "score", "truth", "receipt", "residual"]

_PREFIX = struct.Struct("<4sII")
_MAGIC = b"SPKO"
_IN_PLACE_BYTES = 1024
"""A journal in place is padded with blanks to this length, so that a shorter one leaves nothing of a longer."""


class SpoolItem(msgspec.Struct, frozen=True, kw_only=True):
    """One object at rest.

    Attributes:
        uid: 32 hex digits that name the object for ever.
        kind: What it is; decides its topic.
        round: Round that it belongs to.
        note: What the device itself must remember about it; never sent.
        blob: The object's bytes, as sent.
    """

    uid: str
    kind: Kind
    round: int
    note: bytes = b""
    blob: bytes = b""


class _Head(msgspec.Struct, frozen=True, kw_only=True):
    uid: str
    kind: Kind
    round: int
    note: bytes


class Journal(msgspec.Struct, frozen=True, kw_only=True):
    """What survives every restart.

    Attributes:
        run: Run that this folder belongs to.
        node: Device that this folder belongs to.
        epoch: Number of starts.
        published: Updates ever put into the outbox.
        made: Task hash, round and attempt of the last update made.
        residual: The update that left the residual which holds, see `edge_client.residual`; empty without one.
        dropped_receipts: Receipts given up because too many waited for a score.
        quarantined_updates: Updates given up because their file was damaged.
    """

    run: str
    node: str
    epoch: int = 0
    published: int = 0
    made: tuple[str, int, int] | None = None
    residual: str = ""
    dropped_receipts: int = 0
    quarantined_updates: int = 0


def write_durably(path: Path, *parts: bytes, sync: bool = True, over: Path | None = None) -> None:
    """Writes a file so that it is there wholly or not at all, whatever happens.

    Args:
        path: The file.
        parts: Its content.
        sync: `False` leaves it to the system when the bytes reach the disk: then that holds for a process that is
            killed, not for a machine that loses power.
        over: A file that nobody needs any more, which becomes this one.

    Raises:
        EnvironmentFaultError: The disk is full, read-only or broken; no half file is left.
    """
    temporary = over or path.with_name(f"{path.name}.{os.getpid()}.tmp")  # processes may share a folder of graphs
    try:
        with temporary.open("wb" if over is None else "r+b") as file:
            file.writelines(parts)
            file.truncate()
            file.flush()
            if sync:
                os.fsync(file.fileno())
        temporary.replace(path)
        if sync:
            _sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise EnvironmentFaultError(
            f"{path}: {sum(map(len, parts))} bytes cannot be written ({error.strerror or error}): "
            "make room or give a writable 'directory'"
        ) from error


def _write_in_place(path: Path, data: bytes) -> None:
    """Writes a small file over its own content with a single call, which no kill cuts in two; a power cut may.

    Renaming over an existing file makes file systems flush the new one (ext4's auto_da_alloc), which is what a spool
    that is not synced must not wait for.

    Raises:
        EnvironmentFaultError: As `write_durably`.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            os.pwrite(descriptor, data.ljust(_IN_PLACE_BYTES), 0)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise EnvironmentFaultError(
            f"{path}: {len(data)} bytes cannot be written ({error.strerror or error}): "
            "make room or give a writable 'directory'"
        ) from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _Box:
    """A folder of items in the order of their arrival."""

    def __init__(self, folder: Path, quarantine: Path, *, sync: bool, spares: Spares | None = None) -> None:
        self._folder, self._quarantine, self._sync, self._spares = folder, quarantine, sync, spares
        self._files: dict[str, Path] = {}
        self._next = 0
        self.damaged: list[str] = []
        for path in sorted(folder.iterdir()):
            self._adopt(path)

    def _adopt(self, path: Path) -> None:
        if path.suffix == ".tmp":
            path.unlink(missing_ok=True)  # a write that a crash cut short: its object was never promised to anybody
            return
        try:
            item = self._read(path)
        except ValueError as error:
            self._set_aside(path, str(error))
            return
        if item.uid in self._files:  # put again under a new number just before a crash
            self._files.pop(item.uid).unlink(missing_ok=True)
        self._files[item.uid] = path
        self._next = max(self._next, int(path.name.split(".")[0]) + 1)

    @staticmethod
    def _read(path: Path) -> SpoolItem:
        number = path.name.split(".")[0]
        if not (number.isascii() and number.isdigit()):
            raise ValueError("its name does not begin with a number")
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ValueError(f"it cannot be read: {error}") from error
        if len(data) < _PREFIX.size:
            raise ValueError(f"{len(data)} bytes are less than its head")
        magic, crc, head_bytes = _PREFIX.unpack_from(data)
        if magic != _MAGIC or zlib.crc32(memoryview(data)[8:]) != crc:
            raise ValueError("its CRC-32 does not match")
        try:
            head = msgspec.msgpack.decode(memoryview(data)[_PREFIX.size : _PREFIX.size + head_bytes], type=_Head)
        except msgspec.DecodeError as error:
            raise ValueError(f"its head is of another version: {error}") from error
        blob = data[_PREFIX.size + head_bytes :]
        return SpoolItem(uid=head.uid, kind=head.kind, round=head.round, note=head.note, blob=blob)

    def _set_aside(self, path: Path, reason: str) -> None:
        log.error("%s is damaged (%s): moved to %s", path, reason, self._quarantine)
        self.damaged.append(path.name)
        with contextlib.suppress(OSError):
            path.replace(self._quarantine / path.name)

    def put(self, item: SpoolItem) -> None:
        old = self._files.get(item.uid)
        path = old or self._folder / f"{self._next:012d}.{item.kind}.{item.round}.{item.uid}"
        head = msgspec.msgpack.encode(_Head(uid=item.uid, kind=item.kind, round=item.round, note=item.note))
        length = struct.pack("<I", len(head))
        crc = zlib.crc32(item.blob, zlib.crc32(head, zlib.crc32(length)))
        over = None if self._spares is None else self._spares.take()
        write_durably(path, _MAGIC, struct.pack("<I", crc), length, head, item.blob, sync=self._sync, over=over)
        self._files[item.uid] = path
        self._next += old is None

    def get(self, uid: str) -> SpoolItem | None:
        path = self._files.get(uid)
        if path is None:
            return None
        try:
            return self._read(path)
        except ValueError as error:
            del self._files[uid]
            self._set_aside(path, str(error))
            return None

    def delete(self, uid: str) -> None:
        path = self._files.pop(uid, None)
        if path is None:
            return
        try:
            if self._spares is None or not self._spares.give(path):
                path.unlink()
        except FileNotFoundError:
            return
        except OSError as error:
            raise EnvironmentFaultError(f"{path}: cannot be deleted ({error.strerror or error})") from error

    def __len__(self) -> int:
        return len(self._files)

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._files))


class Spool:
    """The durable memory of one device in one run. One process at a time.

    Args:
        directory: Folder of its own; made when it is not there.
        run: Run name.
        node: Device name.
        receipts_kept: Receipts that may wait for a score; beyond it the oldest is dropped and counted.
        sync: See `write_durably`.

    Raises:
        ConfigurationError: The folder belongs to another run or device.
        EnvironmentFaultError: The folder cannot be used, or another process uses it.
    """

    def __init__(self, directory: Path, run: str, node: str, *, receipts_kept: int = 1024, sync: bool = True) -> None:
        self._directory, self._receipts_kept, self._sync = directory, receipts_kept, sync
        self._lock = _locked(directory)
        try:
            self._open(run, node)
        except BaseException:
            self.close()
            raise

    def _open(self, run: str, node: str) -> None:
        directory, quarantine = self._directory, self._directory / "quarantine"
        self.journal = self._read_journal(run, node)
        spares = None if self._sync else Spares(directory)
        self.outbox = _Box(directory / "outbox", quarantine, sync=self._sync, spares=spares)
        self.receipts = _Box(directory / "receipts", quarantine, sync=self._sync)
        self.residuals = _Box(directory / "residuals", quarantine, sync=self._sync)
        damaged = sum(".update." in name for name in self.outbox.damaged)
        self.record(
            epoch=self.journal.epoch + 1,
            quarantined_updates=self.journal.quarantined_updates + damaged,
        )

    def _read_journal(self, run: str, node: str) -> Journal:
        path = self._directory / "journal.json"
        if not path.exists():
            return Journal(run=run, node=node)
        try:
            journal = msgspec.json.decode(path.read_bytes(), type=Journal)
        except (msgspec.DecodeError, OSError) as error:
            # A file's time is beyond any number of starts: epochs go on increasing.
            epoch = int(path.stat().st_mtime)
            log.error("%s is damaged (%s): moved to quarantine, epoch %d", path, error, epoch)  # noqa: TRY400
            path.replace(self._directory / "quarantine" / path.name)
            return Journal(run=run, node=node, epoch=epoch)
        if (journal.run, journal.node) != (run, node):
            raise ConfigurationError(
                f"directory = '{self._directory}' belongs to device {journal.node!r} of run {journal.run!r}, not to "
                f"{node!r} of {run!r}: give each device and run a directory of its own"
            )
        return journal

    def record(self, **changes: object) -> None:
        """Changes fields of the journal, durably."""
        self.journal = msgspec.structs.replace(self.journal, **changes)
        path, data = self._directory / "journal.json", msgspec.json.encode(self.journal)
        if self._sync or len(data) > _IN_PLACE_BYTES:
            write_durably(path, data)
        else:
            _write_in_place(path, data)

    def keep_receipt(self, item: SpoolItem) -> None:
        """Keeps a receipt; drops and counts the oldest when too many wait."""
        self.receipts.put(item)
        surplus = list(self.receipts)[: max(0, len(self.receipts) - self._receipts_kept)]
        for uid in surplus:
            self.receipts.delete(uid)
        if surplus:
            total = self.journal.dropped_receipts + len(surplus)
            self.record(dropped_receipts=total)
            log.warning("%d receipts wait for a score: the oldest was dropped (%d so far)", self._receipts_kept, total)

    def pending(self) -> tuple[SpoolItem, ...]:
        """Everything in the outbox, oldest first, without the bytes."""
        found = (self.outbox.get(uid) for uid in self.outbox)
        return tuple(msgspec.structs.replace(item, blob=b"") for item in found if item is not None)

    def close(self) -> None:
        """Lets another process use the folder."""
        os.close(self._lock)


def _locked(directory: Path) -> int:
    try:
        for name in ("outbox", "receipts", "residuals", "quarantine"):
            (directory / name).mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise EnvironmentFaultError(
            f"directory = '{directory}' cannot be used ({error.strerror}): give a writable one"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise EnvironmentFaultError(
            f"directory = '{directory}' is in use by another process: stop it, or give another directory"
        ) from error
    return descriptor
