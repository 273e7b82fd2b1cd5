"""Multi-Krum: the mean of the updates that lie nearest to the others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, ClassVar

import msgspec
import numpy as np
from msgspec import Meta

from server.aggregation.contribution import Aggregate, Array, Contribution, gathered
from server.aggregation.median import CoordinateMedian, stacked


class MultiKrum(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="multi-krum"
):
    """Multi-Krum (Blanchard et al. 2017, arXiv 1703.02757).

    An update's score is the sum of its squared distances to the ``n - f - 2`` updates nearest to it; the mean is over
    the m updates with the smallest scores, the first by uid among equal ones. m is ``n - f - 2``, the largest for which
    El-Mhamdi et al. 2019 (arXiv 1905.03853) prove resilience. Numbers of samples are not read. It needs
    ``n >= 2f + 3``: fewer updates, as a deadline may leave them, get the coordinate median in its place, and a note.

    Attributes:
        byzantine: f, arbitrary updates that it withstands.
    """

    citation: ClassVar[str] = "blanchard2017machine"
    relabelling: ClassVar[bool] = False
    byzantine: Annotated[int, Meta(ge=0)] = 1

    @property
    def least(self) -> int:
        """Updates without which it is not defined: 2f + 3."""
        return 2 * self.byzantine + 3

    def tolerated(self, count: int) -> int:
        """See `Aggregator.tolerated`."""
        return self.byzantine if count >= self.least else CoordinateMedian().tolerated(count)

    def aggregate(self, updates: Iterable[Contribution]) -> Aggregate:
        """See `Aggregator.aggregate`."""
        found = gathered(updates)
        if len(found) < self.least:
            note = (
                f"multi-krum with byzantine = {self.byzantine} needs {self.least} updates, there were {len(found)}: "
                "their coordinate median was taken"
            )
            return msgspec.structs.replace(CoordinateMedian().aggregate(found), note=note)
        scores = self._scores(squared_distances(found))
        best = np.argsort(scores, kind="stable")[: len(found) - self.byzantine - 2]
        kept = [found[i] for i in sorted(best.tolist())]
        uids = {update.uid for update in kept}
        return Aggregate(
            value={name: stacked(kept, name).mean(axis=0) for name in found[0].tensors},
            weights={update.uid: float(update.uid in uids) for update in found},
        )

    def _scores(self, distances: Array) -> Array:
        """Of each update, given all squared distances `[n, n]`."""
        count = len(distances)
        others = np.sort(distances + np.diag(np.full(count, np.inf)), axis=1)
        scores: Array = others[:, : count - self.byzantine - 2].sum(axis=1)
        return scores


def squared_distances(updates: Sequence[Contribution]) -> Array:
    """Squared Euclidean distances between whole updates, `[n, n]`, from the differences themselves."""
    found = np.zeros((len(updates), len(updates)))
    for name in updates[0].tensors:
        rows = stacked(updates, name).reshape(len(updates), -1)
        for index in range(len(updates) - 1):
            apart = rows[index + 1 :] - rows[index]
            found[index, index + 1 :] += np.einsum("ij,ij->i", apart, apart)
    return found + found.T
