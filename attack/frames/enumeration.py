"""Every binary vector of a small row space, by going through all 2^r values of its free coordinates."""

from __future__ import annotations

import numpy as np

from attack.clock import spend
from attack.costs import calls, product
from attack.frames.row_space import Binary, RowSpace, pivot_form

MAX_RANK = 20
_CHUNK = 1 << 14


def enumerate_frames(space: RowSpace) -> Binary:
    """All binary members of the row space, exhaustively.

    A binary vector is decided by its r pivot entries, so 2^r candidates hold them all.

    Args:
        space: Row space of rank at most `MAX_RANK`.

    Returns:
        The non-zero binary members over all inputs `[N, n]`; usually the frames and nothing else.

    Raises:
        ValueError: The rank is larger.
    """
    if space.rank > MAX_RANK:
        raise ValueError(f"row space of rank {space.rank}: enumeration takes at most {MAX_RANK}; use the vertex hunt")
    if space.rank == 0:
        return np.zeros((0, space.width), dtype=np.uint8)
    form = pivot_form(space.merged)
    probe = form.factor[:, : min(12, form.factor.shape[1])]
    bits = np.arange(space.rank)
    found = []
    for start in range(1, 1 << space.rank, _CHUNK):
        codes = np.arange(start, min(start + _CHUNK, 1 << space.rank))
        free = ((codes[:, None] >> bits) & 1).astype(np.float64)
        near = free @ probe
        spend(calls(30, 5 * free.size + 8 * near.size) + product(*free.shape, probe.shape[1]))
        free = free[(np.abs(near - np.clip(np.round(near), 0, 1)) < 0.2).all(axis=1)]
        if len(free):
            whole = form.complete(free)
            spend(calls(20, 6 * whole.size) + product(*free.shape, whole.shape[1]))
            whole = whole[(np.abs(whole - np.clip(np.round(whole), 0, 1)) < 0.2).all(axis=1)]
            found.append(np.round(whole).astype(np.uint8)[:, space.group])
    candidates = np.concatenate(found) if found else np.zeros((0, len(space.group)), dtype=np.uint8)
    return space.widen(candidates[space.members(candidates)]) if len(candidates) else space.widen(candidates)
