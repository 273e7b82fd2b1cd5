"""A gradient-matching attack as its parts, and the search over restarts."""

from __future__ import annotations

import msgspec
import numpy as np
import torch
from torch import Tensor

from attack.citations import works
from attack.clock import now_s
from attack.counting import Repeated, counted
from attack.labels import CITED as LABELS_CITED
from attack.labels import recover_labels
from attack.method import Citation, Finding
from attack.optimisation.candidates import Candidates
from attack.optimisation.descent import Descent, DivergedError, OutOfTimeError
from attack.optimisation.gauss_newton import gauss_newton
from attack.optimisation.objectives import Objective, relative_square
from attack.optimisation.optimisers import Optimiser
from attack.optimisation.priors import Prior
from attack.optimisation.relaxations import Relaxation, continuous
from attack.optimisation.sources import SOURCES
from attack.optimisation.starts import Start
from attack.threat import Knowledge, Observation

NEEDS: frozenset[Knowledge] = frozenset({"architecture", "neuron", "encoding", "weights", "plan"})
RECOVERED = 1e-3
"""Relative residual of the gradient below which an optimisation counts as `recovered`."""
MAX_SAMPLES = 8
"""Largest update (batch size × local steps) worth an optimisation's time."""


class Matching(msgspec.Struct, frozen=True, kw_only=True):
    """What makes one gradient-matching attack.

    The unknowns are relaxed frames `[F, B, *shape]` in [0, 1]: one frame under direct coding, T frames for spikes,
    whose mean is the image. Several local steps are matched as one batch of all their samples at the initial weights.
    All restarts of a network that a task describes are one tensor; those of a foreign module follow one another.

    Attributes:
        weight: Factor on the prior.
        optimiser: `None` for Gauss–Newton steps, which minimise the relative square without a prior.
        iterations: Per restart.
        restarts: At most so many, within the time budget.
        enough: Loss at which the search ends.
        relaxation: What the network sees of the unknown frames.
        joint: Whether labels are searched for as well, as probabilities that begin at even chances plus noise; by
            default they are read off the readout first.
    """

    objective: Objective
    prior: Prior
    weight: float
    start: Start
    optimiser: Optimiser | None
    dtype: torch.dtype
    iterations: int
    restarts: int
    enough: float
    relaxation: Relaxation = continuous
    joint: bool = False

    def beside(self, citation: Citation) -> tuple[Citation, ...]:
        """Works behind its parts, and behind labels that are read off the readout, other than this one."""
        parts = (self.objective, self.prior, self.start, self.relaxation, self.optimiser or gauss_newton)
        keys = [key for part in parts for key in SOURCES[part]]
        return tuple(one for one in works(*keys, *(() if self.joint else LABELS_CITED["batch"])) if one != citation)

    def applies(self, observation: Observation) -> str | None:
        """Refuses updates of more than `MAX_SAMPLES` samples."""
        if observation.samples > MAX_SAMPLES:
            plan = observation.plan
            size = f"{plan.batch_size} samples × {plan.local_steps} local steps"
            return f"{size}: gradient matching is tried up to {MAX_SAMPLES} samples in all"
        return None

    def run(self, observation: Observation, budget_s: float, rng: np.random.Generator) -> Finding:
        """Searches until the loss is small enough, or the restarts or the time are used up."""
        deadline = now_s() + budget_s
        labels = None
        if not self.joint:
            estimate = recover_labels(observation)
            if estimate is None:
                reason = "the readout's gradient is zero or not finite: no labels to match"
                return Finding(verdict="failed", reason=reason)
            labels = estimate.labels
        search = _Search(self, observation, labels)
        if not any(bool(t.any()) for t in search.candidates.simulator.target):
            return Finding(verdict="failed", reason="the observed gradient is zero: nothing to match")
        together = self.restarts if search.candidates.batched else 1
        best: Descent | None = None
        troubles: list[str] = []
        tried = 0
        while tried < self.restarts and (tried == 0 or now_s() < deadline):
            tried += together
            descent, trouble = search.restart(together, rng, deadline)
            troubles += trouble
            if descent.best is not None and (best is None or descent.best_loss < best.best_loss):
                best = descent
            if best is not None and best.done:
                break
        return search.finding(best, tried, troubles)


class _Search:
    """One matching attack on one observation. Its unknowns are rows `[R, frames and labels]`."""

    def __init__(self, matching: Matching, observation: Observation, labels: tuple[int, ...] | None) -> None:
        self.matching = matching
        self.candidates = Candidates(observation, dtype=matching.dtype)
        simulator = self.candidates.simulator
        self._shape = (simulator.steps, observation.samples, *simulator.shape)
        self._scores = (observation.samples, observation.classes)
        self._labels = None if labels is None else torch.as_tensor(labels, dtype=torch.long)
        self._cost = Repeated()

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Frames `[R, F, B, *shape]` as the network sees them, and labels `[B]` or `[R, B, classes]`."""
        size = int(np.prod(self._shape))
        frames = self.matching.relaxation(x[:, :size].reshape(len(x), *self._shape))
        if self._labels is not None:
            return frames, self._labels
        return frames, x[:, size:].reshape(len(x), *self._scores).softmax(-1)

    def loss(self, x: Tensor) -> Tensor:
        frames, labels = self.split(x)
        loss = self.matching.objective(self.candidates.compare(frames, labels))
        if self.matching.weight:
            loss = loss + self.matching.weight * self.matching.prior(frames)
        return loss

    def restart(self, count: int, rng: np.random.Generator, deadline: float) -> tuple[Descent, list[str]]:
        """Several restarts from their own starts, and what went wrong with them."""
        starts = []
        for _ in range(count):
            scores = rng.standard_normal(self._scores).ravel() if self._labels is None else np.empty(0)
            starts.append(np.concatenate([self.matching.start(self._shape, rng).ravel(), scores]))
        start = torch.as_tensor(np.stack(starts), dtype=self.matching.dtype)
        descent = Descent(self.loss, deadline=deadline, enough=self.matching.enough, cost=self._cost)
        try:
            if self.matching.optimiser is None:
                gauss_newton(descent, start, self.matching.iterations, candidates=self.candidates, inputs=self.split)
            else:
                self.matching.optimiser(descent, start, self.matching.iterations)
        except OutOfTimeError:
            pass
        except DivergedError as error:
            return descent, [str(error)] * count
        return descent, ["its objective or gradient was not finite"] * int(descent.broken.sum())

    def finding(self, best: Descent | None, tried: int, troubles: list[str]) -> Finding:
        diverged = f"; {len(troubles)} diverged: {troubles[0]}" if troubles else ""
        if best is None or best.best is None:
            return Finding(verdict="failed", reason=f"none of {tried} restarts gave a finite objective{diverged}")
        simulator = self.candidates.simulator
        frames, labels = self.split(best.best[None])
        with counted():
            found = simulator.gradients(frames[0], labels if labels.ndim == 1 else labels[0])
        residual = float(relative_square(found, simulator.target)) ** 0.5
        images = simulator.images(frames[0]).numpy().astype(np.float32)
        reason = f"gradient residual {residual:.1e} (recovered below {RECOVERED:.0e}), {tried} restarts{diverged}"
        return Finding(
            verdict="recovered" if residual < RECOVERED else "partial",
            reason=reason,
            images=images,
            labels=tuple(int(c) for c in (labels if labels.ndim == 1 else labels[0].argmax(1))),
            objective=best.best_loss,
        )
