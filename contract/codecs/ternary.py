"""Codec `ternary`: zero, plus or minus one step; two planes of bits."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import numpy.typing as npt

from contract.codecs.bits import pack_bits, packed_bytes, unpack_bits
from contract.codecs.layout import check_length, check_step, largest_magnitude
from contract.codecs.uniform import Rounding
from contract.errors import WireError

THRESHOLD = 0.7
"""Of the mean magnitude: Li and Liu's rule."""


class Ternary(msgspec.Struct, frozen=True, kw_only=True):
    """Values as ``-s``, 0 or ``s``, in one of two ways.

    stochastic: ``s = max|x|`` and ``s sign(x) b`` with b = 1 with probability ``|x| / s``: its expectation is ``x``
    (TernGrad, Wen et al. 2017, arXiv 1705.07878, without its clipping). Its squared error, ``s |x|_1 - |x|_2^2``,
    exceeds ``|x|_2^2`` by far for long tails.

    nearest: values over ``0.7 mean|x|`` become ``s sign(x)`` with s their mean magnitude, the others 0 (Li and Liu
    2016, arXiv 1605.04711). s is the best for these places: ``|C(x) - x|_2 < |x|_2``, which error feedback needs.

    Attributes:
        rounding: `stochastic` or `nearest`.
    """

    name: str = "ternary"
    rounding: Rounding = "stochastic"

    @property
    def unbiased(self) -> bool:
        """With stochastic rounding."""
        return self.rounding == "stochastic"

    @property
    def cited(self) -> tuple[str, ...]:
        """Each way has its own."""
        return ("wen2017terngrad",) if self.unbiased else ("li2016ternary",)

    def encode(self, x: npt.NDArray[np.float32], rng: np.random.Generator) -> tuple[npt.NDArray[np.uint8], float]:
        """The plane of values that are not zero, then the plane of negative ones; and the step (1 for zeros).

        Raises:
            WireError: A value that is not finite.
        """
        largest = largest_magnitude(x, self.name)
        flat = np.ravel(x)
        magnitudes = np.abs(flat)
        if self.unbiased:
            chance = rng.random(flat.size, dtype=np.float32)
            chance *= np.float32(largest)
            kept, scale = chance < magnitudes, largest
        else:
            mean = float(magnitudes.mean(dtype=np.float64)) if flat.size else 0.0
            kept = magnitudes > np.float32(THRESHOLD * mean)
            scale = min(float(magnitudes.mean(dtype=np.float64, where=kept)), largest) if kept.any() else 0.0
        planes = np.concatenate([pack_bits(kept), pack_bits(kept & (flat < 0))])
        return planes, scale if scale > 0 else 1.0

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
        """The largest magnitude: a value becomes 0, or another one's."""
        return float(np.abs(x).max(initial=0.0))

    def most_bytes(self, size: int) -> int:
        """Two bits a value."""
        return 2 * packed_bytes(size)
