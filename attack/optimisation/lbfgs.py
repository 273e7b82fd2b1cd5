r"""L-BFGS for several restarts at once: each has its own history and step length, one batch evaluates them all.

The direction is ``-H g`` with the compact form of the last m pairs ``s_i = x_{i+1} - x_i``, ``y_i = g_{i+1} - g_i``
(Byrd, Nocedal and Schnabel 1994, theorem 2.2)

    H g = γ g + S R⁻ᵀ ((D + γ YᵀY) u − γ Yᵀg) − γ Y u,      u = R⁻¹ Sᵀ g,

R the upper triangle of ``SᵀY``, D its diagonal, ``γ = sᵀy / yᵀy`` of the newest pair: products and two small solves, so
that all restarts share them. ``SᵀY`` and ``YᵀY`` gain a column with each pair, so that a step reads the pairs twice:
once for their products with y and g, once for H g. Steps are found by backtracking with quadratic interpolation until
the loss falls enough (Armijo); a restart that is done with one goes on while others still shorten theirs. A pair
without positive curvature is left out. A restart that finds no step forgets its pairs, and stops when that does not
help.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attack.clock import spend
from attack.costs import operators
from attack.optimisation.descent import Descent

HISTORY = 100
"""Pairs kept, as many as torch's; fewer, though at least `_FEWEST`, where they would take more than `_MEMORY_BYTES`."""
_FEWEST = 8
_MEMORY_BYTES = 256 << 20
_FALL = 1e-4
_SHORTEST = 1e-9


class _Memory:
    """The last pairs of every restart; a missing pair is zero.

    ``pairs`` `[R, H, 2, n]` holds s and y as rings; ``sy`` and ``yy`` `[R, H, H]` hold their products, oldest first and
    aligned at the end.
    """

    def __init__(self, like: Tensor) -> None:
        restarts, n = like.shape
        fitting = _MEMORY_BYTES // (2 * restarts * n * like.element_size())
        self.history = min(HISTORY, max(_FEWEST, fitting))
        self._pairs = like.new_zeros(restarts, self.history, 2, n)
        self._sy = like.new_zeros(restarts, self.history, self.history)
        self._yy = torch.zeros_like(self._sy)
        self._next = torch.zeros(restarts, dtype=torch.long)
        self._used = 0

    @property
    def _order(self) -> Tensor:
        """Slots of the ring, oldest first `[R, used]`."""
        return (self._next[:, None] + torch.arange(self._used)) % max(self._used, 1)

    def _products(self, vectors: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """``Sᵀv`` and ``Yᵀv`` of each vector `[R, n]`, oldest first `[R, used]`, in one pass over the pairs."""
        pairs = self._pairs[:, : self._used].flatten(1, 2)
        spend(operators(10, 2 * pairs.numel() * len(vectors)))
        found = torch.bmm(pairs, torch.stack(vectors, dim=2)).view(len(pairs), self._used, 2, -1)
        order = self._order[:, :, None].expand(-1, -1, len(vectors))
        s, y = (found[:, :, part].gather(1, order) for part in (0, 1))
        return [(s[:, :, k], y[:, :, k]) for k in range(len(vectors))]

    def push(self, which: Tensor, s: Tensor, y: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """Adds a pair to the restarts `which` for which its curvature is positive; ``Sᵀg`` and ``Yᵀg`` with it."""
        curved = which & ((s * y).sum(1) > 1e-10 * s.norm(dim=1) * y.norm(dim=1))
        chosen = curved.nonzero()[:, 0]
        slot = self._next[chosen]
        self._used = max(self._used, int(slot.max()) + 1 if len(chosen) else 0)
        self._pairs[chosen, slot, 0], self._pairs[chosen, slot, 1] = s[chosen], y[chosen]
        self._next[chosen] = (slot + 1) % self.history
        if not self._used:
            empty = s.new_zeros(len(s), 0)
            return empty, empty
        of_y, of_g = self._products([y, g])
        for kept, column in zip((self._sy, self._yy), of_y, strict=True):
            moved = kept[chosen].roll((-1, -1), (1, 2))
            moved[:, -1] = 0.0
            moved[:, -self._used :, -1] = column[chosen]
            kept[chosen] = moved
        return of_g

    def forget(self, which: Tensor) -> None:
        """Drops the pairs of some restarts."""
        for kept in (self._pairs, self._sy, self._yy):
            kept[which] = 0.0
        self._next[which] = 0

    def direction(self, g: Tensor, products: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """``-H g`` per restart; steepest descent of length at most 1 (in the 1-norm) without pairs.

        Args:
            g: Gradients `[R, n]`.
            products: What `push` gave for the same g, unless pairs were dropped since.
        """
        if not self._used:
            return -g / g.abs().sum(1, keepdim=True).clamp_min(1.0)
        sg, yg = products or self._products([g])[0]
        upper, yy = (kept[:, -self._used :, -self._used :] for kept in (self._sy, self._yy))
        diagonal, squared = upper.diagonal(dim1=1, dim2=2), yy[:, -1, -1]
        steepest = 1 / g.abs().sum(1).clamp_min(1.0)
        gamma = torch.where(squared > 0, diagonal[:, -1] / squared, steepest)[:, None]
        upper = upper + torch.diag_embed((diagonal == 0).to(g.dtype))
        u = torch.linalg.solve_triangular(upper, sg[:, :, None], upper=True)
        yyu = (yy + yy.triu(1).transpose(1, 2)) @ u
        inner = diagonal[:, :, None] * u + gamma[:, :, None] * (yyu - yg[:, :, None])
        p = torch.linalg.solve_triangular(upper.transpose(1, 2), inner, upper=False)
        chronological = torch.cat([p, -gamma[:, :, None] * u], dim=2)
        back = self._order[:, :, None].expand(-1, -1, 2)
        weights = torch.zeros_like(chronological).scatter_(1, back, chronological)
        pairs = self._pairs[:, : self._used].flatten(1, 2)
        spend(operators(30, pairs.numel() + len(g) * self._used**3 / 3))
        downhill: Tensor = -(gamma * g + torch.bmm(weights.flatten(1)[:, None], pairs)[:, 0])
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
        spend(operators(50, 40 * x.numel()))
        good = running & (there <= loss + _FALL * t * slope)
        products: tuple[Tensor, Tensor] | None = memory.push(good, step, there_g - g, there_g)
        short = running & ~good
        x, g = torch.where(good[:, None], x + step, x), torch.where(good[:, None], there_g, g)
        curve = there - loss - t * slope
        shorter = (-slope * t.square() / (2 * curve)).nan_to_num(0.0)
        t = torch.where(short, shorter.clamp(0.1 * t, 0.5 * t), t)
        loss = torch.where(good, there, loss)
        lost = short & (t * d.abs().amax(1) < _SHORTEST)
        running &= ~(lost & fresh)
        if bool(lost.any()):
            memory.forget(lost)
            products = None
        renewed = good | lost
        fresh = torch.where(renewed, lost, fresh)
        taken += good.long()
        if bool(renewed.any()):
            new = memory.direction(g, products)
            uphill = (new * g).sum(1) >= 0
            if bool((renewed & uphill).any()):
                memory.forget(renewed & uphill)
            new = torch.where(uphill[:, None], -g / g.abs().sum(1, keepdim=True).clamp_min(1.0), new)
            d = torch.where(renewed[:, None], new, d)
            t = torch.where(renewed, 1.0, t)
