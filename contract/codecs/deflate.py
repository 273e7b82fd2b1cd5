"""zlib over what a codec packed, where that makes it smaller; no stream inflates beyond what its tensor can need."""

from __future__ import annotations

import zlib

from contract.errors import WireError

LEVEL = 6


def deflated(data: memoryview) -> bytes | None:
    """A zlib stream of the bytes, or `None` when it is no shorter than they are."""
    stream = zlib.compress(data, LEVEL)
    return stream if len(stream) < data.nbytes else None


def inflate(stream: memoryview, size: int, most: int) -> memoryview:
    """What a zlib stream holds. Nothing is inflated before its announced size has passed.

    Args:
        stream: The whole stream.
        size: Bytes that it is said to hold.
        most: Bytes that it may hold.

    Raises:
        WireError: More than may be, more or less than was said, damaged, truncated, or followed by other bytes.
    """
    if size > most:
        raise WireError(f"a zlib stream of {size} bytes: at most {most} can be needed")
    inflater = zlib.decompressobj()
    try:
        data = inflater.decompress(stream, size + 1)  # one more tells a stream that goes on
    except zlib.error as error:
        raise WireError(f"not a zlib stream: {error}") from error
    if len(data) != size or not inflater.eof or inflater.unused_data:
        raise WireError(f"a zlib stream said to hold {size} bytes holds {len(data)} or more, or does not end there")
    return memoryview(data)
