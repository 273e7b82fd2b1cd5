"""Reconstructions against the user's truth, after the attacks and out of their reach."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from contract.metrics import SSIM_WINDOW, psnr_matrix, ssim
from contract.perceptual import Perceptual

Array32 = npt.NDArray[np.float32]


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """One attack's candidates, each matched to a true sample so that the sum of PSNR is largest.

    Attributes:
        psnr_db: Per true sample; `None` where no candidate was left for it.
        ssim: Per true sample; `None` also where samples are too small for a window.
        candidate: Per true sample, index of the candidate.
        lpips: Per true sample, where weights were given; `None` like `ssim`.
        frames_exact: Share of all true frames that were found bit for bit at their time step; `None` without frames.
        labels_right: How many of the true labels were named; `None` without labels on either side.
    """

    psnr_db: tuple[float | None, ...]
    ssim: tuple[float | None, ...]
    lpips: tuple[float | None, ...]
    candidate: tuple[int | None, ...]
    frames_exact: float | None
    labels_right: int | None


def score(
    images: Array32,
    frames: Array32 | None,
    labels: tuple[int, ...],
    truth: Mapping[str, Any],
    perceptual: Perceptual | None = None,
) -> Score:
    """Scores `[N, *shape]` candidates.

    Args:
        images: Candidates in [0, 1].
        frames: Their spike frames `[N, T, *shape]`, if any.
        labels: Labels that the attack named.
        truth: `x` `[M, *shape]`; `frames` and `y` where known.
        perceptual: LPIPS, if the user brought its weights.
    """
    true = np.asarray(truth["x"], dtype=np.float32)
    matrix = psnr_matrix(images, true)
    rows, columns = linear_sum_assignment(-matrix)
    match: dict[int, int] = {int(sample): int(row) for row, sample in zip(rows, columns, strict=True)}
    order = [match.get(sample) for sample in range(len(true))]
    square = true.ndim == 4 and min(true.shape[2:]) >= SSIM_WINDOW
    return Score(
        psnr_db=tuple(None if row is None else float(matrix[row, i]) for i, row in enumerate(order)),
        ssim=tuple(None if row is None or not square else ssim(images[row], true[i]) for i, row in enumerate(order)),
        lpips=tuple(
            None if row is None or perceptual is None else perceptual(images[row], true[i])
            for i, row in enumerate(order)
        ),
        candidate=tuple(order),
        frames_exact=_frames_exact(frames, order, truth.get("frames")),
        labels_right=_labels_right(labels, truth.get("y")),
    )


def _frames_exact(frames: Array32 | None, order: list[int | None], true: Any) -> float | None:
    if frames is None or true is None or np.shape(true)[1:] != frames.shape[1:]:
        return None
    hits = [
        0 if row is None else int((frames[row] == true[i]).reshape(frames.shape[1], -1).all(axis=1).sum())
        for i, row in enumerate(order)
    ]
    return sum(hits) / float(len(true) * frames.shape[1])


def _labels_right(labels: tuple[int, ...], true: Any) -> int | None:
    if not labels or true is None:
        return None
    return (Counter(labels) & Counter(int(y) for y in true)).total()
