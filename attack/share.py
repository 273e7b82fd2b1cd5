"""Several workers on one mirror: which updates are this one's, and what of them it has still to ask for. No I/O.

The server mirrors the first chunk of each update. On MQTT 5 the broker hands it to one worker of a shared subscription;
otherwise all hear it, and it belongs to the worker that the uid's remainder names. Whoever got it asks for the rest,
if there is one, by a claim. So each update travels to one worker, and the chunks of one to the same. What a worker took
with it when it died is mirrored again, since it has no score: by the shared subscription to another, otherwise to the
same once it is back.
"""

from __future__ import annotations

import msgspec

GROUP = "attack"
"""Name of the shared subscription; the run is in its topics."""
CLAIM_AGAIN_S = 3.0
CLAIMS = 4
"""Claims of one update, after which it is left to the server to mirror it again."""


class Claim(msgspec.Struct, kw_only=True):
    """An update of which this worker holds the first chunk alone.

    Attributes:
        due_s: When it is asked for (again), on the monotonic clock.
        times: How often it was.
    """

    round: int
    node: str
    uid: str
    due_s: float = 0.0
    times: int = 0


class Share:
    """One worker's part.

    Args:
        workers: How many there are.
        worker: Which this is, from 0.

    Attributes:
        by_broker: Whether the broker shares the updates out; otherwise their uids do.
    """

    def __init__(self, workers: int, worker: int) -> None:
        self._workers, self._worker = workers, worker
        self.by_broker = False
        self._open: dict[str, Claim] = {}
        self._left: list[Claim] = []

    @property
    def idle(self) -> bool:
        """Whether nothing is asked for."""
        return not self._open

    def takes(self, uid: str) -> bool:
        """Whether an update whose first chunk came here is this worker's."""
        return self.by_broker or int(uid, 16) % self._workers == self._worker

    def expects(self, uid: str) -> bool:
        """Whether further chunks of an update are waited for."""
        return uid in self._open

    def begun(self, round_: int, node: str, uid: str) -> None:
        """The first of several chunks came."""
        self._open.setdefault(uid, Claim(round=round_, node=node, uid=uid))

    def settled(self, uid: str) -> None:
        """The update is whole."""
        claim = self._open.pop(uid, None)
        if claim is not None:
            self._left.append(claim)

    def due(self, at_s: float) -> list[Claim]:
        """What is to be asked for now; each a few times.

        Args:
            at_s: Now, on the monotonic clock.
        """
        found = [claim for claim in self._open.values() if claim.due_s <= at_s]
        for claim in found:
            claim.due_s, claim.times = at_s + CLAIM_AGAIN_S, claim.times + 1
            if claim.times > CLAIMS:
                self.settled(claim.uid)
        return [claim for claim in found if claim.times <= CLAIMS]

    def left(self) -> list[Claim]:
        """What is no longer waited for since this was last asked."""
        found, self._left = self._left, []
        return found
