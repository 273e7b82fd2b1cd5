"""How admitted updates become a new model: a Protocol and one literal dict.

The result is a function of the *set* of updates: they are summed in the order of their uid in float64, so that it is
bit-identical whatever the order in which they arrived. To add one: a file here, and a line in `AGGREGATORS`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from contract.task import RoundPlan
from server.aggregation.fedavg import FedAvg
from server.aggregation.fedsgd import FedSGD
from server.aggregation.mean import Array, Contribution, Parameters, descend, weighted_mean

__all__ = ["AGGREGATORS", "Aggregator", "Array", "Contribution", "Parameters", "descend", "weighted_mean"]


class Aggregator(Protocol):
    """Turns the updates of one round into one step in parameter space."""

    name: str

    def step(self, updates: Iterable[Contribution], plan: RoundPlan) -> dict[str, Array]:
        """The aggregate, as a difference that is *subtracted* from the parameters.

        Args:
            updates: In ascending order of uid; at least one.
            plan: The round's plan.

        Returns:
            float64 tensors by parameter name.

        Raises:
            ValueError: No update, or not in order.
        """
        ...


AGGREGATORS: dict[str, Aggregator] = {"fedavg": FedAvg(), "fedsgd": FedSGD()}
