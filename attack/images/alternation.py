"""Binary frames of one sample from a quantised first-layer gradient: simulate, decode every column, repeat."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attack.clock import now_s, spend
from attack.costs import calls, product, triangular
from attack.frames.simulation import Simulator
from attack.images.refinement import blend

Array64 = npt.NDArray[np.float64]

MAX_STEPS = 12
"""Largest T: every column is compared with all 2^T trains."""
ITERATIONS = 30
SLACK = 1.02
"""Errors of float32 beside the rounding's, in steps."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Frames:
    """Frames `[T, inputs]` of 0 and 1.

    Attributes:
        frames: In the order of time.
        error_steps: Root mean square of what they leave of the gradient, in quantiser steps.
        within: Whether no entry is left with more than a step, which is what stochastic rounding guarantees.
    """

    frames: Array64
    error_steps: float
    within: bool


class Alternation:
    """Descends from random starts to frames whose simulated gradient is the observed one up to rounding.

    With the adjoints D known, each column of ``dW = D X`` is a superposition of T known vectors with bits as factors:
    the best of 2^T. With the frames X known, D is simulated. A frame that is slightly wrong gives the right adjoint
    except for neurons whose train it changes; those show as neurons with a large residual over all columns, and each
    neuron is weighted with the inverse of its own (iterative reweighting), with D fitted to the data where it differs.

    Args:
        weight: First-layer gradient `[outputs, inputs]` of one sample.
        step: Step of its quantiser.
        label: The sample's label.
        network: The known network.
        steps: T, at most `MAX_STEPS`.
    """

    def __init__(self, weight: Array64, step: float, label: int, network: Simulator, steps: int) -> None:
        self._live = np.abs(weight).sum(0) > 0
        self._weight = weight[:, self._live]
        self._network_weight = network.weights[0][:, self._live]
        self._step = step
        self._label = label
        self._network = network
        self._trains = ((np.arange(1 << steps)[:, None] >> np.arange(steps)) & 1).astype(np.float64)

    def run(self, rate: Array64, deadline: float, rng: np.random.Generator) -> Frames:
        """Restarts until no entry errs by more than a step, or `deadline` (on `attack.clock`).

        Args:
            rate: Estimate of each input's spike rate `[inputs]`, from which starts are drawn.
            deadline: When to stop.
            rng: Source of starts.
        """
        best, error = self._descend(rate, rng)
        while not self._within(best) and now_s() < deadline:
            frames, found = self._descend(rate, rng)
            if found < error:
                best, error = frames, found
        full = np.zeros((best.shape[0], len(self._live)))
        full[:, self._live] = best
        return Frames(frames=full, error_steps=error, within=self._within(best))

    def _within(self, frames: Array64) -> bool:
        """Whether every entry of the gradient is a neighbouring grid point of the simulated one."""
        error = np.abs(self._weight - self._simulated(frames) @ frames).max()
        return bool(error <= SLACK * self._step)

    def _descend(self, rate: Array64, rng: np.random.Generator) -> tuple[Array64, float]:
        likely = np.clip(rate[self._live], 0.0, 1.0)
        frames = (rng.random((self._trains.shape[1], len(likely))) < likely).astype(np.float64)
        best, error = frames, self._error(self._simulated(frames), frames)
        weights = np.ones(len(self._weight))
        for iteration in range(ITERATIONS):
            adjoint = self._simulated(frames)
            if iteration > 1:
                fitted = np.linalg.lstsq(frames.T, self._weight.T, rcond=1e-6)[0].T
                adjoint = blend(adjoint, fitted) if iteration % 2 else (adjoint + fitted) / 2
            decoded = self._decode(adjoint, weights)
            simulated = self._simulated(decoded)
            spend(calls(20, 5 * self._weight.size) + 2 * product(*simulated.shape, decoded.shape[1]))
            spend(triangular(decoded.shape[1], len(decoded)))
            rest = self._weight - simulated @ decoded
            weights = 1 / (np.mean(rest**2, axis=1) + self._step**2 / 12)
            found = float(np.sqrt(np.mean(rest**2)) / self._step)
            if found < error:
                best, error = decoded, found
            if np.array_equal(decoded, frames) and iteration > 3:
                break
            frames = decoded
        return best, error

    def _decode(self, adjoint: Array64, weights: Array64) -> Array64:
        """The best train of each column in the weighted norm."""
        (trains, steps), (outputs, columns) = self._trains.shape, self._weight.shape
        spend(calls(20, 4 * trains * columns) + product(trains, steps, columns) + product(outputs, steps, columns))
        weighted = adjoint * weights[:, None]
        squares = ((self._trains @ (adjoint.T @ weighted)) * self._trains).sum(1)
        costs = squares[:, None] - 2 * self._trains @ (weighted.T @ self._weight)
        decoded: Array64 = self._trains[costs.argmin(0)].T
        return decoded

    def _simulated(self, frames: Array64) -> Array64:
        """Adjoints `[outputs, T]`."""
        steps, columns = frames.shape
        spend(calls(30 * steps) + product(steps, columns, len(self._weight)))
        currents = frames @ self._network_weight.T + self._network.biases[0]
        adjoint: Array64 = self._network.first_adjoint(currents, self._label).T
        return adjoint

    def _error(self, adjoint: Array64, frames: Array64) -> float:
        return float(np.sqrt(np.mean((self._weight - adjoint @ frames) ** 2)) / self._step)
