"""The coordinate-wise trimmed mean."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, ClassVar

import msgspec
import numpy as np
from msgspec import Meta

from server.aggregation.contribution import Aggregate, Contribution, gathered
from server.aggregation.median import stacked


class TrimmedMean(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="trimmed-mean"
):
    """The mean of each coordinate without its largest and smallest values (Yin et al. 2018, arXiv 1803.01498,
    algorithm 1, option II).

    Of n updates ``k = floor(share n)`` are left out at each end of each coordinate, so that k arbitrary updates leave
    every coordinate between two honest values. Numbers of samples are not read, as in the median.

    Attributes:
        share: Share of the updates left out at each end, below one half.
    """  # noqa: D205 - a citation is not cut for a blank line

    citation: ClassVar[str] = "yin2018byzantine"
    relabelling: ClassVar[bool] = True
    share: Annotated[float, Meta(ge=0, lt=0.5)] = 0.2

    def tolerated(self, count: int) -> int:
        """See `Aggregator.tolerated`."""
        return int(self.share * count)

    def aggregate(self, updates: Iterable[Contribution]) -> Aggregate:
        """See `Aggregator.aggregate`."""
        found = gathered(updates)
        count, cut = len(found), self.tolerated(len(found))
        value = {
            name: np.sort(stacked(found, name), axis=0)[cut : count - cut].mean(axis=0) for name in found[0].tensors
        }
        return Aggregate(value=value, weights={update.uid: 1.0 for update in found})
