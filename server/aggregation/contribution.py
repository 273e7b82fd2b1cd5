"""What goes into an aggregate, and what comes out of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Parameters = dict[str, npt.NDArray[np.float32]]


class Contribution(msgspec.Struct, frozen=True, kw_only=True):
    """One decoded update.

    Attributes:
        uid: Its name; aggregates are formed in the order of these.
        weight: Number of samples behind it, by its device's own word.
        tensors: By parameter name.
        factor: What its values count for: below 1 where it is stale (`server.aggregation.fedbuff`).
    """

    uid: str
    weight: float
    tensors: Mapping[str, npt.NDArray[Any]]
    factor: float = 1.0

    def value(self, name: str) -> Array:
        """One tensor in float64, times `factor`."""
        plain = self.tensors[name].astype(np.float64)
        return plain if self.factor == 1.0 else self.factor * plain


class Aggregate(msgspec.Struct, frozen=True, kw_only=True):
    """What an aggregator makes of updates.

    Attributes:
        value: float64 tensors by parameter name.
        weights: What each update entered with, by uid; 0 for one that was left out.
        note: What a reader of the report should know of it; empty for nothing.
    """

    value: dict[str, Array]
    weights: dict[str, float]
    note: str = ""


def ordered(updates: Iterable[Contribution]) -> Iterable[Contribution]:
    """The updates one by one, held to the order in which aggregates are formed.

    Raises:
        ValueError: Not in strictly ascending order of uid.
    """
    last = ""
    for update in updates:
        if update.uid <= last:
            raise ValueError(f"update {update.uid} after {last}: aggregation needs strictly ascending uids")
        last = update.uid
        yield update


def gathered(updates: Iterable[Contribution]) -> tuple[Contribution, ...]:
    """All updates at once, for what looks at one beside another: they take the room of as many models.

    Raises:
        ValueError: No update, or not in order.
    """
    found = tuple(ordered(updates))
    if not found:
        raise ValueError("nothing to aggregate")
    return found
