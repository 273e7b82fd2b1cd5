"""Federated SGD: one step along the aggregated gradient."""

from __future__ import annotations

from collections.abc import Mapping

from contract.task import RoundPlan
from server.aggregation.contribution import Array


class FedSGD:
    """McMahan et al. 2017, arXiv 1602.05629: the step is ``learning_rate`` times the aggregated gradient.

    The factor is applied before the server's momentum, so that its velocity is in units of the parameters under
    every algorithm and a schedule may mix them.
    """

    name = "fedsgd"
    citation = "mcmahan2017communication"

    def step(self, aggregate: Mapping[str, Array], plan: RoundPlan) -> dict[str, Array]:
        """See `Algorithm.step`."""
        return {name: plan.learning_rate * value for name, value in aggregate.items()}
