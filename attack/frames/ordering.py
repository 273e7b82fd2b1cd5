r"""Which frames follow one another: samples are read off step by step, from the first frame on.

The adjoints of a fully connected spiking layer obey ``delta_t - beta delta_{t+1} = G_t * (W_next^T epsilon_t)``. All
``delta`` lie in the gradient's column space, so the right-hand side does, and ``G_t`` follows from the frames up to t
alone. A frame is therefore some sample's first if the space ``{G_1 * (W_next^T epsilon)}`` meets the column space, the
second given the first likewise, and so on: a chain of exact tests that needs no other sample's frames.

A reset to zero makes the decay differ per neuron: see `attack.frames.resets` for what is left of the test then.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attack.clock import spend
from attack.costs import calls, product, singular, triangular
from attack.frames.pauses import AT_ONCE
from attack.frames.resets import equations, forgetting
from attack.frames.row_space import Binary
from attack.frames.simulation import Simulator
from attack.frames.spectrum import Array64

_MARGIN = 8


@dataclass(frozen=True, kw_only=True, eq=False)
class Prefix:
    """The first steps of one sample.

    Attributes:
        chosen: Index of the frame of each step.
        membrane: First-layer membrane after the last of them `[H1]`.
    """

    chosen: tuple[int, ...]
    membrane: Array64


@dataclass(frozen=True, kw_only=True, eq=False)
class ChainTest:
    """Tests frames as a sample's next step against the gradient's column space.

    Attributes:
        simulator: The known network.
        complement: Orthonormal basis of what is orthogonal to the column space `[H1, q]`.
        meets: Sine of the smallest angle below which two spaces meet.
    """

    simulator: Simulator
    complement: Array64
    meets: float

    @property
    def conclusive(self) -> bool:
        """Whether the column space leaves enough equations for the test to mean anything."""
        above = self.simulator.next_weight.shape[0]
        return bool(self.complement.shape[1] >= above + _MARGIN)

    def angles(self, membranes: Array64) -> Array64:
        """Sine of the smallest angle between each frame's possible adjoints and the column space.

        Args:
            membranes: First-layer membranes after the frame `[N, H1]`.

        Returns:
            `[N]`, 0 where they meet; infinite where a reset to zero leaves too few equations.
        """
        above = self._above()
        spend(len(membranes) * self._cost_s(*above.shape))
        if self.simulator.neuron.reset == "zero":
            return np.array([self._angle(membrane, above) for membrane in membranes])
        sines = np.empty(len(membranes))
        for start in range(0, len(membranes), 64):
            gains = self.simulator.surrogate(membranes[start : start + 64])
            possible, _ = np.linalg.qr(gains[:, :, None] * above)
            outside = np.swapaxes(possible, 1, 2) @ self.complement
            sines[start : start + 64] = np.linalg.svd(outside, compute_uv=False)[:, -1]
        return sines

    def _cost_s(self, hidden: int, free: int) -> float:
        left = self.complement.shape[1]
        return calls(5) + triangular(hidden, 2 * free) + product(free, hidden, left) + singular(free, left)

    def _angle(self, membrane: Array64, above: Array64) -> float:
        left = equations(self.complement, forgetting(self.simulator, membrane, AT_ONCE))
        if left.shape[1] < above.shape[1] + _MARGIN:
            return float("inf")
        possible, _ = np.linalg.qr(self.simulator.surrogate(membrane)[:, None] * above)
        return float(np.linalg.svd(possible.T @ left, compute_uv=False)[-1])

    def _above(self) -> Array64:
        """Directions that an adjoint may have before the surrogate's gain `[H1, k]`."""
        weight = self.simulator.next_weight.T
        if len(self.simulator.weights) > 2 or self.simulator.readout == "spike":
            return weight
        # Cross-entropy's error p - y sums to zero, at each step.
        classes = self.simulator.classes
        null = np.linalg.svd(np.ones((1, classes)))[2][1:]
        return np.asarray(weight @ null.T)


def chains(test: ChainTest, pool: Binary, steps: int, *, keep: int = 64) -> list[Prefix]:
    """All samples whose frames can be read off one after another.

    Args:
        test: The test at hand.
        pool: Known frames `[N, n]`.
        steps: Frames per sample T.
        keep: Most prefixes that are followed at once.

    Returns:
        Complete chains first, then the longest unfinished ones; empty when the test is not conclusive.
    """
    if not len(pool) or not test.conclusive:
        return []
    currents = test.simulator.current(pool.astype(np.float64))
    front = [Prefix(chosen=(), membrane=np.zeros(currents.shape[1]))]
    stuck: list[Prefix] = []
    for t in range(steps):
        grown: list[Prefix] = []
        for prefix in front:
            membranes = test.simulator.step(prefix.membrane, currents)
            spend(calls(10, 6 * currents.size))
            sines = test.angles(membranes)
            sines[list(prefix.chosen)] = np.inf
            hits = np.flatnonzero(sines < test.meets)
            grown += [Prefix(chosen=(*prefix.chosen, int(i)), membrane=membranes[i]) for i in hits]
            if not len(hits) and t:
                stuck.append(prefix)
        front = grown[:keep] if t else grown
    return front + stuck[::-1]
