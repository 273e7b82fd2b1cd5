"""Codec `ternary`: zero, plus or minus one step; two planes of bits."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import numpy.typing as npt

from contract.codecs.bits import pack_bits, packed_bytes, unpack_bits
from contract.codecs.layout import check_length, check_step, largest_magnitude
from contract.errors import WireError


class Ternary(msgspec.Struct, frozen=True, kw_only=True):
    """``s = max|x|`` and ``s sign(x) b`` with b = 1 with probability ``|x| / s``: its expectation is ``x``.

    TernGrad (Wen et al. 2017, arXiv 1705.07878), without its clipping.
    """

    name: str = "ternary"
    unbiased: bool = True

    def encode(self, x: npt.NDArray[np.float32], rng: np.random.Generator) -> tuple[npt.NDArray[np.uint8], float]:
        """The plane of values that are not zero, then the plane of negative ones; and the step (1 for zeros).

        Raises:
            WireError: A value that is not finite.
        """
        largest = largest_magnitude(x, self.name)
        flat = np.ravel(x)
        chance = rng.random(flat.size, dtype=np.float32)
        chance *= np.float32(largest)
        kept = chance < np.abs(flat)
        planes = np.concatenate([pack_bits(kept), pack_bits(kept & (flat < 0))])
        return planes, largest if largest > 0 else 1.0

    def decode(self, data: memoryview, shape: tuple[int, ...], scale: float) -> npt.NDArray[np.float32]:
        """Signs times the step.

        Raises:
            WireError: Another number of bytes, an absurd step, a negative zero, or padding that is not zero.
        """
        check_step(scale, 1)
        size = math.prod(shape)
        plane = packed_bytes(size)
        check_length(data, shape, 2 * plane)
        packed = np.frombuffer(data, dtype=np.uint8)
        if (packed[plane:] & ~packed[:plane]).any():
            raise WireError("a value is negative and zero: the planes contradict each other")
        signs = unpack_bits(packed[:plane], size).view(np.int8)
        signs -= unpack_bits(packed[plane:], size).view(np.int8) << 1
        return np.multiply(signs, np.float32(scale), dtype=np.float32).reshape(shape)

    def error_bound(self, x: npt.NDArray[np.float32]) -> float:
        """The step."""
        return float(np.abs(x).max(initial=0.0))
