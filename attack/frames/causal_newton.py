r"""One frame at a time by Gauss-Newton: the gradient's column space says what the next frame must do to the membrane.

With the frames before step t known, the membrane is ``U_t = u + W x_t`` with a known ``u``, and (see `ordering`)
``g(U_t) * (W_next^T epsilon) = delta_t - beta delta_{t+1}`` lies in the column space of the gradient, which has
``hidden - r`` equations for it. The unknowns are the r coordinates of ``x_t`` in the row space and the error
``epsilon`` at the logits, known up to a few numbers: it is -1 at the label and the other classes share the 1 by their
probabilities. One input spike moves a membrane little, so ``g`` is nearly linear and Gauss-Newton from a blurred guess
converges in two or three steps to a binary frame; equations are weighted by how far from linear they still are.

When there are fewer equations than unknowns, or several samples of one label share almost the same equations, the
solution stays fractional. Then it becomes the next guess, pushed a little towards 0 and 1 and trusted the more the
closer it is to them, as in reweighted least squares for concave penalties, until it is binary.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass

import numpy as np
import scipy.linalg

from attack.clock import spend
from attack.costs import calls, product, solution, triangular
from attack.frames.pauses import AT_ONCE, Pause
from attack.frames.resets import forgetting
from attack.frames.row_space import Binary, RowSpace
from attack.frames.simulation import Simulator
from attack.frames.spectrum import Array64

BINARY = 0.05
"""Largest distance from 0 and 1 at which a solution is rounded."""
_SHARPENINGS = 25
_PUSH = 1.6
_KEEP = 0.2
_LEAST_VARIANCE = 0.01
_FUTURE = 10.0
"""Adjoint of the steps to come, in multiples of a single step's: what a neuron that forgets may leave out."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Guess:
    """What is believed of a frame and of the error at the logits before solving.

    Attributes:
        mean: Spike probability of each active input `[active]`.
        variance: Its variance `[active]`.
        error: Error at the logits `[classes]`, -1 at the label.
        spread: Standard deviation of the error's other entries.
        membrane: Membrane without this frame's spikes `[H1]`.
        noise: Relative error of the gradient as this sample shows in it.
        pause: Empty frames that follow the frame.
    """

    mean: Array64
    variance: Array64
    error: Array64
    spread: float
    membrane: Array64
    noise: float = 1e-7
    pause: Pause = AT_ONCE


class CausalNewton:
    """Gauss-Newton for one step's frame in one row space.

    Args:
        simulator: The known network.
        space: Row and column space of the gradient.
    """

    def __init__(self, simulator: Simulator, space: RowSpace) -> None:
        self.simulator, self.space = simulator, space
        self._weight = np.ascontiguousarray(simulator.weights[0][:, space.active])
        self._effect = self._weight @ space.basis.T
        self._above = simulator.next_weight.T
        self._step = float(np.sqrt((self._weight**2).mean()))

    def without(self, functionals: Array64) -> CausalNewton:
        """The same for a step after known frames, given by what tells their adjoints from all others `[N, H1]`.

        The step's own right-hand side holds none of them, so it lies in a smaller column space. Without this, a
        membrane that merely repeats an earlier one satisfies all equations.
        """
        other = copy(self)
        other.space = self.space.narrowed(functionals)
        return other

    def solve(self, guess: Guess, label: int) -> Binary | None:
        """The frame `[active]` that the guess leads to, or `None` when it leads to no binary one."""
        mean, variance, start = guess.mean, guess.variance, guess.mean
        free = self.free(label)
        for _ in range(_SHARPENINGS):
            vector = self._converge(guess, start, mean, variance, free)
            if vector is None:
                return None
            if np.abs(vector - np.clip(np.round(vector), 0, 1)).max() < BINARY:
                frame = np.round(vector).astype(np.uint8)
                return frame if frame.any() and self.space.members(frame[None])[0] else None
            start = np.clip(vector, 0, 1)
            mean, variance = _sharpen(mean, variance, start)
        return None

    def free(self, label: int) -> Array64:
        """Orthonormal directions in which the error at the logits may move `[classes, k]`.

        Cross-entropy's ``p - y`` sums to zero; a spiking readout multiplies it by each neuron's own surrogate.
        """
        others = np.array([c for c in range(self.simulator.classes) if c != label])
        if self.simulator.readout == "spike":
            return np.eye(self.simulator.classes)[:, others]
        directions = np.zeros((self.simulator.classes, len(others) - 1))
        directions[others] = np.linalg.svd(np.ones((1, len(others))))[2][1:].T
        return directions

    def _converge(
        self, guess: Guess, start: Array64, mean: Array64, variance: Array64, free: Array64
    ) -> Array64 | None:
        """Iterates to a fixed point `[active]`; `None` when it runs away."""
        space = self.space
        vector, error, uncertainty = start, guess.error, 0.15
        prior, wanted = self._prior(mean, variance, free.shape[1], guess.spread)
        at = np.concatenate([space.basis @ vector, free.T @ (error - guess.error)])
        for _ in range(14):
            membrane = guess.membrane + self._weight @ vector
            spend(calls(80, 3 * self._weight.size + 8 * self._effect.size))
            gain, slope, bend = self._gains(guess.pause, membrane, uncertainty)
            drive = self._above @ error
            forgets = forgetting(self.simulator, membrane, guess.pause, margin=uncertainty)
            weight = 1 / (
                np.abs(drive) * bend
                + _FUTURE * forgets * np.abs(drive) * gain.max()
                + np.linalg.norm(self._above, axis=1) * np.abs(slope) * uncertainty * min(guess.spread, uncertainty)
                + guess.noise * np.abs(drive).mean() * gain.max()
            )
            jacobian = np.hstack([(drive * slope)[:, None] * self._effect, gain[:, None] * (self._above @ free)])
            equations = self._outside(np.hstack([jacobian, (jacobian @ at - drive * gain)[:, None]]), weight)
            at = _least_squares(np.vstack([equations, np.hstack([prior, wanted[:, None]])]))
            following = at[: space.rank] @ space.basis
            error = guess.error + free @ at[space.rank :]
            moved = float(np.abs(following - vector).max())
            vector = following
            if moved > 50:
                return None
            off = np.minimum(np.abs(vector - np.clip(np.round(vector), 0, 1)), 1)
            uncertainty = float(np.clip(self._step * np.sqrt((off**2).sum()), 1e-6, uncertainty))
            if off.max() < BINARY or moved < 2e-3:
                break
        return vector

    def _prior(self, mean: Array64, variance: Array64, free: int, spread: float) -> tuple[Array64, Array64]:
        """The prior as equations in the unknowns, brought to triangular form: `[k, k]` and right-hand side `[k]`."""
        rows = self.space.basis.T / np.sqrt(variance)[:, None]
        spend(triangular(len(rows), rows.shape[1] + 1) + calls(10, 3 * rows.size))
        triangle = _triangle(np.hstack([rows, (mean / np.sqrt(variance))[:, None]]))
        rank = self.space.rank
        whole = np.zeros((rank + free, rank + free))
        whole[:rank, :rank] = triangle[:rank, :rank]
        whole[rank:, rank:] = np.eye(free) / spread
        return whole, np.concatenate([triangle[:rank, rank], np.zeros(free)])

    def _outside(self, equations: Array64, weight: Array64) -> Array64:
        """Weighted equations without what any vector of the column space can explain."""
        columns, complement = self.space.columns, self.space.complement
        basis = min(complement.shape[1], columns.shape[1])
        spend(triangular(len(columns), 2 * basis) + product(len(columns), 2 * basis, equations.shape[1]))
        if complement.shape[1] <= columns.shape[1]:
            outside, _ = np.linalg.qr(complement / weight[:, None])
            return np.asarray(outside.T @ (weight[:, None] * equations))
        inside, _ = np.linalg.qr(weight[:, None] * columns)
        scaled = weight[:, None] * equations
        return np.asarray(scaled - inside @ (inside.T @ scaled))

    def _gains(self, pause: Pause, membrane: Array64, uncertainty: float) -> tuple[Array64, Array64, Array64]:
        """Surrogate derivative, its slope, and how far it bends over the membrane's uncertainty."""
        small = 1e-5
        gain, up, down, high, low = (
            pause.gain(self.simulator, membrane + shift) for shift in (0.0, small, -small, uncertainty, -uncertainty)
        )
        return gain, (up - down) / (2 * small), np.abs(high + low - 2 * gain) / 2


def _sharpen(mean: Array64, variance: Array64, vector: Array64) -> tuple[Array64, Array64]:
    """The next guess from the last one and a fractional solution in [0, 1]."""
    middle = vector - 0.5
    pushed = np.clip(vector + _PUSH * middle * (1 - 2 * np.abs(middle)), 0, 1)
    spread = _KEEP * variance + (1 - _KEEP) * vector * (1 - vector)
    return _KEEP * mean + (1 - _KEEP) * pushed, np.maximum(spread, _LEAST_VARIANCE)


def _least_squares(system: Array64) -> Array64:
    """Solution of an overdetermined system whose last column is the right-hand side."""
    triangle = _triangle(system)
    size = system.shape[1] - 1
    spend(triangular(*system.shape) + solution(1) + calls(0, size**2))
    return np.asarray(scipy.linalg.solve_triangular(triangle[:size, :size], triangle[:size, size]))


def _triangle(matrix: Array64) -> Array64:
    """The triangular factor of a QR decomposition."""
    return np.asarray(np.linalg.qr(matrix, mode="r"), dtype=np.float64)
