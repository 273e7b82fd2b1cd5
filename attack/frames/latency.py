r"""A latency-coded sample from a single gradient: columns that agree spiked together, and the chain says when.

Every input spikes at most once, so column p of ``dW = Σ_t δ_t x_tᵀ`` is ``δ_{t(p)}``, or zero when p stays silent.
Groups of equal columns are the frames, and the δ themselves are known. Between the frames of steps t and t + d, with
the steps between them empty, the backward pass demands

    δ_t − c_d ⊙ δ_{t+d} = Σ_{j<d} c_j ⊙ G_{t+j} ⊙ (W_nextᵀ ε_{t+j}),    c_0 = 1,  c_{j+1} = c_j ⊙ decay_{t+j}

where the gains G follow from the frames up to t alone (`attack.frames.simulation`) and each ε is free in a few
dimensions. The residual of that least-squares problem orders the groups and places them in time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attack.clock import now_s, spend
from attack.costs import calls, product, triangular
from attack.frames.simulation import Simulator
from attack.frames.spectrum import Array64

_MARGIN = 8
_SHORT = 2
_KEEP = 32
_WORSE = 30.0
_ROUNDING = 1e-5


@dataclass(frozen=True, kw_only=True, eq=False)
class Partition:
    """Groups of equal columns.

    Attributes:
        masks: Inputs of each group `[G, n]`.
        deltas: Mean column of each group `[G, H]`.
    """

    masks: npt.NDArray[np.bool_]
    deltas: Array64


def partition(gradient: Array64, error: float, *, most: int) -> Partition:
    """Groups the columns that agree.

    Args:
        gradient: First-layer gradient `[H, n]`.
        error: Largest absolute error of an entry (the codec's).
        most: Groups that there can be (T). Where there are more, the first `most + 1` are given.
    """
    live = np.flatnonzero(gradient.any(axis=0))
    columns = gradient[:, live].T
    tolerance = 2 * error + 1e-6 * float(np.abs(gradient).max(initial=0.0))
    typical = 0.8 * error + 1e-6 * float(np.abs(gradient).max(initial=0.0))
    members: list[list[int]] = []
    for i, column in enumerate(columns):
        if len(members) > most:
            break
        for group in members:
            spend(calls(8, len(group) * len(column)))
            apart = columns[group].mean(axis=0) - column
            if np.abs(apart).max() <= tolerance and np.sqrt((apart**2).mean()) <= typical:
                group.append(i)
                break
        else:
            members.append([i])
    masks = np.zeros((len(members), gradient.shape[1]), dtype=bool)
    for row, group in enumerate(members):
        masks[row, live[group]] = True
    deltas = np.array([columns[group].mean(axis=0) for group in members]).reshape(len(members), len(gradient))
    return Partition(masks=masks, deltas=deltas)


@dataclass(frozen=True, kw_only=True, eq=False)
class Path:
    """Groups placed so far: `slots[i]` is the step of group `groups[i]`; the membrane after the last of them."""

    groups: tuple[int, ...]
    slots: tuple[int, ...]
    membrane: Array64
    residual: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Chronology:
    """Places groups in time.

    Attributes:
        simulator: The known network.
        found: The groups.
        steps: Number of steps T.
    """

    simulator: Simulator
    found: Partition
    steps: int

    @property
    def conclusive(self) -> bool:
        """Whether the layer above leaves equations over."""
        above, hidden = self.simulator.next_weight.shape
        return bool(above + _MARGIN <= hidden)

    def place(self, end_s: float) -> Path | None:
        """The path that contradicts the chain least; `None` when the chain says nothing or there is no path.

        The first group is tried at step 0 and with short gaps first; later starts and longer gaps only when that fails.

        Args:
            end_s: Reading of `attack.clock.now_s` at which to stop.
        """
        if not self.conclusive or not 0 < len(self.found.masks) <= self.steps:
            return None
        slack = self.steps - len(self.found.masks)
        stages = ((range(1), min(_SHORT, slack)), (range(1), slack), (range(slack + 1), slack))
        best: Path | None = None
        for starts, gap in dict.fromkeys(stages):
            path = self._search(starts, gap, end_s)
            best = min((p for p in (best, path) if p is not None), key=lambda p: p.residual, default=None)
            if best is not None and best.residual < _ROUNDING:
                break
        return best

    def _search(self, starts: range, gap: int, end_s: float) -> Path | None:
        currents = self.simulator.current(self.found.masks.astype(np.float64))
        paths = [self._first(start, group, currents[group]) for start in starts for group in range(len(currents))]
        for _ in range(len(currents) - 1):
            longer: list[Path] = []
            for path in paths:
                if now_s() > end_s:
                    return None
                longer += self._longer(path, currents, gap)
            paths = _best(longer)
        ended = [self._ended(path) for path in paths]
        return min(ended, key=lambda path: path.residual, default=None)

    def _first(self, start: int, group: int, current: Array64) -> Path:
        membrane = np.zeros_like(current)
        for _ in range(start):
            membrane = self.simulator.step(membrane, self.simulator.biases[0])
        membrane = self.simulator.step(membrane, current)
        return Path(groups=(group,), slots=(start,), membrane=membrane, residual=0.0)

    def _longer(self, path: Path, currents: Array64, gap: int) -> list[Path]:
        """The path with each group that is left, after each possible gap of at most `gap` silent steps."""
        rest = [g for g in range(len(currents)) if g not in path.groups]
        last = min(self.steps - len(rest), path.slots[-1] + 1 + gap)
        longer: list[Path] = []
        design, decay, membrane = self._begin(path)
        for slot in range(path.slots[-1] + 1, last + 1):
            if design.shape[1] + _MARGIN > len(decay):
                break
            residuals = self._residuals(path, design, decay[:, None] * self.found.deltas[rest].T)
            for group, residual in zip(rest, residuals, strict=True):
                after = self.simulator.step(membrane, currents[group])
                spend(calls(8))
                longer.append(
                    Path(
                        groups=(*path.groups, group),
                        slots=(*path.slots, slot),
                        membrane=after,
                        residual=max(path.residual, float(residual)),
                    )
                )
            design, decay, membrane = self._silent(design, decay, membrane)
        return longer

    def _ended(self, path: Path) -> Path:
        """The path with the chain's end taken into account: nothing flows back from beyond the last step."""
        design, decay, membrane = self._begin(path)
        for _ in range(self.steps - 1 - path.slots[-1]):
            design, decay, membrane = self._silent(design, decay, membrane)
        if design.shape[1] + _MARGIN > len(decay):
            return path
        residual = float(self._residuals(path, design, np.zeros((len(decay), 1)))[0])
        return Path(groups=path.groups, slots=path.slots, membrane=path.membrane, residual=max(path.residual, residual))

    def _begin(self, path: Path) -> tuple[Array64, Array64, Array64]:
        return self._gain(path.membrane), self._decay(path.membrane), path.membrane

    def _silent(self, design: Array64, decay: Array64, membrane: Array64) -> tuple[Array64, Array64, Array64]:
        """One more step without input."""
        membrane = self.simulator.step(membrane, self.simulator.biases[0])
        wider = np.concatenate([design, decay[:, None] * self._gain(membrane)], axis=1)
        return wider, decay * self._decay(membrane), membrane

    def _gain(self, membrane: Array64) -> Array64:
        return np.asarray(self.simulator.surrogate(membrane)[:, None] * self.simulator.next_weight.T)

    def _decay(self, membrane: Array64) -> Array64:
        neuron = self.simulator.neuron
        kept = (membrane <= neuron.threshold) if neuron.reset == "zero" else np.ones(len(membrane))
        return np.asarray(neuron.beta * kept)

    def _residuals(self, path: Path, design: Array64, successors: Array64) -> Array64:
        """Relative residual of the chain for each possible successor `[H, candidates]`."""
        delta = self.found.deltas[path.groups[-1]]
        wanted = delta[:, None] - successors
        basis, _ = np.linalg.qr(design)
        spend(
            calls(40, 6 * wanted.size)
            + triangular(len(basis), 2 * basis.shape[1])
            + 2 * product(*basis.shape, wanted.shape[1])
        )
        outside = wanted - basis @ (basis.T @ wanted)
        return np.asarray(np.linalg.norm(outside, axis=0) / np.linalg.norm(delta))


def _best(paths: list[Path]) -> list[Path]:
    if not paths:
        return []
    ordered = sorted(paths, key=lambda path: path.residual)
    limit = _WORSE * ordered[0].residual + _ROUNDING
    return [path for path in ordered[:_KEEP] if path.residual <= limit]
