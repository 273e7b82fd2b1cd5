r"""Empty frames: steps whose adjoints the gradient does not hold.

With m empty frames after step t the column space holds none of ``delta_{t+j} - beta delta_{t+j+1}``, j = 0 … m, alone,
but their sum with factors ``beta^j``, in which all inner adjoints cancel:
``delta_t - beta^{m+1} delta_{t+m+1} = sum_j beta^j G_{t+j} * (W_next^T epsilon_{t+j})``.
The mean membrane's error has known temporal weights, so that this is one frame with another surrogate. Empty frames
before the first one only move its membrane.

A repeated frame's adjoint is added to the first one's instead. Then the frame before them cannot be read without the
frame after it, and a sample with repetitions is not read in order; its frames are still vertices of the row space.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attack.frames.simulation import Simulator
from attack.frames.spectrum import Array64
from contract.models.neurons import mean_membrane_weights


@dataclass(frozen=True, kw_only=True)
class Pause:
    """The empty frames that follow a frame.

    Attributes:
        weights: Of each empty step in the readout, as a share of the frame's own.
    """

    weights: tuple[float, ...] = ()

    def gain(self, simulator: Simulator, membrane: Array64) -> Array64:
        """Surrogate derivative summed over the frame's step and the pause, from the membrane at that step `[H1]`."""
        total = simulator.surrogate(membrane)
        for j, (at, weight) in enumerate(zip(self.membranes(simulator, membrane), self.weights, strict=True)):
            total = total + simulator.neuron.beta ** (j + 1) * weight * simulator.surrogate(at)
        return total

    def membranes(self, simulator: Simulator, membrane: Array64) -> list[Array64]:
        """The membrane at each step of the pause, from the one before it."""
        found: list[Array64] = []
        for _ in self.weights:
            membrane = simulator.step(membrane, simulator.biases[0])
            found.append(membrane)
        return found


AT_ONCE = Pause()
"""No pause: the next step brings its own frame."""
_LONGEST = 8


def pauses(simulator: Simulator, *, step: int, steps: int, most: int) -> list[Pause]:
    """All pauses that may follow the frame of a step, the shortest first; only `AT_ONCE` for spike counts.

    Args:
        simulator: The known network.
        step: The frame's step.
        steps: Frames per sample T.
        most: Most empty frames; eight are tried at most.
    """
    if simulator.readout != "membrane":
        return [AT_ONCE]
    weights = np.array(mean_membrane_weights(steps, simulator.neuron.beta))
    relative = tuple(float(w) for w in weights / weights[step])
    lengths = range(1, min(most, steps - 1 - step, _LONGEST) + 1)
    return [AT_ONCE, *(Pause(weights=relative[step + 1 : step + 1 + n]) for n in lengths)]
