"""How samples become a network's input over time. One function a kind, one literal dict."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from contract.task import EncodingSpec

Samples = npt.NDArray[np.float32]
Encoder = Callable[[EncodingSpec, Samples, np.random.Generator], Samples]


def _direct(spec: EncodingSpec, x: Samples, _rng: np.random.Generator) -> Samples:
    """``gain x`` as an input current at each step: one frame that stands for all T."""
    return (np.float32(spec.gain) * x)[np.newaxis]


def _rate(spec: EncodingSpec, x: Samples, rng: np.random.Generator) -> Samples:
    """Bernoulli spikes, independent over steps, with probability ``min(gain x, 1)``."""
    draws = rng.random((spec.steps, *x.shape), dtype=np.float32)
    return (draws < np.float32(spec.gain) * x).astype(np.float32)


ENCODINGS: dict[str, Encoder] = {"direct": _direct, "rate": _rate}


def encode(spec: EncodingSpec, x: Samples, rng: np.random.Generator) -> Samples:
    """Frames of a batch.

    Args:
        spec: The encoding.
        x: `[B, *shape]` in [0, 1].
        rng: Draws the spikes; not used by `direct`.

    Returns:
        `[T, B, *shape]`; for `direct` `[1, B, *shape]`, a single frame that stands for all steps.
    """
    return ENCODINGS[spec.kind](spec, np.asarray(x, dtype=np.float32), rng)
