"""Decoded data sets on disk: `NAME.x.npy` and `NAME.y.npy`, written atomically and read through mmap."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

log = logging.getLogger(__name__)

Samples = npt.NDArray[np.float32] | npt.NDArray[np.uint64] | npt.NDArray[np.uint8]
"""Intensities in [0, 1], event masks or, in memory only, levels (`contract.encodings`)."""
Arrays = tuple[Samples, npt.NDArray[np.int64]]


def data_dir() -> Path:
    """Where decoded data sets lie: `$SPIKELEAK_DATA`, else `spikeleak` in the user's cache directory."""
    named = os.environ.get("SPIKELEAK_DATA")
    if named:
        return Path(named).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path("~/.cache").expanduser()) / "spikeleak"


def content_sha256(x: Samples, y: npt.NDArray[np.int64]) -> str:
    """SHA-256 over both shapes, then the samples (little-endian float32 or uint64) and the labels (int64)."""
    digest = ContentDigest(x.shape, y.shape)
    digest.samples(x)
    return digest.finish(y)


class ContentDigest:
    """`content_sha256` of a set whose samples come piece by piece.

    Args:
        x_shape: Shape of all samples.
        y_shape: Shape of the labels.
    """

    def __init__(self, x_shape: tuple[int, ...], y_shape: tuple[int, ...]) -> None:
        self._digest = hashlib.sha256(f"{x_shape}{y_shape}".encode())

    def samples(self, x: Samples) -> None:
        """Takes the next samples."""
        self._digest.update(np.ascontiguousarray(x, dtype=x.dtype.newbyteorder("<")).data)

    def finish(self, y: npt.NDArray[np.int64]) -> str:
        """Takes the labels.

        Returns:
            64 hex digits.
        """
        self._digest.update(np.ascontiguousarray(y, dtype="<i8").data)
        return self._digest.hexdigest()


def read(name: str) -> Arrays | None:
    """The cached arrays, mapped read-only; `None` when there is no readable copy."""
    x_path, y_path = _paths(name)
    try:
        x = np.load(x_path, mmap_mode="r", allow_pickle=False)
        y = np.load(y_path, allow_pickle=False)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError) as error:
        log.warning("cached data set %s in %s cannot be read (%s): decoding it again", name, data_dir(), error)
        return None
    if x.dtype not in {np.dtype(np.float32), np.dtype(np.uint64)} or y.dtype != np.int64:
        return None
    y.flags.writeable = False
    return x, y


def labels(name: str) -> npt.NDArray[np.int64] | None:
    """The cached labels; `None` when there is no readable copy of the set."""
    found = read(name)
    return None if found is None else found[1]


def blocks(name: str, samples: int) -> Iterator[Samples]:
    """The cached samples, some at a time, read and not mapped: mapped pages count as the process's memory.

    Args:
        name: A set of which `read` finds a copy.
        samples: How many at a time.
    """
    with _paths(name)[0].open("rb") as file:
        version = np.lib.format.read_magic(file)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, _, dtype = read_header[version](file)
        for at in range(0, shape[0], samples):
            count = min(samples, shape[0] - at)
            block: Samples = np.fromfile(file, dtype=dtype, count=count * math.prod(shape[1:]))
            yield block.reshape(count, *shape[1:])


def write(name: str, x: Samples, y: npt.NDArray[np.int64]) -> bool:
    """Caches the arrays; a reader sees an old or a new file, never half of one.

    Returns:
        Whether it worked: a read-only folder only costs the time to decode again.
    """
    try:
        data_dir().mkdir(parents=True, exist_ok=True)
        x_path, y_path = _paths(name)
        _replace(x_path, x)
        _replace(y_path, y)
    except OSError as error:
        log.info("data set %s is not cached: %s", name, error)
        return False
    return True


def _paths(name: str) -> tuple[Path, Path]:
    return data_dir() / f"{name}.x.npy", data_dir() / f"{name}.y.npy"


def _replace(path: Path, array: Samples | npt.NDArray[np.int64]) -> None:
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            np.save(file, array, allow_pickle=False)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise
