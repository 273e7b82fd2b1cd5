"""FedBuff: buffered asynchronous aggregation."""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

Positive = Annotated[int, Meta(ge=1)]


class FedBuff(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """FedBuff (Nguyen et al. 2022, arXiv 2106.06639): `fedbuff = {buffer = 4, versions = 20}` in a `[[schedule]]`.

    Devices train all the time, each from the newest model that there is when it begins. Every `buffer` admitted updates
    make a new version. An update whose model is tau versions old when it enters counts ``(1 + tau)^-exponent`` of
    itself; the mean divides by all samples, so that stale updates also shorten the step. Robust aggregators see the
    updates so scaled. Which updates make which version is decided by the order in which the ledger admitted them. A
    fast device enters more often than a slow one: nothing here makes up for that, which costs accuracy where devices
    hold different data.

    As the paper has it, a device begins anew at once, mostly from the model that it has trained on already, since the
    version with its update is not made yet: nearly all updates are stale, in a fleet of equal devices too, and that
    costs accuracy. With `waits` it begins anew from that version, as in FedSA (Ma et al. 2021,
    doi 10.1109/JSAC.2021.3118435): devices of like speed go on together without staleness, and a slow one holds up
    nobody, as long as `buffer` others are faster. Every version is then of `buffer` different devices, so that a robust
    aggregator counts devices, and one alone fills no buffer.

    Attributes:
        buffer: K, updates that make a version. After `deadline_s` without a version, those that are there make one.
            With `waits` it is at most the run's `clients`, and with as many every version waits for the slowest: leave
            slow devices out of the count. While fewer are there, every version waits for `deadline_s`.
        versions: Versions after which the round is over. Devices still at work are refused as `closed` then.
        max_staleness: Greatest tau that is admitted; an older update is refused as `stale`.
        exponent: 0.5 is the paper's 1 / sqrt(1 + tau); 0 makes all equal.
        waits: Whether a device that has delivered rests until its update has made a version. Another one of it is
            refused as `second` until then.
    """

    citation: ClassVar[str] = "nguyen2022federated"
    citation_of_waits: ClassVar[str] = "ma2021fedsa"
    buffer: Positive = 4
    versions: Positive = 10
    max_staleness: Annotated[int, Meta(ge=0)] = 100
    exponent: Annotated[float, Meta(ge=0)] = 0.5
    waits: bool = False

    def factor(self, staleness: int) -> float:
        """What an update counts whose model is so many versions old."""
        return float((1.0 + staleness) ** -self.exponent)
