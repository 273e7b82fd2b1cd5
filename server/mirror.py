"""The mirror: each admitted object, byte-identical, for whoever attacks it. Publish only: nobody is waited for.

So an attacker that is stopped, slow or away misses updates. They are counted as never attacked, and are no trial of any
attack: what nobody looked at is not private.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from contract import frames, topics
from server.ledger import Ledger

Publish = Callable[[str, bytes], bool]
GIVEN_UP = "given up: "
"""How an attacker's reason begins where it had no time for an update."""
ATTACKED = f"reason NOT LIKE '{GIVEN_UP}%'"
"""Condition on rows of `scores`: an attack was really tried."""
_OPENED = (
    "SELECT json_extract(part.value, '$[1]') FROM views, json_each(views.parts) AS part "
    "WHERE seen = 'aggregate' AND object IS NOT NULL"
)
"""Updates whose sum the server has opened: what it saw of them is attacked only when that is."""


class Mirror:
    """Hands objects to the attacker's topics.

    Args:
        run: Name of the run.
        publish: Takes topic and payload; `False` when offline.
        first: Whether the first frame of each object is published alone, for workers that claim the others.
    """

    def __init__(self, run: str, publish: Publish, *, first: bool = False) -> None:
        self._run = run
        self._publish = publish
        self._first = first
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
            if self._first:
                break
        return True

    def rest(self, node: str, round_: int, uid: str, blob: bytes, frame_bytes: int) -> None:
        """Publishes all frames of an object but the first: a worker claims it, and does so again if they fail."""
        for index, frame in enumerate(frames.split(blob, uid, frame_bytes=frame_bytes)):
            if index and not self._publish(topics.mirror_chunk(self._run, round_, node, uid, index), frame):
                return


class Reach(msgspec.Struct, frozen=True, kw_only=True):
    """What of a run came to the attacker.

    Attributes:
        never_attacked: Admitted updates that no attack was tried on: the attacker did not see them, or gave them up.
            Under secure aggregation also those whose masked values alone were attacked, not the sum that was opened.
        dropped: Times that an update was not handed to the network in full; it is mirrored again later.
    """

    never_attacked: int
    dropped: int


def reach(ledger: Ledger) -> Reach:
    """Counts it."""
    tried = (
        f"SELECT update_uid FROM reconstructions WHERE {ATTACKED} AND seen = 'aggregate' UNION "  # noqa: S608 - literals
        f"SELECT update_uid FROM scores WHERE {ATTACKED} AND seen = 'aggregate'"
    )
    never = (
        "SELECT COUNT(*) FROM updates WHERE status = 'admitted' AND (uid NOT IN "  # noqa: S608 - literals
        f"(SELECT update_uid FROM reconstructions WHERE {ATTACKED} UNION "
        f"SELECT update_uid FROM scores WHERE {ATTACKED}) OR uid IN ({_OPENED} EXCEPT SELECT * FROM ({tried})))"
    )
    return Reach(
        never_attacked=ledger.value(never),
        dropped=ledger.value("SELECT COALESCE(SUM(mirror_dropped), 0) FROM sessions"),
    )


def half_seen(ledger: Ledger) -> frozenset[str]:
    """Updates of which the opened sum was not scored: their masked half alone would look like privacy."""
    scored = f"SELECT update_uid FROM scores WHERE seen = 'aggregate' AND {ATTACKED}"  # noqa: S608 - literals
    return frozenset(row[0] for row in ledger.rows(f"{_OPENED} EXCEPT {scored}"))
