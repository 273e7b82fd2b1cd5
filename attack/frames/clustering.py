"""Which frames come from the same sample, from their likeness alone: for when the model is not known."""

from __future__ import annotations

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from attack.frames.row_space import ArrayInt, Binary
from attack.frames.spectrum import Array64


def distances(frames: Binary, adjoints: Array64) -> Array64:
    """How unlike frames are: one minus overlap, plus half of one minus the agreement of their adjoints' signs.

    With a readout that does not spike all adjoints of a sample carry the signs of ``W_next^T (p - y)``.

    Args:
        frames: `[N, n]`.
        adjoints: `[hidden, N]`.

    Returns:
        Symmetric `[N, N]` with a zero diagonal.
    """
    wide = frames.astype(np.float64)
    both = wide @ wide.T
    size = np.diag(both)
    overlap = both / np.maximum(size[:, None] + size - both, 1)
    agreement = (adjoints.T @ adjoints) / np.maximum(np.abs(adjoints).T @ np.abs(adjoints), 1e-300)
    apart = (1 - overlap) + 0.5 * (1 - agreement)
    apart = (apart + apart.T) / 2
    np.fill_diagonal(apart, 0.0)
    return np.asarray(np.maximum(apart, 0.0))


def clusters(apart: Array64, *, groups: int, size: int) -> list[ArrayInt]:
    """Splits frames into samples by average linkage, then evens them out to their known size.

    Args:
        apart: Distances `[N, N]`.
        groups: Number of samples B.
        size: Frames per sample T.

    Returns:
        Indices of the frames of each sample; at most B arrays.
    """
    count = len(apart)
    if groups == 1 or count < 2:
        return [np.arange(count)]
    tree = linkage(squareform(apart, checks=False), "average")
    label = fcluster(tree, groups, "maxclust") - 1
    if count == groups * size:
        _even_out(label, apart, groups, size)
    return [np.flatnonzero(label == g) for g in range(groups) if (label == g).any()]


def _even_out(label: ArrayInt, apart: Array64, groups: int, size: int) -> None:
    """Moves the worst-fitting frames of clusters too large into those too small, in place."""
    for _ in range(len(label)):
        counts = np.bincount(label, minlength=groups)
        large = int(np.argmax(counts))
        if counts[large] <= size:
            return
        homes = np.flatnonzero(counts < size)
        members = np.flatnonzero(label == large)
        stay = apart[np.ix_(members, members)].sum(axis=1) / max(len(members) - 1, 1)
        move = np.array([[_mean(apart[m], label == h) for h in homes] for m in members])
        worst, best = np.unravel_index(np.argmin(move - stay[:, None]), move.shape)
        label[members[worst]] = homes[best]


def _mean(row: Array64, chosen: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> float:
    return float(row[chosen].mean()) if chosen.any() else 2.0
