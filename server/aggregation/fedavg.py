"""Federated averaging: the step is the aggregate of (weights before - weights after) local training."""

from __future__ import annotations

from collections.abc import Mapping

from contract.task import RoundPlan
from server.aggregation.contribution import Array


class FedAvg:
    """McMahan et al. 2017, arXiv 1602.05629. With server_learning_rate 1 and no momentum: the mean of the models."""

    name = "fedavg"
    citation = "mcmahan2017communication"

    def step(self, aggregate: Mapping[str, Array], plan: RoundPlan) -> dict[str, Array]:  # noqa: ARG002 - Protocol
        """See `Algorithm.step`."""
        return dict(aggregate)
