"""The first layer's adjoint of single inputs, for every label at once."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import numpy.typing as npt
import torch

from attack.counting import Repeated
from attack.simulation import Simulator
from attack.threat import Observation

Array64 = npt.NDArray[np.float64]

CHUNK = 256
"""Inputs simulated in one product."""


class KnownNetwork:
    """Computes ``delta(x, y) = dL/dI`` of a fully connected first layer at the weights that the update started from.

    The cross-entropy's gradient by the logits is ``p - e_y``, so with ``J = dz/db`` of the first layer's bias
    (K backward passes) every label's adjoint is ``(p - e_y) J``. Each sample gets a bias row of its own, so one product
    gives the adjoints of all; the bias sees their sum over time, as direct coding needs it.

    Args:
        observation: Architecture, neuron, encoding, weights and plan must be known; the encoding is direct.
    """

    def __init__(self, observation: Observation) -> None:
        self._simulator = Simulator(observation, dtype=torch.float64)
        self._name = f"{observation.first_layer.name}.bias"
        self._bias = self._simulator.parameters[self._name].detach()
        self._share = 1 / observation.samples
        self._costs: defaultdict[int, Repeated] = defaultdict(Repeated)
        self._one_hot = torch.eye(observation.classes, dtype=torch.float64)

    def __call__(self, images: Array64) -> Array64:
        """Adjoints `[N, classes, outputs]` of images `[N, inputs]` in [0, 1], scaled as in the mean over the batch."""
        parts = [self._chunk(images[start : start + CHUNK]) for start in range(0, len(images), CHUNK)]
        return np.concatenate(parts) * self._share

    def _chunk(self, images: Array64) -> Array64:
        with self._costs[len(images)].once_more():
            return self._adjoints(images)

    def _adjoints(self, images: Array64) -> Array64:
        simulator = self._simulator
        bias = self._bias.expand(len(images), -1).clone().requires_grad_(True)
        frames = simulator.frames(torch.as_tensor(images, dtype=torch.float64).view(len(images), *simulator.shape))
        logits = simulator.network({**simulator.parameters, self._name: bias}, frames)
        totals = logits.sum(0)
        jacobian = torch.stack([torch.autograd.grad(total, bias, retain_graph=True)[0] for total in totals], dim=1)
        errors = torch.softmax(logits.detach(), dim=1)[:, None, :] - self._one_hot
        out: Array64 = (errors @ jacobian).numpy()
        return out
