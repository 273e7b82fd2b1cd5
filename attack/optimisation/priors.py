"""What an attacker believes of its candidates before it sees the gradient: a penalty added to the objective."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

Prior = Callable[[Tensor], Tensor]
"""Relaxed frames `[R, F, B, *shape]` to one penalty per restart `[R]`, 0 for the likeliest."""


def _mean(x: Tensor) -> Tensor:
    return x.flatten(1).mean(1)


def none(frames: Tensor) -> Tensor:
    """No belief."""
    return frames.new_zeros(len(frames))


def total_variation(frames: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels of the frames' mean (Rudin, Osher and Fatemi 1992; anisotropic).

    Samples that are not `[channels, height, width]` have no neighbours: 0.
    """
    if frames.ndim != 6:
        return none(frames)
    images = frames.mean(1)
    rows = (images[..., 1:, :] - images[..., :-1, :]).abs()
    columns = (images[..., :, 1:] - images[..., :, :-1]).abs()
    return sum((_mean(part) for part in (rows, columns) if part.numel()), none(frames))


def common_rate(frames: Tensor) -> Tensor:
    """Rate coding: the frames of a sample are draws around one image, ``x_t = rate + deviation_t``.

    Mean squared deviation, and the rate's total variation.
    """
    deviation = frames - frames.mean(1, keepdim=True)
    return _mean(deviation.square()) + total_variation(frames)


def smooth_in_time(frames: Tensor) -> Tensor:
    """Events: what moves is seen near its place a step later: mean absolute difference of frames in succession."""
    return _mean((frames[:, 1:] - frames[:, :-1]).abs()) if frames.shape[1] > 1 else none(frames)


PRIORS: dict[str, Prior] = {
    "none": none,
    "total_variation": total_variation,
    "common_rate": common_rate,
    "smooth_in_time": smooth_in_time,
}
