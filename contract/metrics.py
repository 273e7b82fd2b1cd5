"""How close a reconstruction is to the truth, scored where the truth lives. Needs numpy only."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
import numpy.typing as npt

PSNR_CAP_DB = 200.0
"""PSNR of identical arrays, and the largest that is reported."""
SSIM_WINDOW = 7
CITED: dict[str, tuple[str, ...]] = {
    "ssim": ("wang2004image",),
    "lpips": ("zhang2018unreasonable",),
    "matched_psnr_db": ("jonker1987shortest",),
    "rate_psnr_db": ("jonker1987shortest",),
    "membership_auc": ("hanley1982meaning",),
}
"""Keys of the works behind figures of a score (`contract.messages.AttackScore`); see `contract.citations`."""

Array = npt.NDArray[Any]


def _decibels(mean_squared_error: npt.NDArray[np.float64], data_range: float) -> npt.NDArray[np.float64]:
    floor = data_range**2 * 10 ** (-PSNR_CAP_DB / 10)
    return 10 * np.log10(data_range**2 / np.maximum(mean_squared_error, floor))


def _finite(name: str, x: Array) -> npt.NDArray[np.float64]:
    values = np.asarray(x, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"{name} holds values that are not finite: such a reconstruction has failed and has no score")
    return values


def psnr(a: Array, b: Array, *, data_range: float = 1.0) -> float:
    """Peak signal-to-noise ratio ``10 log10(range^2 / mean (a-b)^2)``.

    Args:
        a: Any shape.
        b: The same shape.
        data_range: Distance between the smallest and the largest possible value.

    Returns:
        Decibels, at most `PSNR_CAP_DB`.

    Raises:
        ValueError: Shapes differ, nothing to compare, or a value is not finite.
    """
    if a.shape != b.shape or not a.size:
        raise ValueError(f"psnr of shapes {a.shape} and {b.shape}: they must be equal and not empty")
    error = np.square(_finite("a", a) - _finite("b", b)).mean()
    return float(_decibels(np.asarray(error), data_range))


def psnr_matrix(recon: Array, truth: Array, *, data_range: float = 1.0) -> npt.NDArray[np.float64]:
    """PSNR of each reconstruction against each true sample.

    Args:
        recon: `[N, ...]`.
        truth: `[M, ...]`, samples of the same size.
        data_range: As in `psnr`.

    Returns:
        Decibels `[N, M]`; equal to `psnr` of each pair.

    Raises:
        ValueError: Sample sizes differ, or a value is not finite.
    """
    a = _finite("recon", recon).reshape(len(recon), math.prod(recon.shape[1:]))
    b = _finite("truth", truth).reshape(len(truth), math.prod(truth.shape[1:]))
    if a.shape[1] != b.shape[1] or not a.shape[1]:
        raise ValueError(f"psnr_matrix of {a.shape[1]} and {b.shape[1]} values a sample: they must be equal, not 0")
    # Row by row, not through |a|^2 - 2ab + |b|^2: that would cancel for the very pairs that matter.
    errors = np.stack([np.square(b - row).mean(axis=1) for row in a]) if len(a) else np.zeros((0, len(b)))
    return _decibels(errors, data_range)


def ssim(a: Array, b: Array) -> float:
    """Structural similarity (Wang et al. 2004), equal to scikit-image's default with `data_range=1`.

    Uniform 7×7 windows that lie wholly in the image, sample covariance, K1 = 0.01, K2 = 0.03, mean over windows and
    channels. An image with a side below 7 gets the largest odd window that fits; with a side below 3, where a window
    has a single pixel and no variance, what remains is the luminance term.

    Args:
        a: `[H, W]` or `[C, H, W]`, in [0, 1].
        b: The same shape.

    Returns:
        1 for equal images; can be negative.

    Raises:
        ValueError: Shapes differ or are no image, or a value is not finite.
    """
    if a.shape != b.shape or a.ndim not in {2, 3} or not a.size:
        raise ValueError(f"ssim of shapes {a.shape} and {b.shape}: both must be [H, W] or [C, H, W]")
    x, y = _finite("a", a), _finite("b", b)
    side = min(SSIM_WINDOW, *x.shape[-2:])
    side -= 1 - side % 2
    n = side * side
    sample = n / (n - 1) if n > 1 else 1.0
    mean_x, mean_y = _window_means(x, side), _window_means(y, side)
    var_x = sample * (_window_means(x * x, side) - mean_x * mean_x)
    var_y = sample * (_window_means(y * y, side) - mean_y * mean_y)
    cov = sample * (_window_means(x * y, side) - mean_x * mean_y)
    c1, c2 = 0.01**2, 0.03**2
    numerator = (2 * mean_x * mean_y + c1) * (2 * cov + c2)
    denominator = (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    return float((numerator / denominator).mean())


def _window_means(x: npt.NDArray[np.float64], side: int) -> npt.NDArray[np.float64]:
    windows = np.lib.stride_tricks.sliding_window_view(x, (side, side), axis=(-2, -1))
    return np.asarray(windows.mean(axis=(-2, -1)))


def spike_precision_recall(found: Array, true: Array) -> tuple[float, float]:
    """How many of the spikes found are true, and how many of the true ones are found.

    Args:
        found: Frames of zeros and ones, any shape.
        true: The same shape.

    Returns:
        Precision and recall. Vacuous statements hold: precision is 1 when nothing was claimed, recall is 1 when there
        was nothing to find.

    Raises:
        ValueError: Shapes differ, or a value is neither 0 nor 1.
    """
    if found.shape != true.shape:
        raise ValueError(f"spike_precision_recall of shapes {found.shape} and {true.shape}: they must be equal")
    for name, frames in (("found", found), ("true", true)):
        if not np.isin(frames, (0, 1)).all():
            raise ValueError(f"{name} holds values other than 0 and 1: threshold a reconstruction before scoring it")
    hits = int(np.count_nonzero((found == 1) & (true == 1)))
    claimed, there = int(np.count_nonzero(found)), int(np.count_nonzero(true))
    return (hits / claimed if claimed else 1.0), (hits / there if there else 1.0)


def sample_digest(sample: Array) -> bytes:
    """Names a sample without showing it: 16 bytes of the SHA-256 over ``round(255 x)``, for `x` in [0, 1].

    Args:
        sample: Any shape; values beyond [0, 1] are clipped.
    """
    levels = np.rint(255.0 * np.clip(np.asarray(sample, dtype=np.float64), 0.0, 1.0)).astype(np.uint8)
    return hashlib.sha256(levels.tobytes()).digest()[:16]


def area_under_roc(scores: Array, members: Array) -> float | None:
    """How well scores tell members from others: ``P(score of a member < score of another)``, ties counted half.

    Equal to the Mann-Whitney statistic over the number of pairs (Hanley and McNeil 1982).

    Args:
        scores: `[N]`; smaller for what is thought to be a member. NaN ranks last.
        members: Booleans `[N]`.

    Returns:
        1 when they are told apart, 0.5 for guessing; `None` when there are only members or none.
    """
    inside = np.asarray(members, dtype=bool)
    count, others = int(inside.sum()), int((~inside).sum())
    if not count or not others:
        return None
    values = np.where(np.isnan(scores), np.inf, scores)
    _, places, ties = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(ties) - (ties - 1) / 2)[places]
    return float(1.0 - (ranks[inside].sum() - count * (count + 1) / 2) / (count * others))
