"""Frames of a row space too large to enumerate: hunting the vertices of its unit box by linear programming.

Every binary vector in the row space is a vertex of ``{v in row space : 0 <= v <= 1}``. One attempt: anchor ``v_p = 1``
on an input that few found frames cover, minimise a random positive cost; then take concave steps (cost ``1 - 2 v``);
then dive, fixing one fractional entry at a time. A vertex counts when its rounding lies in the row space.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from attack.clock import now_s, spend
from attack.costs import calls, singular
from attack.frames.box_program import BoxProgram
from attack.frames.row_space import Binary, RowSpace, pivot_form
from attack.frames.spectrum import Array64

_CONCAVE_STEPS = 2
_EXCLUSIONS = 12


@dataclass(kw_only=True)
class HuntCount:
    """What became of the attempts."""

    attempts: int = 0
    solves: int = 0
    found: int = 0
    repeated: int = 0
    missed: int = 0
    infeasible: int = 0


@dataclass(kw_only=True, eq=False)
class VertexHunt:
    """A hunt in one row space. Frames found stay; `run` goes on where it stopped.

    Attributes:
        space: The row space.
        steps: Frames per sample, if known: samples that have all of theirs are not looked at again.
        rng: Source of randomness.
        count: What became of the attempts.
    """

    space: RowSpace
    rng: np.random.Generator
    steps: int | None = None
    count: HuntCount = field(default_factory=HuntCount)
    _found: dict[bytes, Binary] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._program = BoxProgram(pivot_form(self.space.merged))
        self._groups = len(self.space.representative)

    @property
    def frames(self) -> Binary:
        """Frames found, over the active inputs `[N, active]`."""
        return np.array(list(self._found.values()), dtype=np.uint8).reshape(-1, len(self.space.group))

    @property
    def complete(self) -> bool:
        """Whether the frames found span the row space."""
        count = len(self._found)
        spend(calls(20) + (singular(count, len(self.space.group)) if count >= self.space.rank else 0.0))
        return count >= self.space.rank and int(np.linalg.matrix_rank(self.frames.astype(float))) >= self.space.rank

    def add(self, frames: Binary) -> None:
        """Takes frames known from elsewhere, over the active inputs; those outside the row space are dropped."""
        for frame in frames[self.space.members(frames)]:
            self._found[frame.tobytes()] = frame

    def run(self, budget_s: float) -> None:
        """Hunts until the frames span the row space or the time is over."""
        end = now_s() + budget_s
        while not self.complete and now_s() < end:
            self.attempt(end)

    def attempt(self, end: float) -> bool:
        """One anchored descent; whether it found a new frame."""
        self.count.attempts += 1
        self._program.release()
        known = self.frames[:, self.space.representative].astype(np.float64)
        spend(calls(50, len(self._found) * len(self.space.group) + 4 * known.size))
        anchor, near = self._anchor(known)
        self._program.fix(anchor, 1.0)
        if self.rng.random() < 0.4:
            self._exclude(known[known[:, anchor] == 1])
        cost = self.rng.exponential(size=self._groups) ** 2 + 0.05
        if near is not None:
            cost *= 0.15 + 1.5 * (1 - near)
        before = self.count.found
        self._descend(cost, end)
        self.count.solves = self._program.solves
        return self.count.found > before

    def _anchor(self, known: Array64) -> tuple[int, Array64 | None]:
        """An input to hold at 1, and perhaps the mean of a known sample to stay close to."""
        rarity = 1 / (1 + known.sum(axis=0)) ** 2
        rare = self.rng.random() < 0.7
        anchor = self.rng.choice(self._groups, p=rarity / rarity.sum()) if rare else self.rng.integers(self._groups)
        if not len(known) or self.rng.random() < 0.5:
            return int(anchor), None
        one = known[self.rng.integers(len(known))]
        overlap = (known @ one) / np.maximum(known.sum(axis=1) + one.sum() - known @ one, 1)
        kin = known[overlap > 0.55]
        if self.steps is not None and len(kin) >= self.steps and self.rng.random() < 0.8:
            return int(anchor), None
        near = kin.mean(axis=0)
        return int(self.rng.choice(np.flatnonzero(near >= 0.5))), near

    def _exclude(self, present: Array64) -> None:
        """Fixes entries so that none of the known frames through the anchor is feasible any more."""
        for _ in range(_EXCLUSIONS):
            if not len(present):
                return
            mean = present.mean(axis=0)
            split = np.flatnonzero((mean > 0) & (mean < 1)) if len(present) > 1 else np.arange(self._groups)
            if not len(split):
                return
            entry = int(split[self.rng.integers(len(split))])
            minority = float(mean[entry] <= 0.5)
            value = minority if self.rng.random() < 0.8 else 1 - minority
            self._program.fix(entry, value)
            present = present[present[:, entry] == value]

    def _descend(self, cost: Array64, end: float) -> None:
        vertex = self._program.minimise(cost)
        if vertex is None:
            self.count.infeasible += 1
            return
        for _ in range(_CONCAVE_STEPS):
            if self._keep(vertex):
                return
            following = self._program.minimise(1 - 2 * vertex)
            if following is None:
                break
            settled = np.abs(following - vertex).max() < 1e-6
            vertex = following
            if settled:
                break
        if not self._keep(vertex) and not self._dive(vertex, cost, end):
            self.count.missed += 1

    def _dive(self, vertex: Array64, cost: Array64, end: float) -> bool:
        """Fixes one fractional entry after another, each at its likelier value."""
        current: Array64 | None = vertex
        self._program.minimise(cost if self.rng.random() < 0.5 else 1 - 2 * vertex)
        for _ in range(4 * self.space.rank):
            if current is None or now_s() > end:
                return False
            fractional = np.flatnonzero(np.minimum(current, 1 - current) > 0.02)
            if not len(fractional):
                return False
            middle = fractional[np.argmin(np.abs(current[fractional] - 0.5))]
            entry = int(middle if self.rng.random() < 0.3 else self.rng.choice(fractional))
            value = float(self.rng.random() < current[entry])
            self._program.fix(entry, value)
            current = self._program.minimise()
            if current is None:
                self._program.release(entry)
                self._program.fix(entry, 1 - value)
                current = self._program.minimise()
            if current is not None and self._keep(current):
                return True
        return False

    def _keep(self, vertex: Array64) -> bool:
        """Whether a vertex is a frame; notes it if so."""
        spend(calls(15, 8 * vertex.size))
        if np.minimum(np.abs(vertex), np.abs(1 - vertex)).max() > 0.2:
            return False
        frame = np.round(vertex).astype(np.uint8)[self.space.group]
        if not frame.any() or not self.space.members(frame[None])[0]:
            return False
        key = frame.tobytes()
        if key in self._found:
            self.count.repeated += 1
        else:
            self.count.found += 1
            self._found[key] = frame
        return True
