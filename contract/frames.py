"""Objects as chunks: the frame layout of SPEC.md. Bytes in, bytes out; no I/O.

Each MQTT message on a chunked topic is one frame::

    magic "SPLK" | version u8 | reserved u8 | reserved u16 | index u32 | count u32 | total u64 | offset u64
    | crc32 u32 | uid 16 bytes | sha256 32 bytes | payload

All integers are little-endian. `crc32` covers the payload of this chunk, `sha256` the whole object.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Callable, Iterator

import msgspec

from contract.errors import WireError

MAGIC = b"SPLK"
VERSION = 1
HEADER = struct.Struct("<4sBBHIIQQI16s32s")
CHUNK_BYTES = 256 * 1024
"""Largest frame, header included; less where the broker announces less. Longer ones are refused unread."""
MAX_OBJECT_BYTES = 256 * 1024 * 1024
MAX_CHUNKS = 65_536


class Frame(msgspec.Struct, frozen=True, kw_only=True):
    """One parsed frame; `payload` is a view into the received bytes."""

    uid: str
    index: int
    count: int
    total: int
    offset: int
    sha256: bytes
    payload: memoryview


class CompleteObject(msgspec.Struct, frozen=True, kw_only=True):
    """An object whose every chunk has arrived and whose SHA-256 is right."""

    uid: str
    sha256: str
    blob: bytearray


def split(blob: bytes | bytearray | memoryview, uid: str, *, frame_bytes: int = CHUNK_BYTES) -> Iterator[bytes]:
    """Cuts an object into frames.

    Args:
        blob: The object.
        uid: 32 hex digits that name it.
        frame_bytes: Largest frame, header included; never more than `CHUNK_BYTES`.

    Yields:
        Frames in order; a single empty chunk for an empty object.

    Raises:
        WireError: `frame_bytes` leaves no room, or the object needs more than `MAX_CHUNKS` chunks.
    """
    view = memoryview(blob)
    step = min(frame_bytes, CHUNK_BYTES) - HEADER.size
    if step < 1:
        raise WireError(f"frame_bytes = {frame_bytes}: a frame's header alone takes {HEADER.size}")
    count = max(1, -(-len(view) // step))
    if count > MAX_CHUNKS or len(view) > MAX_OBJECT_BYTES:
        raise WireError(f"object of {len(view)} bytes in {count} chunks: at most {MAX_OBJECT_BYTES} in {MAX_CHUNKS}")
    digest = hashlib.sha256(view).digest()
    key = bytes.fromhex(uid)
    for index in range(count):
        offset = index * step
        payload = view[offset : offset + step]
        crc = zlib.crc32(payload)
        head = HEADER.pack(MAGIC, VERSION, 0, 0, index, count, len(view), offset, crc, key, digest)
        yield b"".join((head, payload))


def parse(data: bytes | bytearray | memoryview) -> Frame:
    """Takes one frame apart and checks all that a frame alone can show.

    Raises:
        WireError: Truncated, too long, foreign, of another version, inconsistent lengths, or a wrong CRC-32.
    """
    view = memoryview(data)
    if not HEADER.size <= len(view) <= CHUNK_BYTES:
        raise WireError(f"frame of {len(view)} bytes: the header alone takes {HEADER.size}, at most {CHUNK_BYTES}")
    magic, version, _, _, index, count, total, offset, crc, key, digest = HEADER.unpack_from(view)
    payload = view[HEADER.size :]
    if magic != MAGIC:
        raise WireError(f"frame begins with {magic!r}, not {MAGIC!r}")
    if version != VERSION:
        raise WireError(f"frame version {version}: this side speaks {VERSION}")
    if not (1 <= count <= min(MAX_CHUNKS, max(1, total)) and index < count and total <= MAX_OBJECT_BYTES):
        raise WireError(f"chunk {index} of {count}, object of {total} bytes: limits {MAX_CHUNKS}, {MAX_OBJECT_BYTES}")
    if offset + len(payload) > total or (index == count - 1) != (offset + len(payload) == total):
        raise WireError(f"chunk {index} of {count} covers {offset}+{len(payload)} of {total} bytes")
    if zlib.crc32(payload) != crc:
        raise WireError(f"chunk {index} of {count}: CRC-32 {zlib.crc32(payload):08x}, announced {crc:08x}")
    return Frame(uid=key.hex(), index=index, count=count, total=total, offset=offset, sha256=digest, payload=payload)


def object_cost(total: int, count: int) -> int:
    """Bytes that an incomplete object may take in memory, with what Python needs to keep track of its chunks."""
    return total + 200 * count + 500


class _Partial:
    """An object on its way in."""

    def __init__(self, frame: Frame) -> None:
        self.total, self.count, self.sha256 = frame.total, frame.count, frame.sha256
        self.blob = bytearray(frame.total)
        self.have: dict[int, tuple[int, int]] = {}

    @property
    def cost(self) -> int:
        """See `object_cost`."""
        return object_cost(self.total, self.count)

    def continues(self, frame: Frame) -> bool:
        """Whether a frame belongs to the same cut of the same object."""
        return (frame.total, frame.count, frame.sha256) == (self.total, self.count, self.sha256)

    def add(self, frame: Frame) -> None:
        self.blob[frame.offset : frame.offset + len(frame.payload)] = frame.payload
        self.have[frame.index] = (frame.offset, len(frame.payload))

    def covered(self) -> bool:
        end = 0
        for _, (offset, length) in sorted(self.have.items()):
            if offset != end:
                return False
            end += length
        return end == self.total


class Assembler:
    """Puts objects together from frames in any order, with duplicates, within a fixed amount of memory.

    Args:
        max_object_bytes: Largest object that is accepted.
        max_total_bytes: Bytes held for incomplete objects, bookkeeping included; when exceeded the oldest incomplete
            object is dropped (its sender sends it again until it is acknowledged). A single object is always taken.
        on_drop: Called with the uid of each object that is dropped for want of memory.
    """

    def __init__(
        self,
        *,
        max_object_bytes: int = MAX_OBJECT_BYTES,
        max_total_bytes: int | None = None,
        on_drop: Callable[[str], object] = lambda _uid: None,
    ) -> None:
        self.max_object_bytes = max_object_bytes
        self.max_total_bytes = max_total_bytes or 4 * max_object_bytes
        self._on_drop = on_drop
        self._partial: dict[str, _Partial] = {}
        self._held = 0
        self.dropped = 0

    @property
    def held_bytes(self) -> int:
        """Bytes held for incomplete objects, bookkeeping included."""
        return self._held

    def wants(self, frame: Frame) -> int:
        """Bytes that a frame would open an object with; 0 when it continues one, or gets whole at once.

        What an older cut of the object holds is let go first.
        """
        partial = self._partial.get(frame.uid)
        if partial is not None and not partial.continues(frame):
            self.forget(frame.uid)
            partial = None
        return 0 if partial is not None or frame.count == 1 else object_cost(frame.total, frame.count)

    def add(self, data: bytes | bytearray | memoryview | Frame) -> CompleteObject | None:
        """Takes one frame; returns its object once complete.

        Raises:
            WireError: A frame that `parse` refuses, an object over the limit, or a wrong SHA-256.
        """
        frame = data if isinstance(data, Frame) else parse(data)
        if frame.total > self.max_object_bytes:
            raise WireError(f"object of {frame.total} bytes: this receiver takes at most {self.max_object_bytes}")
        partial = self._partial.get(frame.uid)
        if partial is not None and not partial.continues(frame):
            # The sender cut the object anew (another chunk size), or lies: begin again with the newest.
            self.forget(frame.uid)
            partial = None
        if partial is None:
            self._make_room(object_cost(frame.total, frame.count))
            partial = self._partial[frame.uid] = _Partial(frame)
            self._held += partial.cost
        partial.add(frame)
        if len(partial.have) < partial.count:
            return None
        self.forget(frame.uid)
        if not partial.covered() or hashlib.sha256(partial.blob).digest() != partial.sha256:
            raise WireError(f"object {frame.uid}: SHA-256 over {partial.total} bytes does not match its frames")
        return CompleteObject(uid=frame.uid, sha256=partial.sha256.hex(), blob=partial.blob)

    def _make_room(self, wanted: int) -> None:
        while self._partial and self._held + wanted > self.max_total_bytes:
            self.drop_oldest()

    def drop_oldest(self) -> None:
        """Gives up the oldest incomplete object, if there is one."""
        oldest = next(iter(self._partial), None)
        if oldest is not None:
            self.drop(oldest)

    def drop(self, uid: str) -> None:
        """Gives up what has arrived of `uid` for want of memory."""
        self.forget(uid)
        self.dropped += 1
        self._on_drop(uid)

    def missing(self, uid: str) -> tuple[int, ...]:
        """Indices of the chunks of `uid` that have not arrived; empty when the object is unknown here."""
        partial = self._partial.get(uid)
        return () if partial is None else tuple(i for i in range(partial.count) if i not in partial.have)

    def forget(self, uid: str) -> None:
        """Drops what has arrived of `uid`."""
        partial = self._partial.pop(uid, None)
        if partial is not None:
            self._held -= partial.cost
