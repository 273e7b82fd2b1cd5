"""The weighted mean, and the server's momentum step that follows it: what federated averaging is made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar

import msgspec
import numpy as np

from contract.task import RoundPlan
from server.aggregation.contribution import Aggregate, Array, Contribution, Parameters, ordered


class Mean(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="mean"):
    """``sum_i n_i x_i / sum_i n_i`` over numbers of samples n (McMahan et al. 2017, arXiv 1602.05629).

    One arbitrary update moves it anywhere: it tolerates none. Summed in the order of the uids, in float64.
    """

    citation: ClassVar[str] = "mcmahan2017communication"
    relabelling: ClassVar[bool] = False

    def tolerated(self, count: int) -> int:  # noqa: ARG002 - Protocol
        """See `Aggregator.tolerated`."""
        return 0

    def aggregate(self, updates: Iterable[Contribution]) -> Aggregate:
        """See `Aggregator.aggregate`; consumed one by one, so that only one need be in memory."""
        total = 0.0
        mean: dict[str, Array] = {}
        weights: dict[str, float] = {}
        for update in ordered(updates):
            weights[update.uid] = update.weight
            for name in update.tensors:
                term = update.value(name)
                term *= update.weight
                if name in mean:
                    mean[name] += term
                else:
                    mean[name] = term
            total += update.weight
        if total <= 0:
            raise ValueError("nothing to aggregate")
        return Aggregate(value={name: value / total for name, value in mean.items()}, weights=weights)


MOMENTUM_CITED = ("hsu2019measuring", "reddi2021adaptive")
"""Keys of the works that server momentum follows."""


def weighted_mean(updates: Iterable[Contribution]) -> dict[str, Array]:
    """The value of `Mean` alone."""
    return Mean().aggregate(updates).value


def descend(
    parameters: Parameters, velocity: Mapping[str, Array] | None, step: Mapping[str, Array], plan: RoundPlan
) -> tuple[Parameters, dict[str, Array] | None]:
    """Server momentum: ``v <- m v + step; w <- w - eta v`` (FedAvgM).

    Hsu et al. 2019, arXiv 1909.06335; Reddi et al. 2021, arXiv 2003.00295.

    Args:
        parameters: float32, by name.
        velocity: float64; `None` at the beginning.
        step: What is *subtracted*, by name.
        plan: Its `server_momentum` is m, its `server_learning_rate` is eta.

    Returns:
        New parameters and velocity; a velocity of `None` as long as no plan ever had momentum.
    """
    moved = dict(step)
    if velocity is not None:
        moved = {name: plan.server_momentum * velocity[name] + value for name, value in step.items()}
    new: Parameters = {
        name: (value.astype(np.float64) - plan.server_learning_rate * moved[name]).astype(np.float32)
        for name, value in parameters.items()
    }
    keep = velocity is not None or plan.server_momentum > 0
    return new, (moved if keep else None)
