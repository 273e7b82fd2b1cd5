"""Losses of several restarts, to be minimised within a time limit, with each restart's best point so far."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from attack.clock import now_s
from attack.counting import Repeated


class OutOfTimeError(Exception):
    """The time limit has passed; the best points so far stand."""


class DivergedError(Exception):
    """No restart's loss is finite."""


class Descent:
    """Counts evaluations, keeps the best points and stops at a deadline.

    Restarts are the rows of one tensor and do not act on each other. One whose loss or gradient is not finite stays
    where it is: its gradient is taken as 0.

    Args:
        loss: Candidates `[R, ...]` to losses `[R]`.
        deadline: Value of `attack.clock` at which evaluation ends.
        enough: Loss of any restart at which there is nothing left to gain.
        cost: What an evaluation costs, where others of its kind came before.
    """

    def __init__(
        self, loss: Callable[[Tensor], Tensor], *, deadline: float, enough: float, cost: Repeated | None = None
    ) -> None:
        self._loss, self._cost = loss, cost or Repeated()
        self._begin = now_s()
        self.deadline = deadline
        self.enough = enough
        self.evaluations = 0
        self._points: Tensor | None = None
        self._losses = torch.zeros(0, dtype=torch.float64)
        self.broken = torch.zeros(0, dtype=torch.bool)
        """Which restarts ever had a loss or a gradient that is not finite."""

    @property
    def best(self) -> Tensor | None:
        """The best point of all restarts, without their dimension."""
        return None if self._points is None else self._points[int(self._losses.argmin())]

    @property
    def best_loss(self) -> float:
        """Its loss."""
        return math.inf if self._points is None else float(self._losses.min())

    @property
    def done(self) -> bool:
        """Whether the loss is as small as it needs to be."""
        return self.best_loss <= self.enough

    @property
    def time_spent(self) -> float:
        """Fraction of the time from the beginning to the deadline that has passed."""
        whole = self.deadline - self._begin
        return (now_s() - self._begin) / whole if whole > 0 else 1.0

    def check_time(self) -> None:
        """Raises `OutOfTimeError` when the deadline has passed, though never before the first evaluation."""
        if self.evaluations and now_s() > self.deadline:
            raise OutOfTimeError

    def evaluate(self, x: Tensor) -> Tensor:
        """The losses `[R]` at `x`, without a graph, with their gradients in `x.grad`.

        Raises:
            OutOfTimeError: The deadline has passed (never before the first evaluation).
            DivergedError: No restart's loss and gradient are finite.
        """
        self.check_time()
        with self._cost.once_more():
            losses = self._loss(x)
            (x.grad,) = torch.autograd.grad(losses.sum(), x)
        self.evaluations += 1
        return self.note(x, losses.detach(), x.grad)

    def note(self, x: Tensor, losses: Tensor, gradient: Tensor) -> Tensor:
        """Keeps what is best of an evaluation; infinite for a restart that is not finite, whose gradient becomes 0.

        Raises:
            DivergedError: No restart is finite.
        """
        finite = losses.isfinite() & gradient.flatten(1).isfinite().all(1)
        if self._points is None:
            self._points = x.detach().clone()
            self._losses = torch.full((len(losses),), math.inf, dtype=torch.float64)
            self.broken = torch.zeros(len(losses), dtype=torch.bool)
        self.broken |= ~finite
        gradient.masked_fill_(~finite.view(-1, *[1] * (gradient.ndim - 1)), 0.0)
        better = finite & (losses < self._losses)
        self._points[better] = x.detach()[better]
        self._losses[better] = losses[better].double()
        if not bool(finite.any()):
            if not bool(self._losses.isfinite().any()):
                self._points = None
            raise DivergedError(f"no objective with a finite gradient is left at evaluation {self.evaluations}")
        return losses.masked_fill(~finite, math.inf)
