"""Uniform quantisation in steps of ``max|x| / levels``: what `int8` and `int4` share."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

Rounding = Literal["stochastic", "nearest"]

_BLOCK = 1 << 15
"""Values that are worked on at once: they stay in the processor's cache."""


def quantise(
    x: npt.NDArray[np.float32], largest: float, levels: int, rounding: Rounding, rng: np.random.Generator
) -> npt.NDArray[np.int8]:
    """``floor(x / s + u)`` with ``s = largest / levels`` and u uniform in [0, 1), or ½ when rounding to the nearest.

    With random u the expectation of ``s q`` is ``x`` (Alistarh et al. 2017, QSGD, arXiv 1610.02132), up to float32's
    rounding of ``x / s + u``: 2^-18 of a step.

    Args:
        x: Values `[n]`.
        largest: ``max|x|``.
        levels: Steps on each side of zero, at most 127.
        rounding: `stochastic` or `nearest`.
        rng: Draws u.

    Returns:
        Steps in -levels…levels, `[n]`.
    """
    codes = np.empty(x.size, dtype=np.int8)
    steps, shift = np.empty(min(x.size, _BLOCK), dtype=np.float32), np.full(min(x.size, _BLOCK), 0.5, dtype=np.float32)
    divisor, factor = np.float32(largest or 1.0), np.float32(levels)
    for start in range(0, x.size, _BLOCK):
        part = x[start : start + _BLOCK]
        block, u = steps[: part.size], shift[: part.size]
        if rounding == "stochastic":
            rng.random(out=u, dtype=np.float32)
        # Tiny and huge steps have no float32 reciprocal: divide by the magnitude first.
        np.divide(part, divisor, out=block)
        block *= factor
        block += u
        np.floor(block, out=block)
        np.minimum(block, factor, out=block)
        codes[start : start + _BLOCK] = block
    return codes
