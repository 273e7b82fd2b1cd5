"""Codecs `fp32` (bit-exact, no copies) and `fp16` (round to nearest)."""

from __future__ import annotations

from typing import ClassVar

import msgspec
import numpy as np
import numpy.typing as npt

from contract.codecs.layout import check_size, check_unit_scale
from contract.errors import WireError


class Fp32(msgspec.Struct, frozen=True, kw_only=True):
    """IEEE 754 single precision, little-endian; any bit pattern passes."""

    name: str = "fp32"
    unbiased: bool = True
    cited: ClassVar[tuple[str, ...]] = ()

    def encode(self, x: npt.NDArray[np.float32], rng: np.random.Generator) -> tuple[npt.NDArray[np.float32], float]:  # noqa: ARG002
        """A view of `x` (a copy only where `x` is not contiguous), and 1."""
        return np.ascontiguousarray(x, dtype="<f4"), 1.0

    def decode(self, data: memoryview, shape: tuple[int, ...], scale: float) -> npt.NDArray[np.float32]:
        """A read-only view of the bytes."""
        check_unit_scale(scale)
        check_size(data, shape, 4)
        values: npt.NDArray[np.float32] = np.frombuffer(data, dtype="<f4").reshape(shape)
        values.flags.writeable = False
        return values

    def error_bound(self, x: npt.NDArray[np.float32]) -> float:  # noqa: ARG002
        """0."""
        return 0.0

    def most_bytes(self, size: int) -> int:
        """Four a value."""
        return 4 * size


class Fp16(msgspec.Struct, frozen=True, kw_only=True):
    """IEEE 754 half precision, little-endian, rounded to nearest: relative error at most 2^-11."""

    name: str = "fp16"
    unbiased: bool = False
    cited: ClassVar[tuple[str, ...]] = ()

    def encode(self, x: npt.NDArray[np.float32], rng: np.random.Generator) -> tuple[npt.NDArray[np.float16], float]:  # noqa: ARG002
        """Half-precision values, and 1.

        Raises:
            WireError: A value beyond 65,504, or not finite.
        """
        with np.errstate(over="ignore"):
            halves = np.ascontiguousarray(x).astype("<f2")
        if not np.isfinite(halves).all():
            raise WireError(
                f"values up to {np.abs(x).max():g}, fp16 takes finite ones up to 65504: use codec 'fp32' or clip"
            )
        return halves, 1.0

    def decode(self, data: memoryview, shape: tuple[int, ...], scale: float) -> npt.NDArray[np.float32]:
        """The halves, widened."""
        check_unit_scale(scale)
        check_size(data, shape, 2)
        with np.errstate(invalid="ignore"):  # a signalling NaN passes as any other bit pattern does
            return np.frombuffer(data, dtype="<f2").reshape(shape).astype(np.float32)

    def error_bound(self, x: npt.NDArray[np.float32]) -> float:
        """Half a unit in the last place of the largest value, or of the subnormals."""
        largest = float(np.abs(x).max(initial=0.0))
        return max(largest * 2.0**-11, 2.0**-25)

    def most_bytes(self, size: int) -> int:
        """Two a value."""
        return 2 * size
