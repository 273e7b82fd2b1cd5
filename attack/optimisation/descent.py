"""A loss to be minimised within a time limit, with its best point so far."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from attack.clock import now_s


class OutOfTimeError(Exception):
    """The time limit has passed; the best point so far stands."""


class DivergedError(Exception):
    """The loss is not finite."""


class Descent:
    """Counts evaluations, keeps the best point and stops at a deadline.

    Args:
        loss: Candidate to scalar.
        deadline: Value of `attack.clock` at which evaluation ends.
        enough: Loss at which there is nothing left to gain.
    """

    def __init__(self, loss: Callable[[Tensor], Tensor], *, deadline: float, enough: float) -> None:
        self._loss = loss
        self._begin = now_s()
        self.deadline = deadline
        self.enough = enough
        self.best: Tensor | None = None
        self.best_loss = math.inf
        self.evaluations = 0

    @property
    def done(self) -> bool:
        """Whether the loss is as small as it needs to be."""
        return self.best_loss <= self.enough

    @property
    def time_spent(self) -> float:
        """Fraction of the time from the beginning to the deadline that has passed."""
        whole = self.deadline - self._begin
        return (now_s() - self._begin) / whole if whole > 0 else 1.0

    def evaluate(self, x: Tensor) -> Tensor:
        """The loss at `x`, with its gradient in `x.grad`.

        Raises:
            OutOfTimeError: The deadline has passed (never before the first evaluation).
            DivergedError: The loss or its gradient is not finite.
        """
        if self.best is not None and now_s() > self.deadline:
            raise OutOfTimeError
        loss = self._loss(x)
        value = float(loss.detach())
        self.evaluations += 1
        if not math.isfinite(value):
            raise DivergedError(f"the objective became {value} at evaluation {self.evaluations}")
        if value < self.best_loss:
            self.best_loss, self.best = value, x.detach().clone()
        (x.grad,) = torch.autograd.grad(loss, x)
        if not bool(x.grad.isfinite().all()):
            raise DivergedError(f"the objective's gradient is not finite at evaluation {self.evaluations}")
        return loss
