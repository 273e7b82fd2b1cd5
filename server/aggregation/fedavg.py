"""Federated averaging: the mean of (weights before - weights after) local training."""

from __future__ import annotations

from collections.abc import Iterable

from contract.task import RoundPlan
from server.aggregation.mean import Array, Contribution, weighted_mean


class FedAvg:
    """McMahan et al. 2017, arXiv 1602.05629. With server_learning_rate 1 and no momentum: the mean of the models."""

    name = "fedavg"

    def step(self, updates: Iterable[Contribution], plan: RoundPlan) -> dict[str, Array]:  # noqa: ARG002 - Protocol
        """See `Aggregator.step`."""
        return weighted_mean(updates)
