r"""Whole spike trains of the layer below a readout that does not spike, read out of its gradient.

The mean membrane is linear in the spikes below it, so one sample's ``dW = (p - y) sum_t w_t s_t^T`` and
``db = (p - y) sum_t w_t`` with known ``w_t = (1/T) sum_{j < T-t} beta^j``. Their quotient is, neuron by neuron, a
subset sum ``sum_t w_t s_t / sum_t w_t`` of T known numbers: its train, whatever lies below. The sums lie closer the
more steps there are: from about 16 on, some trains differ by less than the rounding of float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attack.clock import spend
from attack.costs import calls
from contract.models.neurons import mean_membrane_weights

Array64 = npt.NDArray[np.float64]

MOST_STEPS = 20
"""Longest trains that are looked up: 2^20 sums."""
ROUNDING = 2.5e-7
"""Relative rounding of a float32 gradient entry: at most 1.9e-7 on true updates of T = 5 to 15, by the machine."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Trains:
    """Trains `[T, hidden]` of 0 and 1, the nearest to the gradient.

    Attributes:
        spikes: The trains.
        explained: Whether the train's sum is within the error `[hidden]`.
        unique: Whether no other train's is as well `[hidden]`.
        residual: Share of the gradient that the trains leave unexplained.
    """

    spikes: npt.NDArray[np.uint8]
    explained: npt.NDArray[np.bool_]
    unique: npt.NDArray[np.bool_]
    residual: float


def decode_trains(weight: Array64, bias: Array64, steps: int, beta: float, *, error: float = 0.0) -> Trains:
    """Looks every neuron's sum up among all 2^T.

    Args:
        weight: Readout gradient of one sample `[classes, hidden]`.
        bias: Its bias gradient `[classes]`, not all zero.
        steps: T, at most `MOST_STEPS`.
        beta: The readout membrane's decay.
        error: Largest absolute error that a codec put on an entry of `weight`.
    """
    weights = np.array(mean_membrane_weights(steps, beta))
    weights /= weights.sum()
    sums = np.zeros(1)
    for one in weights:
        sums = np.concatenate([sums, sums + one])
    spend(calls(50, 120 * len(sums) + 200 * weight.shape[1]))
    order = np.argsort(sums)
    ranked = sums[order]
    ratio = bias @ weight / (bias @ bias)
    allowed = error / np.linalg.norm(bias) + ROUNDING * np.maximum(ratio, weights.min())
    first = np.searchsorted(ranked, ratio - allowed)
    count = np.searchsorted(ranked, ratio + allowed, side="right") - first
    right = np.clip(np.searchsorted(ranked, ratio), 1, len(ranked) - 1)
    nearest = right - (ratio - ranked[right - 1] < ranked[right] - ratio)
    codes = order[nearest]
    left = weight - np.outer(bias, ranked[nearest])
    return Trains(
        spikes=((codes[None] >> np.arange(steps)[:, None]) & 1).astype(np.uint8),
        explained=count >= 1,
        unique=count == 1,
        residual=float(np.linalg.norm(left) / max(float(np.linalg.norm(weight)), 1e-300)),
    )
