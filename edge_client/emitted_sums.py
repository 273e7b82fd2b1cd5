"""What an engine keeps of what hidden layers emit, from pass to pass."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from contract.models.emissions import EXACT, Emitted
from edge_client import aligned


class EmittedSums:
    """Adds up what passes emit, in place.

    Args:
        widths: Neurons of each hidden layer.
        steps: Steps of a pass; 1 of an ANN.

    Attributes:
        counts: What a pass is to add to, as in `Emitted`, after `begin` and `open_pass`.
    """

    def __init__(self, widths: tuple[int, ...], steps: int) -> None:
        self._widths, self._most = widths, EXACT // steps
        self._batch = self._passes = 0
        self._taken = False
        self._aside: list[Emitted] = []
        self.counts: tuple[NDArray[np.float32], ...] = ()

    def begin(self, batch: int) -> None:
        """Passes from now on are over so many samples; of another number than before `counts` are other arrays."""
        if batch == self._batch:
            return
        if self._passes:
            self._aside.append(self._together(self.counts))
        self._batch = batch
        self.counts = tuple([aligned.zeros((1, batch * width)) for width in self._widths])
        self._passes, self._taken = 0, False

    def open_pass(self) -> None:
        """A pass adds to `counts` now."""
        if self._passes == self._most:
            self._aside.append(self._together(tuple(array.copy() for array in self.counts)))
            self._passes, self._taken = 0, True
        if self._taken:
            for array in self.counts:
                array.fill(0)
            self._taken = False
        self._passes += 1

    def take(self) -> tuple[Emitted, ...]:
        """All since it was last asked; the last arrays are written again by the next pass."""
        found = (*self._aside, self._together(self.counts)) if self._passes else tuple(self._aside)
        self._passes, self._taken, self._aside = 0, True, []
        return found

    def _together(self, counts: tuple[NDArray[np.float32], ...]) -> Emitted:
        return Emitted(batch=self._batch, passes=self._passes, counts=counts)
