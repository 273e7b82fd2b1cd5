"""Codec `sign`: one bit a value and the mean magnitude."""

from __future__ import annotations

import math
from typing import ClassVar

import msgspec
import numpy as np
import numpy.typing as npt

from contract.codecs.bits import pack_bits, packed_bytes, unpack_bits
from contract.codecs.layout import check_length, check_step, largest_magnitude


class Sign(msgspec.Struct, frozen=True, kw_only=True):
    """``s sign(x)`` with ``s = mean|x|``, the best single magnitude in the squared norm; 0 counts as positive.

    Bernstein et al. 2018, signSGD, arXiv 1802.04434; with the scale of Karimireddy et al. 2019, arXiv 1901.09847.
    """

    name: str = "sign"
    unbiased: bool = False
    cited: ClassVar[tuple[str, ...]] = ("bernstein2018signsgd", "karimireddy2019error")

    def encode(self, x: npt.NDArray[np.float32], rng: np.random.Generator) -> tuple[npt.NDArray[np.uint8], float]:  # noqa: ARG002
        """The plane of negative values, and the mean magnitude.

        Raises:
            WireError: A value that is not finite.
        """
        largest = largest_magnitude(x, self.name)
        mean = float(np.abs(x).mean(dtype=np.float64)) if x.size else 0.0
        return pack_bits(np.ravel(x) < 0), min(mean, largest)

    def decode(self, data: memoryview, shape: tuple[int, ...], scale: float) -> npt.NDArray[np.float32]:
        """Signs times the mean magnitude, which may be 0.

        Raises:
            WireError: Another number of bytes, an absurd scale, or padding that is not zero.
        """
        if scale != 0:
            check_step(scale, 1)
        size = math.prod(shape)
        check_length(data, shape, packed_bytes(size))
        negative = unpack_bits(np.frombuffer(data, dtype=np.uint8), size)
        values = np.array([scale, -scale], dtype=np.float32)
        return np.take(values, negative).reshape(shape)

    def error_bound(self, x: npt.NDArray[np.float32]) -> float:
        """The largest magnitude: small values grow to the mean, large ones shrink to it."""
        return float(np.abs(x).max(initial=0.0))

    def most_bytes(self, size: int) -> int:
        """A bit a value."""
        return packed_bytes(size)
