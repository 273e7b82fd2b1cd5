"""Decoded data sets on disk: `NAME.x.npy`, `NAME.y.npy` and, where it is known who made the samples, `NAME.u.npy`.

Written atomically and read through mmap. `NAME.sha256` holds the content's checksum where this project pins none.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

log = logging.getLogger(__name__)

Samples = npt.NDArray[np.float32] | npt.NDArray[np.uint64] | npt.NDArray[np.uint8]
"""Intensities in [0, 1], event masks or, in memory only, levels (`contract.encodings`)."""
Indices = npt.NDArray[np.int64]


class Arrays(NamedTuple):
    """Samples `[N, *shape]`, labels `[N]` and users `[N]` or `None`."""

    x: Samples
    y: Indices
    users: Indices | None = None


def data_dir() -> Path:
    """Where decoded data sets lie: `$SPIKELEAK_DATA`, else `spikeleak` in the user's cache directory."""
    named = os.environ.get("SPIKELEAK_DATA")
    if named:
        return Path(named).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path("~/.cache").expanduser()) / "spikeleak"


def content_sha256(x: Samples, y: Indices, users: Indices | None = None) -> str:
    """SHA-256 over both shapes, the samples (little-endian float32 or uint64), the labels and the users (int64)."""
    digest = ContentDigest(x.shape, y.shape)
    digest.samples(x)
    return digest.finish(y, users)


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

    def finish(self, y: Indices, users: Indices | None = None) -> str:
        """Takes the labels and, where they are known, the users.

        Returns:
            64 hex digits.
        """
        self._digest.update(np.ascontiguousarray(y, dtype="<i8").data)
        if users is not None:
            self._digest.update(np.ascontiguousarray(users, dtype="<i8").data)
        return self._digest.hexdigest()


def read(name: str) -> Arrays | None:
    """The cached arrays, samples mapped read-only; `None` when there is no readable copy."""
    x_path, y_path, users_path = _paths(name)
    try:
        x = np.load(x_path, mmap_mode="r", allow_pickle=False)
        y = np.load(y_path, allow_pickle=False)
        users = np.load(users_path, allow_pickle=False) if users_path.exists() else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError) as error:
        log.warning("cached data set %s in %s cannot be read (%s): decoding it again", name, data_dir(), error)
        return None
    if x.dtype not in {np.dtype(np.float32), np.dtype(np.uint64)}:
        return None
    for array in (y, users):
        if array is not None:
            if array.dtype != np.int64:
                return None
            array.flags.writeable = False
    return Arrays(x, y, users)


def people(name: str) -> tuple[Indices, Indices | None] | None:
    """The cached labels and users; `None` when there is no readable copy of the set."""
    found = read(name)
    return None if found is None else (found.y, found.users)


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


def write(name: str, arrays: Arrays) -> bool:
    """Caches the arrays; a reader sees an old or a new file, never half of one.

    Returns:
        Whether it worked: a read-only folder only costs the time to decode again.
    """
    try:
        data_dir().mkdir(parents=True, exist_ok=True)
        for path, array in zip(reversed(_paths(name)), reversed(arrays), strict=True):
            if array is not None:
                _replace(path, array)
    except OSError as error:
        log.info("data set %s is not cached: %s", name, error)
        return False
    return True


def first_seen(name: str) -> str:
    """SHA-256 of a content that this project does not pin, as it was first decoded here; empty where it never was."""
    try:
        return (data_dir() / f"{name}.sha256").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def keep_to(name: str, sha256: str) -> None:
    """Writes down what `first_seen` tells from now on; a folder that cannot be written keeps to nothing."""
    with contextlib.suppress(OSError):
        path = data_dir() / f"{name}.sha256"
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_text(sha256 + "\n", encoding="ascii")
        temporary.replace(path)


def _paths(name: str) -> tuple[Path, Path, Path]:
    x, y, users = (data_dir() / f"{name}.{part}.npy" for part in ("x", "y", "u"))
    return x, y, users


def _replace(path: Path, array: Samples | Indices) -> None:
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
