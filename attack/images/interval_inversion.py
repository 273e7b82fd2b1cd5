"""The smoothest image whose first-layer currents lie in given intervals: a convex problem."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from attack.clock import spend
from attack.costs import operators
from attack.counting import Repeated

ITERATIONS = 600
LEARNING_RATE = 0.05
SMOOTHNESS = (2e-2, 1e-4)
"""Weight of the total variation, from the first iteration to the last, falling geometrically."""
CITED = ("rudin1992nonlinear", "kingma2015adam")
"""Keys of the works that it follows (`attack.citations`)."""


def total_variation(image: Tensor) -> Tensor:
    """Mean absolute difference of neighbours, both directions (Rudin, Osher and Fatemi 1992)."""
    rows = (image[..., 1:, :] - image[..., :-1, :]).abs().mean()
    columns = (image[..., :, 1:] - image[..., :, :-1]).abs().mean()
    return rows + columns


def violation(current: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """How far each current lies outside its interval."""
    return torch.relu(low - current) + torch.relu(current - high)


def invert_intervals(
    currents: Callable[[Tensor], Tensor], low: Tensor, high: Tensor, shape: tuple[int, ...], *, iterations: int
) -> Tensor:
    """Minimises squared violations plus total variation over images in [0, 1], by projected Adam (Kingma and Ba 2015).

    Args:
        currents: From an image `[1, *shape]` to the first layer's currents, flat; affine.
        low: Lower ends, infinite where there is none.
        high: Upper ends.
        shape: Of the image.
        iterations: Steps; more steps follow the intervals more closely.

    Returns:
        The image `[1, *shape]`.
    """
    image = torch.full((1, *shape), 0.3, requires_grad=True)
    optimiser = torch.optim.Adam([image], lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, iterations)
    first, last = SMOOTHNESS
    cost = Repeated()
    for iteration in range(iterations):
        smoothness = first * (last / first) ** (iteration / iterations)
        optimiser.zero_grad()
        with cost.once_more():
            outside = violation(currents(image), low, high)
            objective = outside.square().sum() + smoothness * total_variation(image)
            objective.backward()
        optimiser.step()
        schedule.step()
        spend(operators(80))
        with torch.no_grad():
            image.clamp_(0.0, 1.0)
    return image.detach()
