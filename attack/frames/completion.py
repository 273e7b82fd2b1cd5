"""From a gradient to whole samples: frames, their order, the label, and a certificate for each.

Samples come from causal Gauss-Newton steps where the model above the first layer permits them, otherwise from frames
that the vertex hunt finds and chains put in order. Each is taken out as soon as it is complete; what remains is a
smaller problem of the same kind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from attack.clock import now_s, spend
from attack.costs import calls, product
from attack.frames.deflation import Deflation, distinct_rows
from attack.frames.enumeration import enumerate_frames
from attack.frames.ordering import ChainTest, chains
from attack.frames.row_space import Binary, RowSpace, row_space
from attack.frames.sample_search import SampleSearch
from attack.frames.simulation import Simulator
from attack.frames.spectrum import Array64
from attack.frames.vertex_hunt import VertexHunt

_ENUMERABLE = 14
_ROUNDS = 3
EXACT = 2e-3
"""Sine below which spaces meet at known weights: rounding gives about 1e-6, 1e-3 for the faintest samples of a trained
network; a wrong frame gives 1e-2."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """One certified sample: taking its gradient away lowers the rank by exactly its distinct non-empty frames.

    Attributes:
        frames: In order `[T, n]`.
        label: Its label.
    """

    frames: Binary
    label: int


@dataclass(kw_only=True, eq=False)
class Recovery:
    """What was recovered.

    Attributes:
        samples: Certified samples.
        loose: Frames that belong to none of them `[N, n]`.
        rank: Numerical rank of the gradient.
        left: Rank that is not explained.
        seconds: Time until each sample was complete.
    """

    samples: list[Sample] = field(default_factory=list)
    loose: Binary
    rank: int
    left: int
    seconds: list[float] = field(default_factory=list)


@dataclass(kw_only=True, eq=False)
class Completion:
    """One recovery at work.

    Attributes:
        simulator: The network at the parameters that the gradient was taken at.
        steps: Frames per sample T.
        batch: Samples per mean gradient B.
        rng: Source of randomness.
        scales: Factor with which each local step's mean gradient enters; one entry for a single gradient.
        successor: The network after a local step on these B samples; asked for between the steps. When a step's
            samples are all known, the next step's weights are, and its samples become as exact as the first's.
    """

    simulator: Simulator
    steps: int
    batch: int
    rng: np.random.Generator
    scales: tuple[float, ...] = (1.0,)
    successor: Callable[[Sequence[Sample]], Simulator] | None = None

    def recover(self, gradient: Array64, *, samples: int, budget_s: float, slice_s: float = 2.0) -> Recovery:
        """Recovers the samples behind a gradient of rate- or event-coded frames.

        Args:
            gradient: First-layer weight gradient `[H1, n]`.
            samples: Samples in it.
            budget_s: Processor time, in seconds.
            slice_s: Time for the vertex hunt before samples are looked for again, in seconds.
        """
        begin = now_s()
        end = begin + budget_s
        space = row_space(gradient, most=samples * self.steps)
        state = Recovery(loose=np.zeros((0, gradient.shape[1]), np.uint8), rank=space.rank, left=space.rank)
        if not space.rank:
            return state
        rest = Deflation(gradient, space, rows=samples * self.steps)
        if rest.rowless and space.rank <= _ENUMERABLE:
            self._hunt(space, state, budget_s)
        rounds = 0
        while rest.left > 0 and len(state.samples) < samples and now_s() < end:
            rounds += 1
            found = self._search(rest, gradient, state, end)
            if not found and rounds % _ROUNDS == 0:
                self._hunt(rest.space, state, min(slice_s, end - now_s()))
                found = self._read_chains(rest.space, state)
                if not found and len(state.loose) >= rest.left:
                    break
            for frames in found:
                self._take(frames, rest, state)
            state.seconds += [now_s() - begin] * (len(state.samples) - len(state.seconds))
            state.left = rest.left
        return state

    def _search(self, rest: Deflation, gradient: Array64, state: Recovery, end: float) -> list[Binary]:
        """The first whole sample that causal Gauss-Newton finds, with one attempt for each label."""
        space = rest.space
        search = SampleSearch(
            self.simulator,
            space,
            gradient,
            steps=self.steps,
            meets=EXACT,
            functionals=rest.functionals,
            rowless=rest.rowless,
        )
        if not search.possible:
            return []
        for label in search.labels():
            if now_s() > end:
                break
            frames = space.widen(search.attempt(label, self.rng, end))
            if len(frames) == self.steps:
                return [frames]
            frames = distinct_rows(frames, np.zeros((0, len(frames))))[0]
            state.loose = _union(state.loose, frames)
        return []

    def _hunt(self, space: RowSpace, state: Recovery, budget_s: float) -> None:
        """More loose frames: all of them for a small rank, else what a hunt finds in the given time."""
        if not space.selective:
            return
        if space.rank <= _ENUMERABLE:
            state.loose = _union(state.loose, enumerate_frames(space))
            return
        hunt = VertexHunt(space=space, rng=self.rng, steps=self.steps)
        hunt.add(state.loose[:, space.active])
        hunt.run(budget_s)
        taken = {frame.tobytes() for sample in state.samples for frame in sample.frames}
        found = space.widen(hunt.frames)
        state.loose = found[[frame.tobytes() not in taken for frame in found]] if len(found) else found

    def _read_chains(self, space: RowSpace, state: Recovery) -> list[Binary]:
        """Samples all of whose frames are loose."""
        test = ChainTest(simulator=self.simulator, complement=space.complement, meets=EXACT)
        whole: list[Binary] = []
        used: set[int] = set()
        for chain in chains(test, state.loose, self.steps):
            if len(chain.chosen) == self.steps and not used & set(chain.chosen):
                whole.append(state.loose[list(chain.chosen)])
                used |= set(chain.chosen)
        return whole

    def _take(self, frames: Binary, rest: Deflation, state: Recovery) -> None:
        """Takes a sample out if it is certified, and goes on to the next local step when it was the last of one."""
        label, adjoints = self._explain(frames, rest.whole)
        step = min(len(state.samples) // self.batch, len(self.scales) - 1)
        adjoints = adjoints * (self.scales[step] / self.batch)
        if not rest.certifies(frames, adjoints):
            return
        rest.take(frames, adjoints)
        state.samples.append(Sample(frames=frames, label=label))
        if self.successor is not None and len(state.samples) == self.batch * (step + 1) < self.batch * len(self.scales):
            self.simulator = self.successor(state.samples[-self.batch :])
        taken = {frame.tobytes() for frame in frames}
        state.loose = state.loose[[frame.tobytes() not in taken for frame in state.loose]]

    def _explain(self, frames: Binary, space: RowSpace) -> tuple[int, Array64]:
        """The label whose simulated adjoints lie best in the column space, and those adjoints `[H1, T]`."""
        currents = self.simulator.current(frames.astype(np.float64))
        best, least, chosen = 0, np.inf, np.zeros((0, 0))
        for label in range(self.simulator.classes):
            adjoint = self.simulator.first_adjoint(currents, label).T
            rows = distinct_rows(frames, adjoint)[1]
            spend(calls(20 * self.steps, 4 * frames.size) + product(*space.complement.shape, self.steps))
            outside = float(np.linalg.norm(space.complement.T @ rows) / max(float(np.linalg.norm(rows)), 1e-300))
            if outside < least:
                best, least, chosen = label, outside, adjoint
        return best, chosen


def _union(known: Binary, more: Binary) -> Binary:
    merged = {frame.tobytes(): frame for frame in (*known, *more)}
    return np.array(list(merged.values()), dtype=np.uint8).reshape(-1, known.shape[1])
