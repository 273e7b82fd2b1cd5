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
    fast device enters more often than a slow one: nothing here limits its part.

    Attributes:
        buffer: K, updates that make a version. After `deadline_s` without a version, those that are there make one.
        versions: Versions after which the round is over. Devices still at work are refused as `closed` then.
        max_staleness: Greatest tau that is admitted; an older update is refused as `stale`.
        exponent: 0.5 is the paper's 1 / sqrt(1 + tau); 0 makes all equal.
    """

    citation: ClassVar[str] = "nguyen2022federated"
    buffer: Positive = 4
    versions: Positive = 10
    max_staleness: Annotated[int, Meta(ge=0)] = 100
    exponent: Annotated[float, Meta(ge=0)] = 0.5

    def factor(self, staleness: int) -> float:
        """What an update counts whose model is so many versions old."""
        return float((1.0 + staleness) ** -self.exponent)
