"""Whole samples, frame after frame from the first: causal Gauss-Newton steps with an exact test after each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from attack.clock import now_s, spend
from attack.costs import calls, product, triangular
from attack.frames.causal_newton import CausalNewton, Guess
from attack.frames.pauses import Pause, pauses
from attack.frames.resets import equations, forgetting
from attack.frames.row_space import Binary, RowSpace
from attack.frames.simulation import Simulator
from attack.frames.spectrum import Array64

_RETRIES = 2
_SPARE = 8
_KNOWN_ERROR = 1e-4


@dataclass(frozen=True, kw_only=True, eq=False)
class Walk:
    """A sample as far as it is read.

    Attributes:
        label: Its supposed label.
        prior: Spike probability of each active input before anything is read.
        error: Error at the logits, -1 at the label.
        spread: Standard deviation of its other entries.
        frames: Frames read, in order.
        membrane: First-layer membrane after the last of them; `None` before the first.
        noise: Relative error of the gradient as this sample shows in it.
    """

    label: int
    prior: Array64
    error: Array64
    spread: float
    frames: tuple[Binary, ...] = ()
    membrane: Array64 | None = None
    noise: float = 1e-7


class SampleSearch:
    """Searches one row space for samples.

    Args:
        simulator: The known network.
        space: Row and column space of the gradient.
        gradient: The gradient itself `[H1, n]`.
        steps: Frames per sample T.
        meets: Sine of the angle to the column space below which a frame is confirmed.
        functionals: What tells the adjoints of given frames `[N, active]` from all others (`Deflation.functionals`).
        rowless: Empty frames that there may be.
    """

    def __init__(
        self,
        simulator: Simulator,
        space: RowSpace,
        gradient: Array64,
        *,
        steps: int,
        meets: float,
        functionals: Callable[[Binary], Array64],
        rowless: int = 0,
    ) -> None:
        self.simulator, self.space, self.steps, self.meets = simulator, space, steps, meets
        self._functionals, self._rowless = functionals, rowless
        self._newton = CausalNewton(simulator, space)
        spend(product(len(space.columns), int(space.active.sum()), space.rank))
        self._above = simulator.next_weight.T
        spikes = simulator.readout == "spike"
        self._spreads = (0.05, 0.2) if spikes else (0.03, 0.03, 0.2)
        self._later = 0.03 if spikes else _KNOWN_ERROR
        self._gradient = gradient[:, space.active]

    @property
    def possible(self) -> bool:
        """Whether the error above the first layer has few unknowns, and the column space equations to spare."""
        return len(self.simulator.weights) == 2 and self.space.complement.shape[1] > self.simulator.classes + _SPARE

    def labels(self) -> list[int]:
        """Labels, those that the gradient shows most of first."""
        return [int(c) for c in np.argsort(-self._images.mean(axis=1))]

    def _error(self, label: int) -> Array64:
        error = np.full(self.simulator.classes, 1 / (self.simulator.classes - 1))
        error[label] = -1.0
        return error

    @cached_property
    def _images(self) -> Array64:
        """What each class spikes where, up to scale: the gradient's regression on each label's expected adjoint."""
        gain = self.simulator.surrogate(self.simulator.biases[0])
        spend(triangular(len(gain), self.simulator.classes) + product(*self._gradient.shape, self.simulator.classes))
        expected = np.array([gain * (self._above @ self._error(c)) for c in range(self.simulator.classes)])
        return np.asarray(np.linalg.lstsq(expected.T, self._gradient, rcond=None)[0])

    def attempt(self, label: int, rng: np.random.Generator, end: float) -> Binary:
        """Looks for a sample of a label from a random start; its frames in order, as far as read `[t, active]`."""
        blurred = np.maximum(self._images[label], 0.0)
        blurred = blurred / (np.quantile(blurred, 0.95) + 1e-12) * np.exp(0.5 * rng.normal(size=len(blurred)))
        error, spread = self._error(label), float(rng.choice(self._spreads))
        walk: Walk | None = Walk(label=label, prior=np.clip(blurred, 0.03, 0.97), error=error, spread=spread)
        frames: tuple[Binary, ...] = ()
        while walk is not None and len(frames) < self.steps and now_s() < end:
            walk = self._next(walk, rng, end)
            frames = frames if walk is None else walk.frames
        return np.array(frames, dtype=np.uint8).reshape(-1, len(blurred))

    def _next(self, walk: Walk, rng: np.random.Generator, end: float) -> Walk | None:
        """The walk with one more frame and the empty ones around it."""
        spared = self._rowless - sum(not frame.any() for frame in walk.frames)
        leading = 0 if walk.frames else min(max(spared, 0), self.steps - 1)
        for lead in range(leading + 1):
            led = self._led(walk, lead)
            for pause in pauses(self.simulator, step=len(led.frames), steps=self.steps, most=max(spared - lead, 0)):
                found = self._extend(led, pause, rng, end)
                if found is not None or now_s() >= end:
                    return found
        return None

    def _led(self, walk: Walk, empty: int) -> Walk:
        """The walk with empty frames before its first one."""
        membrane = walk.membrane
        for _ in range(empty):
            silent = self.simulator.biases[0]
            membrane = silent if membrane is None else self.simulator.step(membrane, silent)
        zeros = (np.zeros(len(walk.prior), dtype=np.uint8),) * empty
        return replace(walk, frames=(*walk.frames, *zeros), membrane=membrane)

    def _extend(self, walk: Walk, pause: Pause, rng: np.random.Generator, end: float) -> Walk | None:
        silent = self.simulator.biases[0]
        if walk.membrane is not None:
            silent = self.simulator.step(walk.membrane, silent)
        filled = [frame for frame in walk.frames if frame.any()]
        newton = self._newton
        if filled:
            newton = newton.without(self._functionals(np.unique(np.array(filled), axis=0)))
        for mean in self._guesses(walk, filled, rng):
            guess = Guess(
                mean=mean,
                variance=mean * (1 - mean) + 0.05,
                error=walk.error,
                spread=walk.spread,
                membrane=silent,
                noise=walk.noise,
                pause=pause,
            )
            frame = newton.solve(guess, walk.label)
            if frame is None:
                if now_s() >= end:
                    return None
                continue
            membrane = silent + self.simulator.weights[0][:, self.space.active] @ frame
            error, sine = self._confirm(membrane, pause, walk.error, walk.label)
            if sine < self.meets:
                after = pause.membranes(self.simulator, membrane)
                return replace(
                    walk,
                    frames=(*walk.frames, frame, *(np.zeros_like(frame),) * len(after)),
                    membrane=after[-1] if after else membrane,
                    error=error,
                    spread=max(self._later, 3 * sine),
                    noise=max(walk.noise, sine),
                )
        return None

    @staticmethod
    def _guesses(walk: Walk, filled: Sequence[Binary], rng: np.random.Generator) -> Iterator[Array64]:
        """Spike probabilities to start from: the class' image drawn to the known frames, or these alone."""
        if not filled:
            yield walk.prior
            return
        yield np.clip((2 * walk.prior + np.sum(filled, axis=0)) / (2 + len(filled)), 0.03, 0.97)
        alike = 0.12 + 0.7 * np.mean(filled, axis=0)
        yield alike
        for _ in range(_RETRIES):
            start = walk.prior if rng.random() < 0.5 else alike
            yield np.clip(start * np.exp(0.3 * rng.normal(size=len(start))), 0.03, 0.97)

    def _confirm(self, membrane: Array64, pause: Pause, error: Array64, label: int) -> tuple[Array64, float]:
        """The error at the logits that fits best, and the sine of the angle that is left to the column space."""
        free = self._newton.free(label)
        gain = pause.gain(self.simulator, membrane)[:, None]
        left = equations(self.space.complement, forgetting(self.simulator, membrane, pause))
        if left.shape[1] <= self.simulator.classes + _SPARE:
            return error, np.inf
        spend(calls(20) + product(*left.shape, free.shape[1] + 3) + triangular(left.shape[1], free.shape[1]))
        fixed = left.T @ (gain * (self._above @ error)[:, None])
        moving = left.T @ (gain * (self._above @ free))
        change = np.linalg.lstsq(moving, -fixed, rcond=None)[0]
        exact = error + (free @ change)[:, 0]
        drive = gain[:, 0] * (self._above @ exact)
        return exact, float(np.linalg.norm(left.T @ drive) / np.linalg.norm(drive))
