"""From a gradient to whole samples: frames, their order, the label, and a certificate for each.

Samples are taken out one by one: their simulated gradient is subtracted, and the rank must drop by exactly their
number of frames. A wrong frame, order or label leaves the rank where it was or raises it, so the drop certifies all
three at once; what remains is a smaller problem of the same kind.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np

from attack.frames.enumeration import enumerate_frames
from attack.frames.ordering import ChainTest, chains
from attack.frames.row_space import Binary, RowSpace, row_space
from attack.frames.sample_search import SampleSearch
from attack.frames.simulation import Simulator
from attack.frames.spectrum import Array64
from attack.frames.vertex_hunt import VertexHunt

_ENUMERABLE = 14
_ROUNDS = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """One recovered sample: frames in order `[T, n]` and label; its gradient took the rank down by T."""

    frames: Binary
    label: int


@dataclass(kw_only=True, eq=False)
class Recovery:
    """State of a recovery.

    Attributes:
        samples: Certified samples.
        loose: Frames that belong to no certified sample `[N, n]`.
        rank: Numerical rank of the gradient at the start.
        left: Rank that is not explained yet.
        residual: Norm of what is not explained, relative to the gradient's.
    """

    samples: list[Sample] = field(default_factory=list)
    loose: Binary
    rank: int
    left: int
    residual: float


def recover(
    gradient: Array64,
    simulator: Simulator,
    *,
    steps: int,
    batch: int,
    budget_s: float,
    rng: np.random.Generator,
    slice_s: float = 2.0,
) -> Recovery:
    """Recovers the samples behind a mean gradient of rate- or event-coded frames.

    Args:
        gradient: First-layer weight gradient of the batch's mean loss `[H1, n]`.
        simulator: The network at the parameters that the gradient was taken at.
        steps: Frames per sample T.
        batch: Samples B.
        budget_s: Wall time, in seconds.
        rng: Source of randomness.
        slice_s: Time between attempts to complete samples, in seconds.

    Returns:
        Certified samples, loose frames and what is unexplained.
    """
    end = time.monotonic() + budget_s
    space = row_space(gradient, most=batch * steps)
    norm = float(np.linalg.norm(gradient))
    state = Recovery(loose=np.zeros((0, gradient.shape[1]), np.uint8), rank=space.rank, left=space.rank, residual=1.0)
    rest = gradient
    while state.left and time.monotonic() < end:
        pool = state.loose
        for _ in range(_ROUNDS):
            pool = _search(rest, space, simulator, pool, steps=steps, rng=rng, end=end)
            taken, rest = deflate(rest, space, simulator, pool, steps=steps, batch=batch)
            if taken:
                break
        else:
            pool = find_frames(space, pool, rng, budget_s=min(slice_s, end - time.monotonic()), steps=steps)
            taken, rest = deflate(rest, space, simulator, pool, steps=steps, batch=batch)
        state.samples += taken
        used = {frame.tobytes() for sample in taken for frame in sample.frames}
        state.loose = pool[[frame.tobytes() not in used for frame in pool]] if len(pool) else pool
        if taken:
            state.left = space.rank - sum(len(np.unique(sample.frames, axis=0)) for sample in taken)
            state.residual = float(np.linalg.norm(rest)) / norm
            if state.left:
                space = row_space(rest, rank=state.left)
        elif len(pool) >= space.rank:
            break
    return state


def _search(
    gradient: Array64,
    space: RowSpace,
    simulator: Simulator,
    pool: Binary,
    *,
    steps: int,
    rng: np.random.Generator,
    end: float,
) -> Binary:
    """The pool with the frames of samples that causal Gauss-Newton finds, one attempt for each label."""
    if not ChainTest(simulator=simulator, complement=space.complement).conclusive:
        return pool
    search = SampleSearch(simulator, space, gradient, steps=steps)
    known = {frame.tobytes(): frame for frame in pool}
    for label in search.labels():
        if time.monotonic() > end:
            break
        found = search.attempt(label, rng, end)
        if found is not None:
            known.update((frame.tobytes(), frame) for frame in space.widen(found.frames))
            if len(found.frames) == steps:
                break
    return np.array(list(known.values()), dtype=np.uint8).reshape(-1, space.width)


def find_frames(
    space: RowSpace, known: Binary, rng: np.random.Generator, *, budget_s: float, steps: int | None = None
) -> Binary:
    """Frames in a row space `[N, n]`: all of them for a small rank, else what a hunt finds in the given time."""
    if space.rank <= _ENUMERABLE:
        return enumerate_frames(space)
    hunt = VertexHunt(space=space, rng=rng, steps=steps)
    hunt.add(known[:, space.active])
    hunt.run(budget_s)
    return space.widen(hunt.frames)


def deflate(
    gradient: Array64, space: RowSpace, simulator: Simulator, pool: Binary, *, steps: int, batch: int
) -> tuple[list[Sample], Array64]:
    """Takes every sample out whose frames are all in the pool.

    Returns:
        The certified samples, and the gradient without them.
    """
    taken: list[Sample] = []
    test = ChainTest(simulator=simulator, complement=space.complement)
    core = space.columns.T @ gradient[:, space.active] @ space.basis.T
    left = space.rank
    used: set[int] = set()
    for chain in chains(test, pool, steps):
        if len(chain.chosen) < steps or used & set(chain.chosen):
            continue
        frames = pool[list(chain.chosen)]
        label, part = _explain(frames, space, simulator)
        smaller = core - (space.columns.T @ part) @ (frames[:, space.active] @ space.basis.T) / batch
        if _rank(smaller, space.spectrum.floor) == left - steps:
            core, left = smaller, left - steps
            gradient = gradient - part @ frames / batch
            taken.append(Sample(frames=frames, label=label))
            used |= set(chain.chosen)
    return taken, gradient


def _explain(frames: Binary, space: RowSpace, simulator: Simulator) -> tuple[int, Array64]:
    """The label whose simulated adjoints lie best in the column space, and those adjoints `[H1, T]`."""
    currents = simulator.current(frames.astype(np.float64))
    best, least, chosen = 0, np.inf, np.zeros((0, 0))
    for label in range(simulator.classes):
        adjoint = simulator.first_adjoint(currents, label).T
        outside = float(np.linalg.norm(space.complement.T @ adjoint) / max(float(np.linalg.norm(adjoint)), 1e-300))
        if outside < least:
            best, least, chosen = label, outside, adjoint
    return best, chosen


def _rank(core: Array64, floor: float) -> int:
    return int(np.count_nonzero(np.linalg.svd(core, compute_uv=False) > floor))
