"""The norm gate: no update counts for more than a norm."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Annotated, ClassVar

import msgspec
import numpy as np
from msgspec import Meta

from server.aggregation.contribution import Aggregate, Contribution, gathered
from server.aggregation.mean import Mean

Positive = Annotated[float, Meta(gt=0)]


class NormGate(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="norm-gate"
):
    """The weighted mean of updates whose Euclidean norm is bounded (Sun et al. 2019, arXiv 1911.07963, "norm
    thresholding").

    An update x over the bound M enters as ``x M / ||x||``; without such ones it is the plain mean. M is given, or
    `multiple` times the median norm of the updates, which is an honest update's or less while more than half are
    honest. It bounds how far dishonest updates move the model; it does not find them. Their stated numbers of samples
    count, so that one of them may take nearly all of the mean.

    Attributes:
        norm: The bound M; `None` takes it from the median.
        multiple: Of the median norm; read without `norm` only.
    """  # noqa: D205 - as above

    citation: ClassVar[str] = "sun2019backdoor"
    relabelling: ClassVar[bool] = False
    norm: Positive | None = None
    multiple: Annotated[float, Meta(ge=1)] = 2.0

    def tolerated(self, count: int) -> int:
        """See `Aggregator.tolerated`."""
        return count if self.norm is not None else max(0, (count - 1) // 2)

    def aggregate(self, updates: Iterable[Contribution]) -> Aggregate:
        """See `Aggregator.aggregate`."""
        found = gathered(updates)
        norms = _norms(found)
        bound = float(np.median(norms)) * self.multiple if self.norm is None else self.norm
        gated = [_within(update, norm, bound) for update, norm in zip(found, norms, strict=True)]
        mean = Mean().aggregate(gated)
        shares = zip(found, gated, strict=True)
        weights = {update.uid: update.weight * held.factor / update.factor for update, held in shares}
        return msgspec.structs.replace(mean, weights=weights)


def _within(update: Contribution, norm: float, bound: float) -> Contribution:
    return update if norm <= bound else msgspec.structs.replace(update, factor=update.factor * bound / norm)


def _norms(updates: Sequence[Contribution]) -> list[float]:
    """Euclidean norms over all tensors together, in float64."""
    return [math.hypot(*(float(np.linalg.norm(update.value(name))) for name in update.tensors)) for update in updates]
