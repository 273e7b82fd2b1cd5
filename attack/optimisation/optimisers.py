"""How candidates move downhill, all restarts at once. Each keeps to the deadline and leaves its best in the descent."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from attack.clock import spend
from attack.costs import operators
from attack.optimisation.descent import Descent
from attack.optimisation.lbfgs import lbfgs

Optimiser = Callable[[Descent, Tensor, int], None]
"""Descent, first candidates `[R, ...]`, iterations."""

_STEP = 0.1
_ADAM = 12
"""Operators, and passes over the unknowns, of one step of Adam."""


def signed_adam(descent: Descent, start: Tensor, iterations: int) -> None:
    """Adam on the sign of the gradient, in the box [0, 1] (arXiv 2003.14053).

    The step is 0.1, a tenth of that after 3/8, 5/8 and 7/8 of the iterations, or of the time when that ends first.
    """
    x = start.clone().requires_grad_()
    solver = torch.optim.Adam([x], lr=_STEP)
    for done in range(iterations):
        descent.evaluate(x)
        if descent.done:
            return
        progress = max(done / iterations, descent.time_spent)
        for group in solver.param_groups:
            group["lr"] = _STEP * 0.1 ** sum(progress >= eighths / 8 for eighths in (3, 5, 7))
        assert x.grad is not None
        x.grad.sign_()
        solver.step()
        spend(operators(_ADAM, _ADAM * x.numel()))
        with torch.no_grad():
            x.clamp_(0.0, 1.0)


def adam(descent: Descent, start: Tensor, iterations: int) -> None:
    """Plain Adam with step 1e-3, unconstrained (Kingma and Ba 2015, arXiv 1412.6980)."""
    x = start.clone().requires_grad_()
    solver = torch.optim.Adam([x], lr=1e-3)
    for _ in range(iterations):
        descent.evaluate(x)
        if descent.done:
            return
        solver.step()
        spend(operators(_ADAM, _ADAM * x.numel()))


OPTIMISERS: dict[str, Optimiser] = {"lbfgs": lbfgs, "signed_adam": signed_adam, "adam": adam}
