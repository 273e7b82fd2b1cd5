"""Bits eight to a byte, the first in the lowest bit: what `ternary`, `sign` and spike frames travel as."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from contract.codecs.layout import check_length, check_shape
from contract.errors import WireError
from contract.messages import TensorRecord

NAME = "bits"
"""Codec of spike frames in a `TensorRecord`; no codec of updates."""


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


def encode_frames(name: str, frames: npt.NDArray[Any]) -> tuple[TensorRecord, npt.NDArray[np.uint8]]:
    """Record and bytes of spike frames `[N, T, *shape]` of zeros and ones.

    Raises:
        WireError: Another value.
    """
    if not np.isin(frames, (0, 1)).all():
        raise WireError(f"tensor {name!r}: frames hold values other than 0 and 1")
    packed = pack_bits(frames != 0)
    return TensorRecord(name=name, shape=frames.shape, codec=NAME, nbytes=packed.nbytes), packed


def decode_frames(record: TensorRecord, data: memoryview) -> npt.NDArray[np.uint8]:
    """Spike frames `[N, T, *shape]` of 0 and 1.

    Raises:
        WireError: Another codec or scale, too few or too long axes, the wrong number of bytes, or padding that is not
            zero.
    """
    if record.codec != NAME or record.scale != 1.0 or len(record.shape) < 3:
        raise WireError(f"tensor {record.name!r}: codec {record.codec!r}, shape {record.shape}: no spike frames")
    check_shape(record.shape)
    count = math.prod(record.shape)
    check_length(data, record.shape, packed_bytes(count))
    return unpack_bits(np.frombuffer(data, dtype=np.uint8), count).reshape(record.shape)
