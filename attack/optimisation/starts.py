"""Where a restart begins."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from attack.threat import Array64

Start = Callable[[tuple[int, ...], np.random.Generator], Array64]
"""Shape of the frames and a generator to a first candidate."""


def normal(shape: tuple[int, ...], rng: np.random.Generator) -> Array64:
    """Standard normal noise, as in DLG."""
    return rng.standard_normal(shape)


def uniform(shape: tuple[int, ...], rng: np.random.Generator) -> Array64:
    """Uniform noise in [0, 1]."""
    return rng.random(shape)


def faint(shape: tuple[int, ...], rng: np.random.Generator) -> Array64:
    """Weak noise around a dark image, ``0.1 (1 + N(0, 1))``.

    Standard normal noise drives a trained network far into confident mistakes, where the gradient is thousands of times
    the target's and a search goes astray; from here L-BFGS inverts trained networks as well.
    """
    return 0.1 * (1.0 + rng.standard_normal(shape))


STARTS: dict[str, Start] = {"normal": normal, "uniform": uniform, "faint": faint}
