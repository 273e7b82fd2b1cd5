"""Decoded data sets on disk: `NAME.x.npy` and `NAME.y.npy`, written atomically and read through mmap."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

log = logging.getLogger(__name__)

Samples = npt.NDArray[np.float32] | npt.NDArray[np.uint64]
"""Intensities in [0, 1], or event masks (`contract.encodings`)."""
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
    digest = hashlib.sha256(f"{x.shape}{y.shape}".encode())
    digest.update(np.ascontiguousarray(x, dtype=x.dtype.newbyteorder("<")).data)
    digest.update(np.ascontiguousarray(y, dtype="<i8").data)
    return digest.hexdigest()


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
