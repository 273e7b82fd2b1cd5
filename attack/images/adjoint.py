"""The first layer's adjoint of single inputs, for every label at once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from attack.simulation import Simulator
from attack.threat import Observation

Array64 = npt.NDArray[np.float64]


class KnownNetwork:
    """Computes ``delta(x, y) = dL/dI`` of the first layer at the weights that the update started from.

    The cross-entropy's gradient by the logits is ``p - e_y``, so with ``J = dz/db`` of the first layer's bias
    (K backward passes) every label's adjoint is ``(p - e_y) J``; the bias sees the sum over time, as direct coding
    needs it.

    Args:
        observation: Architecture, neuron, encoding, weights and plan must be known; the encoding is direct.
    """

    def __init__(self, observation: Observation) -> None:
        self._simulator = Simulator(observation, dtype=torch.float64)
        self._bias = self._simulator.parameters[f"{observation.first_layer.name}.bias"]
        self._share = 1 / observation.samples

    def __call__(self, images: Array64) -> Array64:
        """Adjoints `[N, classes, outputs]` of images `[N, inputs]` in [0, 1], scaled as in the mean over the batch."""
        return np.stack([self._one(image) for image in images]) * self._share

    def _one(self, image: Array64) -> Array64:
        simulator = self._simulator
        frames = simulator.frames(torch.as_tensor(image, dtype=torch.float64).view(1, *simulator.shape))
        logits = simulator.network(simulator.parameters, frames)[0]
        rows = [torch.autograd.grad(logit, self._bias, retain_graph=True)[0] for logit in logits]
        jacobian = torch.stack(rows).numpy()
        scores = torch.softmax(logits.detach(), dim=0).numpy()
        out: Array64 = (scores - np.eye(len(scores))) @ jacobian
        return out
