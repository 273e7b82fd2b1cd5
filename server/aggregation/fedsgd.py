"""Federated SGD: one step along the mean gradient."""

from __future__ import annotations

from collections.abc import Iterable

from contract.task import RoundPlan
from server.aggregation.mean import Array, Contribution, weighted_mean


class FedSGD:
    """McMahan et al. 2017, arXiv 1602.05629: the step is ``learning_rate`` times the mean gradient.

    The factor is applied before the server's momentum, so that its velocity is in units of the parameters under
    every algorithm and a schedule may mix them.
    """

    name = "fedsgd"

    def step(self, updates: Iterable[Contribution], plan: RoundPlan) -> dict[str, Array]:
        """See `Aggregator.step`."""
        return {name: plan.learning_rate * value for name, value in weighted_mean(updates).items()}
