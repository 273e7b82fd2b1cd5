"""Codec `int8`: one step per tensor, stochastic rounding."""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt

from contract.codecs.layout import check_size, check_step
from contract.errors import WireError

LEVELS = 127


class Int8(msgspec.Struct, frozen=True, kw_only=True):
    """Uniform steps ``s = max|x| / 127`` and ``q = floor(x/s + u)``, u uniform in [0, 1).

    The expectation of ``s q`` is ``x`` (stochastic rounding; Alistarh et al. 2017, QSGD, arXiv 1610.02132).
    """

    name: str = "int8"
    unbiased: bool = True

    def encode(self, x: npt.NDArray[np.float32], rng: np.random.Generator) -> tuple[npt.NDArray[np.int8], float]:
        """Signed bytes, and the step; a tensor of zeros has step 1.

        Raises:
            WireError: A value that is not finite.
        """
        largest = float(np.abs(x).max(initial=0.0))
        if not np.isfinite(largest):
            raise WireError(f"{np.count_nonzero(~np.isfinite(x))} values are not finite: int8 has no code for them")
        scale = largest / LEVELS if largest > 0 else 1.0
        steps = np.ravel(x).astype(np.float64) / scale
        steps += rng.random(steps.shape)
        np.floor(steps, out=steps)
        return np.clip(steps, -LEVELS, LEVELS).astype(np.int8), scale

    def decode(self, data: memoryview, shape: tuple[int, ...], scale: float) -> npt.NDArray[np.float32]:
        """Steps times their size."""
        check_step(scale, LEVELS)
        check_size(data, shape, 1)
        return np.multiply(np.frombuffer(data, dtype=np.int8).reshape(shape), scale, dtype=np.float64).astype(
            np.float32
        )

    def error_bound(self, x: npt.NDArray[np.float32]) -> float:
        """One step, and float32's rounding of the result."""
        largest = float(np.abs(x).max(initial=0.0))
        return largest / LEVELS + largest * 2.0**-24
