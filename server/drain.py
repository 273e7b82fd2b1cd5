"""After the last round: waiting for what is still under way, and saying what did not come."""

from __future__ import annotations

import logging

import msgspec

from server.ledger import Ledger
from server.vantages import UNSCORED

log = logging.getLogger(__name__)

_MIRROR_AGAIN_S = 5.0
"""Seconds without news; an attacker that is at work says so more often (`working/` in SPEC.md)."""
_WITHOUT = (
    "SELECT COUNT(*) FROM updates WHERE status = 'admitted' AND uid NOT IN "
    "(SELECT update_uid FROM objects WHERE kind = ?)"
)


class Outstanding(msgspec.Struct, frozen=True):
    """Admitted updates without an energy report, and without a score of what was mirrored of them."""

    energy: int
    scores: int

    @property
    def total(self) -> int:
        """Reports that are still to come."""
        return self.energy + self.scores


def outstanding(ledger: Ledger, *, scores: bool = True) -> Outstanding:
    """What the ledger still lacks; `scores = False`: nobody attacks, so that none will come.

    A device scores what is seen of it together with others (`server.vantages`) apart from its own update.
    """
    seen = f"SELECT COUNT(*) {UNSCORED}"  # a literal
    unscored = ledger.value(_WITHOUT, "score") + ledger.value(seen) if scores else 0
    return Outstanding(ledger.value(_WITHOUT, "energy"), unscored)


class Drain:
    """Waits as long as news comes in, and `drain_s` longer.

    Args:
        ledger: The ledger.
        drain_s: Seconds without news after which the rest is given up.
        at_s: Now, on the monotonic clock.
        scores: See `outstanding`.
    """

    def __init__(self, ledger: Ledger, drain_s: float, at_s: float, *, scores: bool = True) -> None:
        self._ledger, self._drain_s, self._scores = ledger, drain_s, scores
        self._news = -1
        self._news_at_s = self._mirrored_at_s = at_s
        self.done = False
        self.left = outstanding(ledger, scores=scores)

    def tick(self, at_s: float, news: int) -> bool:
        """Looks at the ledger when there is news.

        Args:
            at_s: Now.
            news: Grows with each object that was taken.

        Returns:
            Whether to mirror again what was not scored: an attacker may have come late, a broker dropped messages for
            a slow one, or a device was away when its reconstruction came.
        """
        if self.done:
            return False
        if news != self._news:
            self._news, self._news_at_s = news, at_s
            self.left = outstanding(self._ledger, scores=self._scores)
        if self.left.total == 0:
            self.done = True
        elif at_s - self._news_at_s >= self._drain_s:
            self.done = True
            self._give_up()
        elif self.left.scores and at_s - max(self._news_at_s, self._mirrored_at_s) >= _MIRROR_AGAIN_S:
            self._mirrored_at_s = at_s
            return True
        return False

    def _give_up(self) -> None:
        text = (
            f"no news for {self._drain_s:g} s after the last round: {self.left.scores} admitted updates are unscored, "
            f"{self.left.energy} are without an energy report"
        )
        log.warning("%s", text)
        self._ledger.event("warning", text)
