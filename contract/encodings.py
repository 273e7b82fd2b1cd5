"""How samples become a network's input over time, and what frames say of a sample.

One function a kind, one literal dict. Samples are intensities in [0, 1] (float32), *levels* (uint8: k stands for the
intensity k / 255, in a quarter of the memory), or *event masks* (uint64): bit k of a mask says that this input had an
event in the k-th of `EVENT_BINS` equal spans of the recording. A *series* is a sample `[channels, readings]` whose last
axis is time; under `SERIES` kinds that is the network's time, and a frame is one moment of all channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from contract import series
from contract.errors import ConfigurationError
from contract.task import EVENT_BINS, EncodingSpec

Samples = npt.NDArray[np.float32]
Encoder = Callable[[EncodingSpec, npt.NDArray[Any], np.random.Generator], Samples]


def _direct(spec: EncodingSpec, x: npt.NDArray[Any], _rng: np.random.Generator) -> Samples:
    """``gain x`` as an input current at each step: one frame that stands for all T."""
    frame: Samples = np.float32(spec.gain) * intensities(spec, x)
    return frame[np.newaxis]


def _rate(spec: EncodingSpec, x: npt.NDArray[Any], rng: np.random.Generator) -> Samples:
    """Bernoulli spikes, independent over steps, with probability ``min(gain x, 1)``."""
    draws = rng.random((spec.steps, *x.shape), dtype=np.float32)
    spikes: npt.NDArray[np.bool_] = draws < np.float32(spec.gain) * intensities(spec, x)
    return spikes.astype(np.float32)


def _latency(spec: EncodingSpec, x: npt.NDArray[Any], _rng: np.random.Generator) -> Samples:
    """Time to first spike: with ``p = min(gain x, 1)`` one spike at step ``min(floor((1 - p) T), T - 1)``.

    An input of 0 stays silent. The map is linear: each step stands for an equal share of the intensities.
    """
    p = np.minimum(np.float32(spec.gain) * intensities(spec, x), np.float32(1))
    step = np.minimum(np.floor((1 - p) * np.float32(spec.steps)), spec.steps - 1)
    step[p <= 0] = -1
    steps = np.arange(spec.steps, dtype=np.float32).reshape(-1, *[1] * x.ndim)
    spikes: npt.NDArray[np.bool_] = step == steps
    return spikes.astype(np.float32)


def _events(spec: EncodingSpec, x: npt.NDArray[Any], _rng: np.random.Generator) -> Samples:
    """1 where the recording has an event within the step; step t holds the spans k with ``floor(k T / 64) = t``."""
    if x.dtype != np.uint64:
        raise ConfigurationError(
            "encoding.kind = 'events': this data set holds images; take an event data set ('nmnist'), "
            "or encode images by 'rate' or 'latency'"
        )
    return np.stack([(x & window) != 0 for window in _windows(spec.steps)]).astype(np.float32)


def _delta(spec: EncodingSpec, x: npt.NDArray[Any], _rng: np.random.Generator) -> Samples:
    """Falls and rises by 1/gain, `[T, B, 2, C]` (`contract.series.delta_frames`)."""
    return series.delta_frames(_series(spec, x), spec.gain)


def _integrate(spec: EncodingSpec, x: npt.NDArray[Any], _rng: np.random.Generator) -> Samples:
    """Integrate-and-fire spikes, `[T, B, C]` (`contract.series.integrate_frames`)."""
    return series.integrate_frames(_series(spec, x), spec.gain)


LEVELS: Samples = (np.arange(256) / 255).astype(np.float32)
"""Intensity of each level."""

ENCODINGS: dict[str, Encoder] = {
    "direct": _direct,
    "rate": _rate,
    "latency": _latency,
    "events": _events,
    "delta": _delta,
    "integrate": _integrate,
}
CITED: dict[str, tuple[str, ...]] = {
    "direct": (),
    "rate": (),
    "latency": (),
    "events": (),
    "delta": ("miskowicz2006send", "lichtsteiner2008asynchronous"),
    "integrate": ("lazar2004time",),
}
"""Keys of the works that a kind follows (`contract.citations`); the first four are everybody's, or the recording's."""
SERIES: dict[str, Callable[[Samples, float], Samples]] = {
    "delta": series.delta_series,
    "integrate": series.integrate_series,
}
"""Kinds under which the last axis of a sample is the network's time, and what their frames say of the series."""


def input_shape(spec: EncodingSpec, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of what the network sees of a sample at one step.

    Args:
        spec: The encoding.
        shape: Of one sample.
    """
    if spec.kind not in SERIES:
        return tuple(shape)
    return (2, *shape[:-1]) if spec.kind == "delta" else tuple(shape[:-1])


def image_shape(spec: EncodingSpec, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of `intensities` of a sample: its own, or of a series under its own time the channels over T steps."""
    return (*shape[:-1], spec.steps) if spec.kind in SERIES else tuple(shape)


def encode(spec: EncodingSpec, x: npt.NDArray[Any], rng: np.random.Generator) -> Samples:
    """Frames of a batch.

    Args:
        spec: The encoding.
        x: `[B, *shape]`: intensities in [0, 1], levels, or event masks.
        rng: Draws the spikes of `rate`; the other kinds are deterministic.

    Returns:
        `[T, B, *shape]`, of a series under a `SERIES` kind `[T, B, *input_shape]`; for `direct` `[1, B, *shape]`, a
        single frame that stands for all steps.

    Raises:
        ConfigurationError: `events` of samples that are images, or a kind of `SERIES` of what is no series.
    """
    return ENCODINGS[spec.kind](spec, _samples(x), rng)


def intensities(spec: EncodingSpec, x: npt.NDArray[Any]) -> Samples:
    """Samples as images in [0, 1]: what a reconstruction is held against, and what the other encodings take.

    Args:
        spec: Gives the number of steps.
        x: `[B, *shape]`: intensities, which pass as they are, levels, or event masks.

    Returns:
        `[B, *image_shape]`; of event masks the share of the T steps with an event, of a series under a `SERIES` kind
        what each step sees.
    """
    x = _samples(x)
    if spec.kind in SERIES:
        return _series(spec, x)
    if x.dtype != np.uint64:
        return x
    counts = np.zeros(x.shape, dtype=np.float32)
    for window in _windows(min(spec.steps, EVENT_BINS)):
        counts += (x & window) != 0
    return counts / np.float32(min(spec.steps, EVENT_BINS))


def frame_weights(spec: EncodingSpec, frames: int) -> Samples:
    """What a spike at each step says of the intensity: ``w`` of the estimate ``clip(sum_t w[t] f[t] / gain, 0, 1)``.

    ``1 / T`` for spike counts; for `latency` the middle of the intensities that step t stands for,
    ``1 - (t + 1/2) / T``.

    Args:
        spec: The encoding, none of `SERIES`.
        frames: Number of frames T; 1 for `direct`.
    """
    if spec.kind == "latency":
        middles = 1 - (np.arange(frames) + 0.5) / frames
        return middles.astype(np.float32)
    return np.full(frames, 1 / frames, dtype=np.float32)


def decode(spec: EncodingSpec, frames: npt.NDArray[Any]) -> Samples:
    """The intensities that frames stand for.

    Args:
        spec: The encoding.
        frames: As `encode` makes them.

    Returns:
        `[B, *image_shape]` in [0, 1].
    """
    if spec.kind in SERIES:
        found = SERIES[spec.kind](np.asarray(frames, dtype=np.float32), spec.gain)
        return np.asarray(np.clip(found, 0, 1), dtype=np.float32)
    weighed = np.tensordot(frame_weights(spec, len(frames)), np.asarray(frames, dtype=np.float32), axes=1)
    return np.asarray(np.clip(weighed / np.float32(spec.gain), 0, 1), dtype=np.float32)


def _samples(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    x = np.asarray(x)
    if x.dtype == np.uint8:
        return np.take(LEVELS, x)
    return x if x.dtype == np.uint64 else np.asarray(x, dtype=np.float32)


def _series(spec: EncodingSpec, x: npt.NDArray[Any]) -> Samples:
    if x.dtype == np.uint64 or x.ndim != 3 or x.shape[-1] < spec.steps:
        what = "event masks" if x.dtype == np.uint64 else f"samples of shape {list(x.shape[1:])}"
        raise ConfigurationError(
            f"encoding.kind = {spec.kind!r} with steps = {spec.steps}: {what}; it takes series [channels, readings] of "
            "at least so many readings: lower steps, or take another kind"
        )
    return series.readings(x, spec.steps)


def _windows(steps: int) -> Iterator[np.uint64]:
    """Per step the bits of the spans that it holds."""
    for step in range(steps):
        yield np.uint64(sum(1 << k for k in range(EVENT_BINS) if k * steps // EVENT_BINS == step))
