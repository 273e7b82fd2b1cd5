"""Codec `int4`: one step per tensor, two values a byte."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import numpy.typing as npt

from contract.codecs.layout import check_length, check_step, largest_magnitude
from contract.codecs.uniform import Rounding, quantise
from contract.errors import WireError

LEVELS = 7
_FORBIDDEN = 8
"""-8, which no encoder writes: codes are symmetric."""
_NIBBLES = np.array([0, 1, 2, 3, 4, 5, 6, 7, 0, -7, -6, -5, -4, -3, -2, -1], dtype=np.float64)


class Int4(msgspec.Struct, frozen=True, kw_only=True):
    """Uniform steps ``s = max|x| / 7``, see `contract.codecs.uniform`.

    Attributes:
        rounding: `stochastic` is unbiased; `nearest` errs by half as much, always the same way.
    """

    name: str = "int4"
    rounding: Rounding = "stochastic"

    @property
    def unbiased(self) -> bool:
        """With stochastic rounding."""
        return self.rounding == "stochastic"

    @property
    def cited(self) -> tuple[str, ...]:
        """Random rounding is QSGD's; nearest steps of a tensor's largest magnitude are nobody's."""
        return ("alistarh2017qsgd",) if self.unbiased else ()

    def encode(self, x: npt.NDArray[np.float32], rng: np.random.Generator) -> tuple[npt.NDArray[np.uint8], float]:
        """Nibbles in two's complement, the first value in the low one; and the step (1 for zeros).

        Raises:
            WireError: A value that is not finite.
        """
        largest = largest_magnitude(x, self.name)
        steps = quantise(np.ravel(x), largest, LEVELS, self.rounding, rng)
        if x.size % 2:
            steps = np.append(steps, np.int8(0))
        codes = steps.view(np.uint16)
        packed = ((codes & 0x0F) | ((codes >> 4) & 0xF0)).astype(np.uint8)
        return packed, largest / LEVELS if largest > 0 else 1.0

    def decode(self, data: memoryview, shape: tuple[int, ...], scale: float) -> npt.NDArray[np.float32]:
        """Nibbles times the step.

        Raises:
            WireError: Another number of bytes, an absurd step, the code -8, or padding that is not zero.
        """
        check_step(scale, LEVELS)
        size = math.prod(shape)
        check_length(data, shape, (size + 1) // 2)
        packed = np.frombuffer(data, dtype=np.uint8)
        present = np.zeros(256, dtype=bool)
        present[packed] = True
        codes = np.arange(256)
        if present[((codes & 0x0F) == _FORBIDDEN) | (codes >> 4 == _FORBIDDEN)].any():
            raise WireError("a nibble holds -8: int4 codes lie in -7...7")
        if size % 2 and packed[-1] >> 4:
            raise WireError(f"padding of {packed[-1] >> 4} after the last of {size} values: must be 0")
        values = (_NIBBLES * scale).astype(np.float32)
        pairs = np.stack([values[codes & 0x0F], values[codes >> 4]], axis=1)
        return np.take(pairs, packed, axis=0).reshape(-1)[:size].reshape(shape)

    def error_bound(self, x: npt.NDArray[np.float32]) -> float:
        """One step or half of one, and float32's rounding."""
        largest = float(np.abs(x).max(initial=0.0))
        return largest / LEVELS * (1.0 if self.unbiased else 0.5) + largest * 2.0**-22

    def most_bytes(self, size: int) -> int:
        """Half a byte a value."""
        return (size + 1) // 2
