"""Frames in, whole objects out: one assembler per device and kind of topic, and what is still missing.

A device can fill its own assembler only; what arrives under its topics never touches another's objects.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from contract import frames
from contract.errors import WireError
from contract.topics import Topic

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
    """

    def __init__(self, max_bytes: Mapping[str, int]) -> None:
        self._max_bytes = dict(max_bytes)
        self._assemblers: dict[tuple[str, str], frames.Assembler] = {}
        self._progress: dict[tuple[str, str, str], _Progress] = {}

    def add(self, topic: Topic, payload: bytes, at_s: float) -> Delivery | None:
        """Takes one frame; returns its object once whole.

        Raises:
            OversizeError: The object is over the limit.
            WireError: A frame that does not follow SPEC.md, or an object with a wrong SHA-256.
        """
        frame = frames.parse(payload)
        if topic.uid and frame.uid != topic.uid:
            raise WireError(f"frame of {frame.uid} under the topic of {topic.uid}")
        limit = self._max_bytes[topic.kind]
        if frame.total > limit:
            text = f"object of {frame.total} bytes, at most {limit} are taken"
            raise OversizeError(frame.uid, text, frame.total, frame.sha256.hex())
        key = (topic.kind, topic.node)
        if key not in self._assemblers:
            self._assemblers[key] = frames.Assembler(max_object_bytes=limit)
        whole = self._assemblers[key].add(payload)
        if whole is None:
            known = self._progress.setdefault((*key, frame.uid), _Progress(at_s))
            known.at_s, known.asked = at_s, 0
            return None
        self._progress.pop((*key, frame.uid), None)
        return Delivery(topic=topic, uid=whole.uid, sha256=whole.sha256, blob=bytes(whole.blob))

    def forget(self, topic: Topic, uid: str) -> None:
        """Drops what has arrived of an object."""
        assembler = self._assemblers.get((topic.kind, topic.node))
        if assembler is not None:
            assembler.forget(uid)
        self._progress.pop((topic.kind, topic.node, uid), None)

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
                self._assemblers[kind, node].forget(uid)
                del self._progress[key]
            elif kind != "recon":
                yield node, uid, missing
