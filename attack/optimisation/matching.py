"""A gradient-matching attack as its four parts, and the search over restarts."""

from __future__ import annotations

import msgspec
import numpy as np
import torch
from torch import Tensor

from attack.clock import now_s
from attack.labels import recover_labels
from attack.method import Finding
from attack.optimisation.descent import Descent, DivergedError, OutOfTimeError
from attack.optimisation.objectives import Objective, relative_square
from attack.optimisation.optimisers import Optimiser
from attack.optimisation.priors import Prior
from attack.optimisation.starts import Start
from attack.simulation import Simulator
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

    Attributes:
        weight: Factor on the prior.
        iterations: Per restart.
        restarts: At most so many, within the time budget.
        enough: Loss at which a restart, and the search, ends.
    """

    objective: Objective
    prior: Prior
    weight: float
    start: Start
    optimiser: Optimiser
    dtype: torch.dtype
    iterations: int
    restarts: int
    enough: float

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
        estimate = recover_labels(observation)
        if estimate is None:
            return Finding(verdict="failed", reason="the readout's gradient is zero or not finite: no labels to match")
        search = _Search(self, observation, estimate.labels)
        if not any(bool(t.any()) for t in search.simulator.target):
            return Finding(verdict="failed", reason="the observed gradient is zero: nothing to match")
        best: Descent | None = None
        troubles: list[str] = []
        tried = 0
        while tried < self.restarts and (tried == 0 or now_s() < deadline):
            tried += 1
            descent, trouble = search.restart(rng, deadline)
            troubles += [trouble] if trouble else []
            if descent.best is not None and (best is None or descent.best_loss < best.best_loss):
                best = descent
            if best is not None and best.done:
                break
        return search.finding(best, tried, troubles)


class _Search:
    """One matching attack on one observation."""

    def __init__(self, matching: Matching, observation: Observation, labels: tuple[int, ...]) -> None:
        self.matching = matching
        self.simulator = Simulator(observation, dtype=matching.dtype)
        self.labels = labels
        self._classes = torch.as_tensor(labels, dtype=torch.long)

    def loss(self, frames: Tensor) -> Tensor:
        found = self.simulator.gradients(frames, self._classes, create_graph=True)
        loss = self.matching.objective(found, self.simulator.target)
        if self.matching.weight:
            loss = loss + self.matching.weight * self.matching.prior(frames.mean(dim=0))
        return loss

    def restart(self, rng: np.random.Generator, deadline: float) -> tuple[Descent, str]:
        shape = (self.simulator.steps, len(self.labels), *self.simulator.shape)
        start = torch.as_tensor(self.matching.start(shape, rng), dtype=self.matching.dtype)
        descent = Descent(self.loss, deadline=deadline, enough=self.matching.enough)
        try:
            self.matching.optimiser(descent, start, self.matching.iterations)
        except OutOfTimeError:
            return descent, ""
        except DivergedError as error:
            return descent, str(error)
        return descent, ""

    def finding(self, best: Descent | None, tried: int, troubles: list[str]) -> Finding:
        diverged = f"; {len(troubles)} diverged: {troubles[0]}" if troubles else ""
        if best is None or best.best is None:
            return Finding(verdict="failed", reason=f"none of {tried} restarts gave a finite objective{diverged}")
        found = self.simulator.gradients(best.best, self._classes)
        residual = float(relative_square(found, self.simulator.target)) ** 0.5
        images = self.simulator.images(best.best).numpy().astype(np.float32)
        reason = f"gradient residual {residual:.1e} (recovered below {RECOVERED:.0e}), {tried} restarts{diverged}"
        return Finding(
            verdict="recovered" if residual < RECOVERED else "partial",
            reason=reason,
            images=images,
            labels=self.labels,
            objective=best.best_loss,
        )
