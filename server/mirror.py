"""The mirror: each admitted object, byte-identical, for whoever attacks it. Publish only: nobody is waited for."""

from __future__ import annotations

from collections.abc import Callable

from contract import frames, topics

Publish = Callable[[str, bytes], bool]


class Mirror:
    """Hands objects to the attacker's topics.

    Args:
        run: Name of the run.
        publish: Takes topic and payload; `False` when offline.
    """

    def __init__(self, run: str, publish: Publish) -> None:
        self._run = run
        self._publish = publish
        self.dropped = 0

    def send(self, node: str, round_: int, uid: str, blob: bytes, frame_bytes: int) -> bool:
        """Publishes one object in frames.

        Returns:
            Whether every frame was handed to the network; a part is worth nothing and counts as dropped.
        """
        for index, frame in enumerate(frames.split(blob, uid, frame_bytes=frame_bytes)):
            if not self._publish(topics.mirror_chunk(self._run, round_, node, uid, index), frame):
                self.dropped += 1
                return False
        return True
