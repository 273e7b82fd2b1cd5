"""The coordinate-wise median."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

import msgspec
import numpy as np

from server.aggregation.contribution import Aggregate, Array, Contribution, gathered


def stacked(updates: Sequence[Contribution], name: str) -> Array:
    """One parameter of all updates, `[n, *shape]` in float64."""
    return np.stack([update.value(name) for update in updates])


class CoordinateMedian(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="median"
):
    """The median of each coordinate on its own (Yin et al. 2018, arXiv 1803.01498, algorithm 1).

    Of an even number of updates it is the mean of the middle two. Numbers of samples are not read: a device states its
    own, and a dishonest one would state a large one. As long as more than half of the updates are honest, every
    coordinate lies between two honest values.
    """

    citation: ClassVar[str] = "yin2018byzantine"
    relabelling: ClassVar[bool] = True

    def tolerated(self, count: int) -> int:
        """See `Aggregator.tolerated`."""
        return max(0, (count - 1) // 2)

    def aggregate(self, updates: Iterable[Contribution]) -> Aggregate:
        """See `Aggregator.aggregate`."""
        found = gathered(updates)
        value = {name: np.median(stacked(found, name), axis=0) for name in found[0].tensors}
        return Aggregate(value=value, weights={update.uid: 1.0 for update in found})
