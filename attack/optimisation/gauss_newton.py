r"""Gauss–Newton after Levenberg and Marquardt, without a matrix, for all restarts at once.

The residual is the gradient itself, ``r(x) = (g(x) − g*) / ‖g*‖``. A step solves

    (JᵀJ + λ I) p = −Jᵀ r

by conjugate gradients, which need only ``v ↦ JᵀJ v`` (Nocedal and Wright 2006, sections 10.3 and 7.1). The rows
``o = (a, δ)`` of `attack.optimisation.rows` give it without forming g: ``ȯ = (∂o/∂x) v`` by differentiating the
transposed product once more, then ``Jᵀ J v = ∂/∂x ⟨g(x), ġ⟩`` with ``ġ = Σ (δ̇ aᵀ + δ ȧᵀ)`` held fixed. λ falls after a
step that lowers the loss and rises after one that does not, for each restart by itself. For a spiking network J is
the derivative through the surrogate, as in all matching attacks, so that a step need not lower the loss however
small it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from attack.clock import spend
from attack.costs import operators
from attack.counting import Repeated
from attack.optimisation.candidates import Candidates
from attack.optimisation.descent import Descent
from attack.optimisation.rows import Rows

INNER = 20
"""Conjugate-gradient steps for one step of the search."""
_DAMPING = 1e-3
_LARGEST = 1e6
_RESIDUAL = 0.03

Inputs = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Unknowns `[R, n]` to frames and labels."""


class _Costs:
    """What a point and a product cost, for all of one search."""

    def __init__(self) -> None:
        self.point, self.product = Repeated(), Repeated()


class _Linearised:
    """The residual at one point and products with its Jacobian."""

    def __init__(self, candidates: Candidates, inputs: Inputs, x: Tensor, costs: _Costs | None = None) -> None:
        self._candidates, self._costs = candidates, costs or _Costs()
        self.x = x.detach().clone().requires_grad_()
        with self._costs.point.once_more():
            self._differentiate(inputs)

    def _differentiate(self, inputs: Inputs) -> None:
        candidates = self._candidates
        self._rows = candidates.rows(*inputs(self.x))
        self._outputs = [part for rows in self._rows for part in (rows.seen, rows.adjoint)]
        loss = candidates.distance(self._rows) / candidates.norm
        (gradient,) = torch.autograd.grad(loss.sum(), self.x, retain_graph=True)
        self.losses, self.gradient = loss.detach(), gradient
        self._moving = [k for k, part in enumerate(self._outputs) if part.requires_grad]
        self._dummies = [torch.zeros_like(self._outputs[k]).requires_grad_() for k in self._moving]
        (self._transposed,) = torch.autograd.grad(
            [self._outputs[k] for k in self._moving], self.x, self._dummies, create_graph=True
        )

    def normal_product(self, v: Tensor) -> Tensor:
        """``JᵀJ v`` per restart."""
        with self._costs.product.once_more():
            return self._product(v)

    def _product(self, v: Tensor) -> Tensor:
        moved = torch.autograd.grad(self._transposed, self._dummies, v, retain_graph=True)
        dots = [torch.zeros_like(part) for part in self._outputs]
        for k, part in zip(self._moving, moved, strict=True):
            dots[k] = part
        change = [self._moved(rows, dots[2 * k], dots[2 * k + 1]) for k, rows in enumerate(self._rows)]
        product = self._candidates.inner(self._rows, change) / self._candidates.norm
        (found,) = torch.autograd.grad(product.sum(), self.x, retain_graph=True)
        return found

    @staticmethod
    def _moved(rows: Rows, seen_dot: Tensor, adjoint_dot: Tensor) -> Rows:
        """``δ̇ aᵀ + δ ȧᵀ`` as rows; the bias sees ``δ̇`` alone."""
        seen, adjoint = rows.seen.detach(), rows.adjoint.detach()
        return dataclasses.replace(
            rows,
            seen=torch.cat([seen, seen_dot], dim=1),
            adjoint=torch.cat([adjoint_dot, adjoint], dim=1),
            bias_rows=seen.shape[1],
        )


def _solve(at: _Linearised, damping: Tensor, descent: Descent) -> Tensor:
    """``(JᵀJ + λ I) p = −Jᵀr`` by conjugate gradients; a restart whose curvature is not positive stops there."""
    p = torch.zeros_like(at.x)
    r = -at.gradient / 2
    d, rr = r.clone(), (r * r).sum(1)
    goal = _RESIDUAL**2 * rr
    for _ in range(INNER):
        descent.check_time()
        descent.evaluations += 1
        spend(operators(20, 20 * p.numel()))
        product = at.normal_product(d) + damping[:, None] * d
        curvature = (d * product).sum(1)
        active = (rr > goal) & (curvature > 0)
        if not bool(active.any()):
            break
        alpha = torch.where(active, rr / curvature.clamp_min(torch.finfo(rr.dtype).tiny), 0.0)
        p = p + alpha[:, None] * d
        r = r - alpha[:, None] * product
        new = torch.where(active, (r * r).sum(1), rr)
        d = torch.where(active[:, None], r + (new / rr.clamp_min(torch.finfo(rr.dtype).tiny))[:, None] * d, d)
        rr = new
    return p.detach()


def gauss_newton(descent: Descent, start: Tensor, iterations: int, *, candidates: Candidates, inputs: Inputs) -> None:
    """Steps until the loss is small enough, no restart gains any more or the time is used up.

    Args:
        descent: Books; its own loss is not read.
        start: `[R, n]`.
        iterations: Steps.
        candidates: The observed gradient, for a network that is run as rows.
        inputs: From the unknowns to what the network sees.
    """
    costs = _Costs()
    at = _note(descent, _Linearised(candidates, inputs, start, costs))
    damping = torch.full((len(start),), _DAMPING, dtype=start.dtype) * _scale(at)
    base = damping.clone()
    for _ in range(iterations):
        stuck = damping > _LARGEST * base
        if descent.done or bool(stuck.all()):
            return
        step = _solve(at, damping, descent)
        tried = _note(descent, _Linearised(candidates, inputs, at.x.detach() + step, costs))
        good = tried.losses < at.losses
        damping = torch.where(good, damping / 4, damping * 6)
        if bool(good.all()):
            at = tried
        elif bool(good.any()):
            chosen = torch.where(good[:, None], tried.x.detach(), at.x.detach())
            at = _Linearised(candidates, inputs, chosen, costs)


def _scale(at: _Linearised) -> Tensor:
    """Size of ``JᵀJ`` per restart: its quotient along the gradient."""
    g = at.gradient
    squared = (g * g).sum(1).clamp_min(torch.finfo(g.dtype).tiny)
    return (g * at.normal_product(g)).sum(1) / squared


def _note(descent: Descent, at: _Linearised) -> _Linearised:
    descent.evaluations += 1
    at.losses = descent.note(at.x, at.losses, at.gradient)
    return at
