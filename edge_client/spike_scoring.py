"""Holds recovered spike frames against the true ones. numpy only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from contract.assignment import best_assignment
from contract.encodings import decode
from contract.metrics import psnr_matrix
from contract.task import EncodingSpec

Spikes = NDArray[np.uint8]
Pairs = Sequence[tuple[int, int]]


class SpikeScores(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of `contract.messages.AttackScore` that frames decide; described there."""

    frames_exact: float | None
    frames_placed: float | None
    spike_precision: float
    spike_recall: float
    rate_psnr_db: float
    rate_bound_db: float


def spike_scores(found: Spikes, true: Spikes, images: NDArray[np.float32], spec: EncodingSpec) -> SpikeScores:
    """Scores frames.

    Args:
        found: `[N, T, *shape]`.
        true: `[M, T, *shape]`.
        images: The true samples' intensities `[M, *shape]`.
        spec: The encoding.

    Returns:
        The scores; the two shares of frames are `None` when no true frame has a spike.
    """
    names_found, names_true = _names(found), _names(true)
    hits = _flat(found) @ _flat(true).T
    claimed, there = _flat(found).sum(axis=1), _flat(true).sum(axis=1)
    pairs = best_assignment(_overlap(names_found, names_true) + 2 * hits / np.maximum(claimed[:, None] + there, 1.0))
    spiking = sum(name != "" for names in names_true for name in names)
    common = _spiking(names_found) & _spiking(names_true)
    placed = sum(a == b != "" for i, j in pairs for a, b in zip(names_found[i], names_true[j], strict=True))
    right = float(sum(hits[i, j] for i, j in pairs))
    rates, bounds = (decode(spec, np.moveaxis(frames, 1, 0)) for frames in (found, true))
    return SpikeScores(
        frames_exact=common.total() / spiking if spiking else None,
        frames_placed=placed / spiking if spiking else None,
        spike_precision=right / float(claimed.sum()) if claimed.any() else 1.0,
        spike_recall=right / float(there.sum()) if there.any() else 1.0,
        rate_psnr_db=matched_mean_db(_psnr(rates, images), pairs, images),
        rate_bound_db=float(np.diagonal(_psnr(bounds, images)).mean()),
    )


def matched_mean_db(matrix: NDArray[np.float64], pairs: Pairs, images: NDArray[np.float32]) -> float:
    """Mean PSNR over all true samples.

    Args:
        matrix: PSNR of each reconstruction against each sample `[N, M]`, in dB.
        pairs: Reconstruction and sample, each once at most.
        images: The samples `[M, *shape]`: one without a reconstruction is held against a black image.
    """
    figures = _psnr(np.zeros_like(images[:1]), images)[0]
    for candidate, sample in pairs:
        figures[sample] = matrix[candidate, sample]
    return float(figures.mean())


def _psnr(recon: NDArray[np.float32], images: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.asarray(psnr_matrix(recon.reshape(len(recon), -1), images.reshape(len(images), -1)), dtype=np.float64)


def _flat(frames: Spikes) -> NDArray[np.float64]:
    return frames.reshape(len(frames), -1).astype(np.float64)


def _names(frames: Spikes) -> list[list[bytes | str]]:
    """Each frame's bytes; an empty string for one without a spike."""
    flat = frames.reshape(*frames.shape[:2], -1)
    return [[row.tobytes() if row.any() else "" for row in sample] for sample in flat]


def _spiking(names: list[list[bytes | str]]) -> Counter[bytes | str]:
    return Counter(name for sample in names for name in sample if name != "")


def _overlap(found: list[list[bytes | str]], true: list[list[bytes | str]]) -> NDArray[np.float64]:
    """Share of the frames that two samples have in common, order aside `[N, M]`."""
    left, right = ([Counter(sample) for sample in side] for side in (found, true))
    steps = max(len(true[0]), 1)
    return np.array([[(a & b).total() / steps for b in right] for a in left], dtype=np.float64)
