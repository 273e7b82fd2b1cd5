"""Series `[channels, readings]` as spikes over the network's own time, and what such spikes say of the series.

A step sees the mean of an equal share of the readings, so that T may be less than their number. Readings lie in [0, 1].
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]

MIDDLE = np.float32(0.5)
"""Where `delta` begins to follow a series."""
SMOOTH = 5
"""Steps over which intervals between spikes are averaged."""


def readings(x: npt.NDArray[Any], steps: int) -> Samples:
    """Series at the network's resolution: step t holds the mean of the readings k with ``floor(k T / L) = t``.

    Args:
        x: `[..., L]`, L at least T.
        steps: T.

    Returns:
        `[..., T]`.
    """
    length = x.shape[-1]
    starts = -(-np.arange(steps) * length // steps)
    sums = np.add.reduceat(np.asarray(x, dtype=np.float64), starts, axis=-1)
    counts = np.diff([*starts, length])
    return np.asarray(sums / counts, dtype=np.float32)


def delta_frames(x: Samples, gain: float) -> Samples:
    """Send-on-delta: a spike where the series has left what the receiver can have followed by ``1 / gain`` or more.

    The receiver's level is ``1/2 + n / gain``; n falls or rises by one with each spike, so that a series that moves by
    more than ``1 / gain`` a step is followed late (Miskowicz 2006, Sensors 6, 49-63; the event camera's rule, too:
    Lichtsteiner, Posch and Delbruck 2008).

    Args:
        x: `[B, C, T]`.
        gain: Spikes per unit of intensity.

    Returns:
        `[T, B, 2, C]`: falling, then rising.
    """
    drive = np.float32(gain) * (np.moveaxis(x, -1, 0) - MIDDLE)
    level = np.zeros(drive.shape[1:], dtype=np.float32)
    frames = np.zeros((*drive.shape[:2], 2, *drive.shape[2:]), dtype=np.float32)
    for t, now in enumerate(drive):
        gap = now - level
        frames[t, :, 0], frames[t, :, 1] = gap <= -1, gap >= 1
        level += frames[t, :, 1] - frames[t, :, 0]
    return frames


def delta_series(frames: Samples, gain: float) -> Samples:
    """The receiver's level at each step: ``1/2 + (rises - falls so far) / gain``.

    Args:
        frames: `[T, B, 2, C]`, also relaxed ones.
        gain: As they were encoded.

    Returns:
        `[B, C, T]`, not clipped.
    """
    level = np.cumsum(frames[:, :, 1] - frames[:, :, 0], axis=0) / np.float32(gain) + MIDDLE
    return np.asarray(np.moveaxis(level, 0, -1), dtype=np.float32)


def integrate_frames(x: Samples, gain: float) -> Samples:
    """Integrate and fire: the sum of ``min(gain x, 1)`` spikes and falls by 1 whenever it has reached 1.

    The neuron has no leak and its reset loses nothing, so that the spikes so far are the integral so far, rounded down
    (Lazar 2004, Neurocomputing 58, 53-58, discretised).

    Args:
        x: `[B, C, T]`.
        gain: Spikes a step at intensity 1.

    Returns:
        `[T, B, C]`.
    """
    drive = np.minimum(np.float32(gain) * np.moveaxis(x, -1, 0), np.float32(1))
    charge = np.zeros(drive.shape[1:], dtype=np.float32)
    frames = np.zeros(drive.shape, dtype=np.float32)
    for t, now in enumerate(drive):
        charge += now
        frames[t] = charge >= 1
        charge -= frames[t]
    return frames


def integrate_series(frames: Samples, gain: float) -> Samples:
    """Intensities from the intervals between spikes (`intervals`), each moment the mean of `SMOOTH` around it.

    Whole steps make intervals coarse where spikes are frequent; the mean over neighbours tells between them. Frames
    that are no spikes are intensities times gain.

    Args:
        frames: `[T, B, C]`, also relaxed ones.
        gain: As they were encoded.

    Returns:
        `[B, C, T]`, not clipped.
    """
    rows = np.moveaxis(frames, 0, -1)
    if not np.isin(rows, (0, 1)).all():
        return np.asarray(rows / np.float32(gain), dtype=np.float32)
    edges = [(0, 0)] * (rows.ndim - 1) + [(SMOOTH // 2, SMOOTH // 2)]
    padded = np.pad(intervals(rows, gain), edges, mode="edge")
    around = np.lib.stride_tricks.sliding_window_view(padded, SMOOTH, axis=-1)
    return np.asarray(around.mean(axis=-1), dtype=np.float32)


def intervals(rows: Samples, gain: float) -> Samples:
    """Mean intensity between spikes: from one to the next the series has added up to ``1 / gain``.

    After the last spike half of that is to come on average.

    Args:
        rows: Spikes `[..., T]`.
        gain: Spikes a step at intensity 1.
    """
    steps = rows.shape[-1]
    places = np.arange(steps)
    ends = np.where(rows == 1, places, steps)
    ends = np.minimum.accumulate(ends[..., ::-1], axis=-1)[..., ::-1]  # the spike at or after each step
    before = np.where(rows == 1, places, -1)
    before = np.maximum.accumulate(np.concatenate([np.full_like(before[..., :1], -1), before[..., :-1]], -1), axis=-1)
    silent = ends == steps
    spans = np.where(silent, steps - 1 - before, ends - before)
    return np.asarray(np.where(silent, 0.5, 1.0) / spans / gain, dtype=np.float32)
