"""Codec `topk`: the largest values as `int8` bytes, their places as differences of seven bits a byte."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import numpy.typing as npt

from contract.codecs.int8 import LEVELS, Int8
from contract.codecs.layout import check_step, largest_magnitude
from contract.codecs.uniform import Rounding
from contract.errors import WireError

LARGEST_SIZE = 1 << 26
"""Values of the largest tensor: few bytes claim many zeros, so their number has a limit of its own."""
_COUNT_BYTES = 4
_LONGEST = 5
"""Bytes of the longest difference: 35 bits."""


class TopK(msgspec.Struct, frozen=True, kw_only=True):
    """Keeps the ``k = ceil(share n)`` values of largest magnitude, and quantises them as `int8` does.

    Aji and Heafield 2017, arXiv 1704.05021. Of values that tie for the last place the first are kept.

    Attributes:
        share: Share of the values that are kept, in (0, 1].
        rounding: Of the bytes, see `int8`.
    """

    name: str = "topk"
    unbiased: bool = False
    share: float = 0.01
    rounding: Rounding = "stochastic"

    @property
    def cited(self) -> tuple[str, ...]:
        """Its own, and what the bytes follow."""
        return ("aji2017sparse", *Int8(rounding=self.rounding).cited)

    def kept(self, size: int) -> int:
        """Values kept of a tensor."""
        return math.ceil(self.share * size)

    def encode(self, x: npt.NDArray[np.float32], rng: np.random.Generator) -> tuple[npt.NDArray[np.uint8], float]:
        """Count, bytes and differences; and the step.

        Raises:
            WireError: A value that is not finite, or too many of them.
        """
        largest_magnitude(x, self.name)
        flat = np.ravel(x)
        if flat.size > LARGEST_SIZE:
            raise WireError(f"{flat.size} values: topk takes at most {LARGEST_SIZE}, use codec 'int4'")
        places = largest_places(np.abs(flat), self.kept(flat.size))
        codes, scale = Int8(rounding=self.rounding).encode(flat[places], rng)
        count = np.array([len(places)], dtype="<u4").view(np.uint8)
        gaps = np.diff(places, prepend=-1) - 1
        return np.concatenate([count, codes.view(np.uint8), pack_gaps(gaps)]), scale

    def decode(self, data: memoryview, shape: tuple[int, ...], scale: float) -> npt.NDArray[np.float32]:
        """Zeros, and the kept values at their places.

        Raises:
            WireError: Truncated, too long, too large a shape, a place outside the tensor, or an absurd step.
        """
        check_step(scale, LEVELS)
        size = math.prod(shape)
        if size > LARGEST_SIZE:
            raise WireError(f"shape {shape}: topk takes at most {LARGEST_SIZE} values")
        raw = np.frombuffer(data, dtype=np.uint8)
        if len(raw) < _COUNT_BYTES:
            raise WireError(f"{len(raw)} bytes: topk begins with a count of {_COUNT_BYTES}")
        count = int(raw[:_COUNT_BYTES].view("<u4")[0])
        if count > size or len(raw) < _COUNT_BYTES + 2 * count:
            raise WireError(f"count of {count} in {len(raw)} bytes for shape {shape}: at least 2 bytes a value needed")
        codes = raw[_COUNT_BYTES : _COUNT_BYTES + count]
        places = np.cumsum(unpack_gaps(raw[_COUNT_BYTES + count :], count) + 1) - 1
        if count and places[-1] >= size:
            raise WireError(f"place {places[-1]} of {size} values")
        values = np.zeros(size, dtype=np.float32)
        values[places] = Int8().decode(codes.data, (count,), scale)
        return values.reshape(shape)

    def error_bound(self, x: npt.NDArray[np.float32]) -> float:
        """The smallest magnitude that is kept, or one step; both, since the decoder knows that magnitude to a step."""
        magnitudes = np.abs(np.ravel(x))
        if not magnitudes.size:
            return 0.0
        k = self.kept(magnitudes.size)
        smallest = float(np.partition(magnitudes, magnitudes.size - k)[magnitudes.size - k])
        return smallest + Int8(rounding=self.rounding).error_bound(magnitudes)

    def most_bytes(self, size: int) -> int:
        """Of any share: count, bytes and the longest differences."""
        return _COUNT_BYTES + (1 + _LONGEST) * size


def largest_places(magnitudes: npt.NDArray[np.float32], k: int) -> npt.NDArray[np.int64]:
    """Ascending places of the k largest values, the first of those that tie for the last place."""
    if k == 0:
        return np.zeros(0, dtype=np.int64)
    cut = np.partition(magnitudes, len(magnitudes) - k)[len(magnitudes) - k]
    places = np.flatnonzero(magnitudes >= cut)
    if len(places) > k:
        ties = np.flatnonzero(magnitudes[places] == cut)
        places = np.delete(places, ties[k - len(places) :])
    return places


def pack_gaps(gaps: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """Numbers below 2^35 as seven bits a byte, lowest first; the high bit says that more bytes follow (LEB128)."""
    lengths = np.ones(len(gaps), dtype=np.int64)
    for more in range(1, _LONGEST):
        lengths += gaps >= 1 << 7 * more
    ends = np.cumsum(lengths)
    starts = ends - lengths
    packed = np.empty(int(ends[-1]) if len(ends) else 0, dtype=np.uint8)
    for part in range(_LONGEST):
        long = lengths > part
        if not long.any():
            break
        follows = (lengths[long] > part + 1) * np.uint8(0x80)
        packed[starts[long] + part] = ((gaps[long] >> 7 * part) & 0x7F).astype(np.uint8) | follows
    return packed


def unpack_gaps(packed: npt.NDArray[np.uint8], count: int) -> npt.NDArray[np.int64]:
    """The numbers of `pack_gaps`.

    Raises:
        WireError: Not `count` numbers, or one of more than five bytes.
    """
    ends = np.flatnonzero(packed < 0x80)
    if len(ends) != count or (count and ends[-1] != len(packed) - 1) or (not count and len(packed)):
        raise WireError(f"{len(packed)} bytes hold {len(ends)} differences, {count} are needed")
    starts = np.concatenate([[0], ends[:-1] + 1]) if count else ends
    lengths = ends - starts + 1
    if count and lengths.max() > _LONGEST:
        raise WireError(f"a difference of {lengths.max()} bytes: at most {_LONGEST}")
    gaps = np.zeros(count, dtype=np.int64)
    for part in range(int(lengths.max()) if count else 0):
        long = lengths > part
        gaps[long] |= (packed[starts[long] + part].astype(np.int64) & 0x7F) << 7 * part
    return gaps
