"""Frames in, whole objects out: one assembler per device and kind of topic, and what is still missing.

A device can fill its own assembler only; what arrives under its topics never touches another's objects, unless all
together hold more than `HELD_BYTES`: then those give way that hold the most.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import msgspec

from contract import frames
from contract.errors import WireError
from contract.topics import Topic

HELD_BYTES = 256 * 1024 * 1024
"""Incomplete objects of all devices together, bookkeeping included: the limit of what strangers make a server hold."""
MISSING_AFTER_S = 2.0
MISSING_TIMES = 15


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """A whole object and the topic under which its last frame came."""

    topic: Topic
    uid: str
    sha256: str
    blob: bytes


class OversizeError(WireError):
    """The object can never be accepted; its sender is told so."""

    def __init__(self, uid: str, text: str, total: int, sha256: str) -> None:
        super().__init__(text)
        self.uid, self.total, self.sha256 = uid, total, sha256


class _Progress(msgspec.Struct):
    at_s: float
    asked: int = 0


class Inbox:
    """Assembles the objects of all devices.

    Args:
        max_bytes: Largest object by kind of topic; four of them may be in the making per device and kind.
        held_bytes: Room for incomplete objects of all devices together, at least one of the largest.
    """

    def __init__(self, max_bytes: Mapping[str, int], held_bytes: int = HELD_BYTES) -> None:
        self._max_bytes = dict(max_bytes)
        most = max(self._max_bytes.values())
        self._held_bytes = max(held_bytes, frames.object_cost(most, frames.MAX_CHUNKS))
        self._assemblers: dict[tuple[str, str], frames.Assembler] = {}
        self._progress: dict[tuple[str, str, str], _Progress] = {}
        self._held: dict[tuple[str, str], int] = {}
        self._total = 0

    @property
    def held_bytes(self) -> int:
        """Bytes held for incomplete objects, bookkeeping included."""
        return self._total

    def add(self, topic: Topic, frame: frames.Frame, at_s: float) -> Delivery | None:
        """Takes one frame; returns its object once whole.

        Raises:
            OversizeError: The object is over the limit.
            WireError: A frame under another's topic, an object for which there is no room now, or with a wrong SHA-256.
        """
        if topic.uid and frame.uid != topic.uid:
            raise WireError(f"frame of {frame.uid} under the topic of {topic.uid}")
        limit = self._max_bytes[topic.kind]
        if frame.total > limit:
            text = f"object of {frame.total} bytes, at most {limit} are taken"
            raise OversizeError(frame.uid, text, frame.total, frame.sha256.hex())
        key = (topic.kind, topic.node)
        with self._counted(key) as assembler:
            self._make_room(key, assembler.wants(frame))
            whole = assembler.add(frame)
        if whole is None:
            known = self._progress.setdefault((*key, frame.uid), _Progress(at_s))
            known.at_s, known.asked = at_s, 0
            return None
        self._progress.pop((*key, frame.uid), None)
        return Delivery(topic=topic, uid=whole.uid, sha256=whole.sha256, blob=bytes(whole.blob))

    @contextmanager
    def _counted(self, key: tuple[str, str]) -> Iterator[frames.Assembler]:
        """The assembler of a kind and device, whose change is counted."""
        if key not in self._assemblers:
            self._assemblers[key] = frames.Assembler(
                max_object_bytes=self._max_bytes[key[0]], on_drop=lambda uid: self._progress.pop((*key, uid), None)
            )
            self._held[key] = 0
        assembler = self._assemblers[key]
        try:
            yield assembler
        finally:
            self._total += assembler.held_bytes - self._held[key]
            self._held[key] = assembler.held_bytes

    def _make_room(self, key: tuple[str, str], wanted: int) -> None:
        """Gives up the oldest objects of the kind and device that would hold the most, until the new one fits.

        Raises:
            WireError: That is the new one alone; its sender sends it again until it is acknowledged.
        """
        while wanted and self.held_bytes + wanted > self._held_bytes:
            most = max(self._held, key=lambda k: (self._held[k] + wanted * (k == key), k == key))
            if not self._held[most]:
                raise WireError(f"no room for an object of {wanted} bytes: {self.held_bytes} are held for others")
            with self._counted(most) as assembler:
                assembler.drop_oldest()

    def forget(self, topic: Topic, uid: str) -> None:
        """Drops what has arrived of an object."""
        key = (topic.kind, topic.node)
        if key in self._assemblers:
            with self._counted(key) as assembler:
                assembler.forget(uid)
        self._progress.pop((*key, uid), None)

    def stalled(self, at_s: float) -> Iterator[tuple[str, str, tuple[int, ...]]]:
        """Objects without news for a while: (node, uid, missing chunks); each at most a few times.

        Args:
            at_s: Now, on the monotonic clock.
        """
        for key, progress in list(self._progress.items()):
            if at_s - progress.at_s < MISSING_AFTER_S:
                continue
            kind, node, uid = key
            missing = self._assemblers[kind, node].missing(uid)
            progress.asked += 1
            progress.at_s = at_s
            if not missing or progress.asked > MISSING_TIMES:
                with self._counted((kind, node)) as assembler:
                    assembler.forget(uid)
                del self._progress[key]
            elif kind != "recon":
                yield node, uid, missing
