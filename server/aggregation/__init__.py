"""How admitted updates become a new model: Protocols and one literal dict for each kind of part.

An aggregator makes one update of many, an algorithm makes a step of it, and an optimiser takes the step. The result is
a function of the *set* of updates: aggregators see them in the order of their uid and sum in float64, so that it is
bit-identical whatever the order in which they arrived. To add one: a file here, a line in its dict, its citation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar, Protocol

import msgspec

from contract.task import RoundPlan
from server.aggregation.contribution import Aggregate, Array, Contribution, Parameters
from server.aggregation.fedadam import FedAdam, is_moments
from server.aggregation.fedavg import FedAvg
from server.aggregation.fedbuff import FedBuff
from server.aggregation.fedsgd import FedSGD
from server.aggregation.mean import Mean, descend, weighted_mean
from server.aggregation.median import CoordinateMedian
from server.aggregation.multi_krum import MultiKrum
from server.aggregation.norm_gate import NormGate
from server.aggregation.trimmed_mean import TrimmedMean

__all__ = [
    "AGGREGATORS",
    "ALGORITHMS",
    "OPTIMISERS",
    "Aggregate",
    "Aggregation",
    "Aggregator",
    "Algorithm",
    "Array",
    "Contribution",
    "FedBuff",
    "Optimisation",
    "Parameters",
    "Recipe",
    "descend",
    "is_moments",
    "weighted_mean",
]


class Aggregator(Protocol):
    """Makes one update out of many; a frozen record whose fields are its settings.

    Attributes:
        citation: Key in `citations.CITATIONS`.
        relabelling: Whether the value is the same, bit by bit, when the updates exchange their uids; of the others it
            is, up to rounding, while nothing ties.
    """

    citation: ClassVar[str]
    relabelling: ClassVar[bool]

    def tolerated(self, count: int) -> int:
        """How many of so many updates may be arbitrary, with sample counts like the others', and the value stays
        within a bound that is set by the rest.
        """  # noqa: D205 - one sentence
        ...

    def aggregate(self, updates: Iterable[Contribution]) -> Aggregate:
        """One update out of many.

        Args:
            updates: In ascending order of uid; at least one.

        Raises:
            ValueError: No update, or not in order.
        """
        ...


class Algorithm(Protocol):
    """Turns the aggregate of one round into one step in parameter space."""

    name: str
    citation: str

    def step(self, aggregate: Mapping[str, Array], plan: RoundPlan) -> dict[str, Array]:
        """A difference that is *subtracted* from the parameters.

        Args:
            aggregate: float64 tensors by parameter name.
            plan: The round's plan.
        """
        ...


Aggregation = Mean | CoordinateMedian | TrimmedMean | MultiKrum | NormGate
"""Any of `AGGREGATORS`, as settings hold it."""
Optimisation = FedAdam
"""Any of `OPTIMISERS`."""

AGGREGATORS: dict[str, type[Aggregation]] = {
    "mean": Mean,
    "median": CoordinateMedian,
    "trimmed-mean": TrimmedMean,
    "multi-krum": MultiKrum,
    "norm-gate": NormGate,
}
ALGORITHMS: dict[str, Algorithm] = {"fedavg": FedAvg(), "fedsgd": FedSGD()}
OPTIMISERS: dict[str, type[Optimisation]] = {"adam": FedAdam}
"""What may stand in place of the server's momentum."""


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """How a schedule's entry makes models out of updates.

    Attributes:
        aggregator: Makes one update out of many.
        optimiser: Takes the step; `None`: the server's momentum.
        fedbuff: How stale updates count; `None` in synchronous rounds, where none is.
    """

    aggregator: Aggregation = Mean()
    optimiser: Optimisation | None = None
    fedbuff: FedBuff | None = None

    def factor(self, staleness: int) -> float:
        """What an update counts whose model is so many versions old."""
        return 1.0 if self.fedbuff is None else self.fedbuff.factor(staleness)

    @property
    def cited(self) -> tuple[str, ...]:
        """Keys of the works that it follows, in `citations.CITATIONS`."""
        rules = (self.aggregator, self.optimiser, self.fedbuff)
        waits = self.fedbuff is not None and self.fedbuff.waits
        return (*(rule.citation for rule in rules if rule is not None), *([FedBuff.citation_of_waits] if waits else ()))
