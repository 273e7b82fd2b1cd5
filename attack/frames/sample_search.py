"""Whole samples, frame after frame from the first: causal Gauss-Newton steps with an exact test after each."""

from __future__ import annotations

import time

import numpy as np

from attack.frames.causal_newton import CausalNewton, Guess
from attack.frames.row_space import Binary, RowSpace
from attack.frames.simulation import Simulator
from attack.frames.spectrum import Array64

_RETRIES = 4
_KNOWN_ERROR = 1e-4


class SampleSearch:
    """Searches one row space for samples.

    Args:
        simulator: The known network.
        space: Row and column space of the gradient.
        gradient: The gradient itself `[H1, n]`.
        steps: Frames per sample T.
        meets: Sine of the angle to the column space below which a frame is confirmed.
    """

    def __init__(self, simulator: Simulator, space: RowSpace, gradient: Array64, *, steps: int, meets: float) -> None:
        self.simulator, self.space, self.steps, self.meets = simulator, space, steps, meets
        self._newton = CausalNewton(simulator, space)
        self._above = simulator.next_weight.T
        spikes = simulator.readout == "spike"
        self._spreads = (0.05, 0.2) if spikes else (0.03, 0.03, 0.2)
        self._later = 0.03 if spikes else _KNOWN_ERROR
        self._images = self._class_images(gradient)

    @property
    def possible(self) -> bool:
        """Whether the error above the first layer has few unknowns, and the column space equations to spare."""
        one_hidden = len(self.simulator.weights) == 2 and self.simulator.neuron.reset != "zero"
        return one_hidden and self.space.complement.shape[1] > self.simulator.classes + 8

    def labels(self) -> list[int]:
        """Labels, those that the gradient shows most of first."""
        return [int(c) for c in np.argsort(-self._images.mean(axis=1))]

    def _error(self, label: int) -> Array64:
        error = np.full(self.simulator.classes, 1 / (self.simulator.classes - 1))
        error[label] = -1.0
        return error

    def _class_images(self, gradient: Array64) -> Array64:
        """What each class spikes where, up to scale: the gradient's regression on each label's expected adjoint."""
        gain = self.simulator.surrogate(self.simulator.biases[0])
        expected = np.array([gain * (self._above @ self._error(c)) for c in range(self.simulator.classes)])
        return np.asarray(np.linalg.lstsq(expected.T, gradient[:, self.space.active], rcond=None)[0])

    def attempt(self, label: int, rng: np.random.Generator, end: float) -> Binary:
        """Looks for a sample of a label from a random start; its first frames in order, as far as read `[t, active]`."""
        blurred = np.maximum(self._images[label], 0.0)
        blurred = blurred / (np.quantile(blurred, 0.95) + 1e-12) * np.exp(0.5 * rng.normal(size=len(blurred)))
        prior = np.clip(blurred, 0.03, 0.97)
        frames: list[Binary] = []
        membrane = np.zeros(len(self._above))
        error, spread = self._error(label), float(self._spreads[rng.integers(len(self._spreads))])
        while len(frames) < self.steps and time.monotonic() < end:
            step = self._next(prior, frames, membrane, error, spread, label, rng)
            if step is None:
                break
            frame, membrane, error = step
            frames.append(frame)
            spread = self._later
        return np.array(frames, dtype=np.uint8).reshape(-1, len(prior))

    def _next(
        self,
        prior: Array64,
        frames: list[Binary],
        membrane: Array64,
        error: Array64,
        spread: float,
        label: int,
        rng: np.random.Generator,
    ) -> tuple[Binary, Array64, Array64] | None:
        silent = self.simulator.step(membrane, self.simulator.biases[0]) if frames else self.simulator.biases[0]
        mean = np.clip((2 * prior + np.sum(frames, axis=0)) / (2 + len(frames)) if frames else prior, 0.03, 0.97)
        for _ in range(_RETRIES if frames else 1):
            guess = Guess(mean=mean, variance=mean * (1 - mean) + 0.05, error=error, spread=spread, membrane=silent)
            frame = self._newton.solve(guess, label)
            if frame is not None:
                after = silent + self.simulator.weights[0][:, self.space.active] @ frame
                exact, sine = self._confirm(after, error, label)
                if sine < self.meets:
                    return frame, after, exact
            mean = np.clip(prior * np.exp(0.3 * rng.normal(size=len(prior))), 0.03, 0.97)
        return None

    def _confirm(self, membrane: Array64, error: Array64, label: int) -> tuple[Array64, float]:
        """The error at the logits that fits best, and the sine of the angle that is left to the column space."""
        free = self._newton.free(label)
        gain = self.simulator.surrogate(membrane)[:, None]
        fixed = self.space.complement.T @ (gain * (self._above @ error)[:, None])
        moving = self.space.complement.T @ (gain * (self._above @ free))
        change = np.linalg.lstsq(moving, -fixed, rcond=None)[0]
        exact = error + (free @ change)[:, 0]
        drive = gain[:, 0] * (self._above @ exact)
        return exact, float(np.linalg.norm(self.space.complement.T @ drive) / np.linalg.norm(drive))
