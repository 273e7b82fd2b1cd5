"""What the network sees of an unknown that an optimiser moves: itself, or the spike that it stands for."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

Relaxation = Callable[[Tensor], Tensor]


def continuous(x: Tensor) -> Tensor:
    """The unknown itself: intensities between 0 and 1 in place of spikes."""
    return x


def straight_through(x: Tensor) -> Tensor:
    """A spike where the unknown is above 1/2; the derivative passes unchanged (Bengio et al. 2013, arXiv 1308.3432)."""
    spikes = (x.detach() > 0.5).to(x.dtype)
    return x + (spikes - x).detach()


RELAXATIONS: dict[str, Relaxation] = {"continuous": continuous, "straight_through": straight_through}
