r"""L-BFGS for several restarts at once: each has its own history and step length, one batch evaluates them all.

The direction is ``-H g`` with the compact form of the last m pairs ``s_i = x_{i+1} - x_i``, ``y_i = g_{i+1} - g_i``
(Byrd, Nocedal and Schnabel 1994, theorem 2.2)

    H g = γ g + S R⁻ᵀ ((D + γ YᵀY) u − γ Yᵀg) − γ Y u,      u = R⁻¹ Sᵀ g,

R the upper triangle of ``SᵀY``, D its diagonal, ``γ = sᵀy / yᵀy`` of the newest pair: products and two small solves, so
that all restarts share them. Steps are found by backtracking with quadratic interpolation until the loss falls
enough (Armijo); a restart that is done with one goes on while others still shorten theirs. A pair without positive
curvature is left out. A restart that finds no step forgets its pairs, and stops when that does not help.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attack.optimisation.descent import Descent

HISTORY = 30
_FALL = 1e-4
_SHORTEST = 1e-9


class _Memory:
    """The last pairs of every restart, oldest first; a missing pair is a row of zeros."""

    def __init__(self, like: Tensor) -> None:
        self.s = like.new_zeros(len(like), HISTORY, like.shape[1])
        self.y = torch.zeros_like(self.s)

    def push(self, which: Tensor, s: Tensor, y: Tensor) -> None:
        """Adds a pair to the restarts `which` for which its curvature is positive."""
        curved = which & ((s * y).sum(1) > 1e-10 * s.norm(dim=1) * y.norm(dim=1))
        for kept, new in ((self.s, s), (self.y, y)):
            kept[curved] = torch.cat([kept[curved, 1:], new[curved, None]], dim=1)

    def forget(self, which: Tensor) -> None:
        """Drops the pairs of some restarts."""
        self.s[which] = 0.0
        self.y[which] = 0.0

    def direction(self, g: Tensor) -> Tensor:
        """``-H g`` per restart; steepest descent of length at most 1 (in the 1-norm) without pairs."""
        products = self.s @ self.y.transpose(1, 2)
        diagonal = products.diagonal(dim1=1, dim2=2)
        empty = (diagonal == 0).to(g.dtype)
        upper = products.triu() + torch.diag_embed(empty)
        newest_y = self.y[:, -1]
        squared = (newest_y * newest_y).sum(1)
        gamma = torch.where(squared > 0, diagonal[:, -1] / squared, 1 / g.abs().sum(1).clamp_min(1.0))[:, None, None]
        sg, yg = self.s @ g[:, :, None], self.y @ g[:, :, None]
        u = torch.linalg.solve_triangular(upper, sg, upper=True)
        inner = diagonal[:, :, None] * u + gamma * (self.y @ (self.y.transpose(1, 2) @ u) - yg)
        p = torch.linalg.solve_triangular(upper.transpose(1, 2), inner, upper=False)
        step = gamma * g[:, :, None] + self.s.transpose(1, 2) @ p - gamma * (self.y.transpose(1, 2) @ u)
        downhill: Tensor = -step[:, :, 0]
        return downhill


def lbfgs(descent: Descent, start: Tensor, iterations: int) -> None:
    """L-BFGS, unconstrained (DLG; Liu and Nocedal 1989), until all restarts have stopped.

    Args:
        descent: What to minimise.
        start: `[R, ...]`.
        iterations: Of one restart; at most twice as many evaluations.
    """
    shape, restarts = start.shape, len(start)

    def evaluate(flat: Tensor) -> tuple[Tensor, Tensor]:
        x = flat.view(shape).clone().requires_grad_()
        losses = descent.evaluate(x)
        assert x.grad is not None
        return losses, x.grad.flatten(1)

    x = start.flatten(1).clone()
    loss, g = evaluate(x)
    memory, fresh = _Memory(x), torch.ones(restarts, dtype=torch.bool)
    running = loss.isfinite()
    d = memory.direction(g)
    t = torch.ones(restarts, dtype=x.dtype)
    taken = torch.zeros(restarts, dtype=torch.long)
    for _ in range(2 * iterations):
        running &= taken < iterations
        if descent.done or not bool(running.any()):
            return
        slope = (g * d).sum(1)
        step = torch.where(running, t, 0.0)[:, None] * d
        there, there_g = evaluate(x + step)
        good = running & (there <= loss + _FALL * t * slope)
        memory.push(good, step, there_g - g)
        short = running & ~good
        x, g = torch.where(good[:, None], x + step, x), torch.where(good[:, None], there_g, g)
        curve = there - loss - t * slope
        shorter = (-slope * t.square() / (2 * curve)).nan_to_num(0.0)
        t = torch.where(short, shorter.clamp(0.1 * t, 0.5 * t), t)
        loss = torch.where(good, there, loss)
        lost = short & (t * d.abs().amax(1) < _SHORTEST)
        running &= ~(lost & fresh)
        memory.forget(lost)
        renewed = good | lost
        fresh = torch.where(renewed, lost, fresh)
        taken += good.long()
        if bool(renewed.any()):
            new = memory.direction(g)
            uphill = (new * g).sum(1) >= 0
            memory.forget(renewed & uphill)
            new = torch.where(uphill[:, None], -g / g.abs().sum(1, keepdim=True).clamp_min(1.0), new)
            d = torch.where(renewed[:, None], new, d)
            t = torch.where(renewed, 1.0, t)
