"""What an attacker believes of images before it sees the gradient: a penalty added to the objective."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

Prior = Callable[[Tensor], Tensor]
"""Images `[B, *shape]` to a scalar penalty, 0 for the likeliest."""


def none(images: Tensor) -> Tensor:
    """No belief."""
    return images.new_zeros(())


def total_variation(images: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels: anisotropic total variation (Rudin, Osher and Fatemi 1992).

    Samples that are not `[channels, height, width]` have no neighbours: 0.
    """
    if images.ndim != 4:
        return images.new_zeros(())
    rows = (images[..., 1:, :] - images[..., :-1, :]).abs()
    columns = (images[..., :, 1:] - images[..., :, :-1]).abs()
    return sum((part.mean() for part in (rows, columns) if part.numel()), images.new_zeros(()))


PRIORS: dict[str, Prior] = {"none": none, "total_variation": total_variation}
