"""Networks trained before they are attacked: gradients of the reference engine, Adam's step, a measured accuracy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from contract.datasets import load
from contract.encodings import encode
from contract.models.layout import initial_parameters
from contract.models.network import Network
from contract.task import TaskSpec
from edge_client.engines.torch import TorchEngine

Array32 = NDArray[np.float32]

TESTED, LEFT = 500, 500
"""Samples that measure the accuracy and samples left to attack; the rest is trained on."""
_RATE, _FIRST, _SECOND = 3e-3, 0.9, 0.999


@dataclass(frozen=True, kw_only=True)
class Trained:
    """Parameters, their accuracy on samples that were not trained on, and other such samples to attack."""

    parameters: dict[str, Array32]
    accuracy: float
    x: Array32
    y: NDArray[np.int64]


def trained(task: TaskSpec, *, steps: int, batch: int = 32) -> Trained:
    """Trains from the task's own initial parameters, by Adam (Kingma and Ba 2015, arXiv 1412.6980).

    Args:
        task: Its data set has well over `TESTED` + `LEFT` samples.
        steps: Of training.
        batch: Samples a step.
    """
    data, rng = load(task.dataset), np.random.default_rng(task.seed)
    shape, classes = data.x.shape[1:], int(data.y.max()) + 1
    order, count = np.random.default_rng(99).permutation(len(data.x)), len(data.x) - TESTED - LEFT
    engine = TorchEngine(task, shape, classes)
    parameters = dict(initial_parameters(task, shape, classes))
    moments = {name: (np.zeros_like(value), np.zeros_like(value)) for name, value in parameters.items()}
    for step in range(1, steps + 1):
        chosen = rng.choice(order[:count], batch, replace=False)
        frames = np.ascontiguousarray(encode(task.encoding, data.x[chosen], rng))
        for name, gradient in engine.gradients(parameters, frames, data.y[chosen]).gradients.items():
            first = _FIRST * moments[name][0] + (1 - _FIRST) * gradient
            second = _SECOND * moments[name][1] + (1 - _SECOND) * gradient**2
            moments[name] = (first, second)
            scaled = first / (1 - _FIRST**step) / (np.sqrt(second / (1 - _SECOND**step)) + 1e-8)
            parameters[name] = (parameters[name] - _RATE * scaled).astype(np.float32)
    tested, left = order[count : count + TESTED], order[count + TESTED :]
    network = Network(task, shape, classes)
    with torch.no_grad():
        frames = torch.tensor(encode(task.encoding, data.x[tested], rng))
        scores = network({name: torch.tensor(value) for name, value in parameters.items()}, frames)
    accuracy = float((scores.argmax(1).numpy() == data.y[tested]).mean())
    return Trained(parameters=parameters, accuracy=accuracy, x=data.x[left], y=data.y[left])
