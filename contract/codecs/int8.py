"""Codec `int8`: one step per tensor, a byte a value."""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt

from contract.codecs.layout import check_size, check_step, largest_magnitude
from contract.codecs.uniform import Rounding, quantise
from contract.errors import WireError

LEVELS = 127
_FORBIDDEN = -128
"""Which no encoder writes: codes are symmetric."""


class Int8(msgspec.Struct, frozen=True, kw_only=True):
    """Uniform steps ``s = max|x| / 127``, see `contract.codecs.uniform`.

    Attributes:
        rounding: `stochastic` is unbiased; `nearest` errs by half as much, always the same way.
    """

    name: str = "int8"
    rounding: Rounding = "stochastic"

    @property
    def unbiased(self) -> bool:
        """With stochastic rounding."""
        return self.rounding == "stochastic"

    @property
    def cited(self) -> tuple[str, ...]:
        """Random rounding is QSGD's; nearest steps of a tensor's largest magnitude are nobody's."""
        return ("alistarh2017qsgd",) if self.unbiased else ()

    def encode(self, x: npt.NDArray[np.float32], rng: np.random.Generator) -> tuple[npt.NDArray[np.int8], float]:
        """Signed bytes, and the step; a tensor of zeros has step 1.

        Raises:
            WireError: A value that is not finite.
        """
        largest = largest_magnitude(x, self.name)
        codes = quantise(np.ravel(x), largest, LEVELS, self.rounding, rng)
        return codes, largest / LEVELS if largest > 0 else 1.0

    def decode(self, data: memoryview, shape: tuple[int, ...], scale: float) -> npt.NDArray[np.float32]:
        """Steps times their size.

        Raises:
            WireError: Another number of bytes, an absurd step, or the code -128.
        """
        check_step(scale, LEVELS)
        check_size(data, shape, 1)
        codes = np.frombuffer(data, dtype=np.int8)
        if codes.min(initial=0) == _FORBIDDEN:
            raise WireError("a byte holds -128: int8 codes lie in -127...127")
        values = np.empty(codes.size, dtype=np.float32)
        np.multiply(codes, np.float64(scale), out=values, casting="unsafe")  # in float64, then rounded once
        return values.reshape(shape)

    def error_bound(self, x: npt.NDArray[np.float32]) -> float:
        """One step or half of one, and float32's rounding."""
        largest = float(np.abs(x).max(initial=0.0))
        return largest / LEVELS * (1.0 if self.unbiased else 0.5) + largest * 2.0**-22

    def most_bytes(self, size: int) -> int:
        """One a value."""
        return size
