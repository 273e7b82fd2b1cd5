r"""Which equations of the causal chain a reset leaves.

A reset by subtraction is detached from the backward pass, so that all neurons decay alike and
``delta_t - beta delta_{t+1} = G_t * (W_next^T epsilon_t)`` lies in the gradient's column space. A reset to zero cuts a
neuron that spikes off from its future: ``delta_t - beta (1 - s_t) * delta_{t+1}``. On the neurons that stay silent at
step t nothing changes: there the right-hand side still equals a vector of the column space. The test loses one
equation for each neuron that spikes, and nothing else.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.linalg

from attack.clock import spend
from attack.costs import product, triangular
from attack.frames.pauses import Pause
from attack.frames.simulation import Simulator
from attack.frames.spectrum import Array64

Mask = npt.NDArray[np.bool_]


def forgetting(simulator: Simulator, membrane: Array64, pause: Pause, *, margin: float = 0.0) -> Mask:
    """Neurons that forget what comes after a frame `[H1]`: none unless the reset is to zero.

    Args:
        simulator: The known network.
        membrane: At the frame's step `[H1]`.
        pause: Empty frames that follow.
        margin: Distance below the threshold from which a neuron may spike.
    """
    if simulator.neuron.reset != "zero":
        return np.zeros(len(membrane), dtype=bool)
    least = simulator.neuron.threshold - margin
    path = [membrane, *pause.membranes(simulator, membrane)]
    return np.asarray(np.any([at > least for at in path], axis=0))


def equations(complement: Array64, forgets: Mask) -> Array64:
    """What is orthogonal to the column space and zero where a neuron forgets: an orthonormal basis `[H1, q]`.

    Args:
        complement: Orthonormal basis of what is orthogonal to the column space `[H1, q]`.
        forgets: From `forgetting`.
    """
    count = int(forgets.sum())
    if not count:
        return complement
    if count >= complement.shape[1]:
        return complement[:, :0]
    size = complement.shape[1]
    spend(triangular(size, size) + product(len(complement), size, size - count))
    across = scipy.linalg.qr(complement[forgets].T)[0]
    return np.asarray(complement @ across[:, count:])
