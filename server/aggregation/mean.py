"""The arithmetic that all aggregators share: an ordered float64 mean, and the server's momentum step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from contract.task import RoundPlan

Array = npt.NDArray[np.float64]
Parameters = dict[str, npt.NDArray[np.float32]]


class Contribution(msgspec.Struct, frozen=True, kw_only=True):
    """One decoded update: `weight` is the number of samples behind it."""

    uid: str
    weight: float
    tensors: Mapping[str, npt.NDArray[Any]]


def weighted_mean(updates: Iterable[Contribution]) -> dict[str, Array]:
    """``sum_i n_i x_i / sum_i n_i`` in float64 (McMahan et al. 2017, arXiv 1602.05629), in the order of the uids.

    Args:
        updates: In strictly ascending order of uid; consumed one by one, so that only one need be in memory.

    Raises:
        ValueError: No update, or not in order.
    """
    total = 0.0
    last = ""
    mean: dict[str, Array] = {}
    for update in updates:
        if update.uid <= last:
            raise ValueError(f"update {update.uid} after {last}: aggregation needs strictly ascending uids")
        last = update.uid
        for name, tensor in update.tensors.items():
            term = tensor.astype(np.float64) * update.weight
            mean[name] = mean[name] + term if name in mean else term
        total += update.weight
    if total <= 0:
        raise ValueError("nothing to aggregate")
    return {name: value / total for name, value in mean.items()}


def descend(
    parameters: Parameters, velocity: Mapping[str, Array] | None, step: Mapping[str, Array], plan: RoundPlan
) -> tuple[Parameters, dict[str, Array] | None]:
    """Server momentum: ``v <- m v + step; w <- w - eta v`` (FedAvgM: Reddi et al. 2021, arXiv 2003.00295).

    Args:
        parameters: float32, by name.
        velocity: float64; `None` at the beginning.
        step: What an aggregator returned.
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
