"""Bits eight to a byte, the first in the lowest bit: what `ternary`, `sign` and spike frames travel as."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from contract.errors import WireError


def pack_bits(bits: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Bits `[n]` (true or not) as `ceil(n / 8)` bytes, row-major, padded with zeros."""
    return np.packbits(np.ravel(bits), bitorder="little")


def packed_bytes(count: int) -> int:
    """Bytes that a number of bits takes."""
    return (count + 7) // 8


def unpack_bits(packed: npt.NDArray[np.uint8], count: int) -> npt.NDArray[np.uint8]:
    """The first `count` bits as 0 and 1.

    Args:
        packed: `[packed_bytes(count)]`.
        count: Number of bits.

    Raises:
        WireError: Padding that is not zero.
    """
    if count % 8 and packed[-1] >> (count % 8):
        raise WireError(f"padding after the last of {count} bits: must be 0")
    return np.unpackbits(packed, count=count, bitorder="little")
