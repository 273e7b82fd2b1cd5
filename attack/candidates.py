"""Samples of the attacker's own, which it suspects to be in an update."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from attack.threat import Array32
from contract.errors import ConfigurationError
from contract.messages import MAX_CANDIDATES


def read_candidates(path: Path) -> Array32:
    """Array `x` of an `.npz` file, `[N, *shape]` in [0, 1].

    Raises:
        ConfigurationError: No such file or array, too many samples, or values outside [0, 1].
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            x = np.asarray(arrays["x"], dtype=np.float32)
    except (OSError, KeyError, ValueError, AttributeError, zipfile.BadZipFile) as error:
        raise ConfigurationError(f"candidates = {str(path)!r}: not an .npz file with an array 'x' ({error})") from error
    if x.ndim < 2 or not 1 <= len(x) <= MAX_CANDIDATES:
        limit = f"give 1 to {MAX_CANDIDATES} samples"
        raise ConfigurationError(f"candidates = {str(path)!r}: x has shape {x.shape}; {limit}")
    if not (np.isfinite(x).all() and x.min() >= 0 and x.max() <= 1):
        raise ConfigurationError(f"candidates = {str(path)!r}: x spans [{x.min():g}, {x.max():g}]; scale it to [0, 1]")
    return x
