"""What hidden layers emitted in several passes over batches, as an engine tells it."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

EXACT = 2**24
"""Whole numbers up to this one are exact in float32."""


class Emitted(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Of passes over batches of one size.

    Attributes:
        batch: Samples of each pass.
        passes: How many there were.
        counts: Of each hidden layer how often each neuron emitted a spike over all steps and passes, for each place in
            the batch, `[1, batch * neurons]`, samples before neurons; of a convolution neurons before samples,
            `[1, neurons * batch]`. Of an ANN in how many passes its activation was not 0. Whole numbers, exact.
    """

    batch: int
    passes: int
    counts: tuple[NDArray[np.float32], ...]


class EmittedSums:
    """Adds up what passes emit, in place.

    Args:
        widths: Neurons of each hidden layer.
        steps: Steps of a pass; 1 of an ANN.

    Attributes:
        counts: What to add to, as in `Emitted`, after `begin`.
    """

    def __init__(self, widths: tuple[int, ...], steps: int) -> None:
        self._widths, self._most = widths, EXACT // steps
        self._batch = self._passes = 0
        self._aside: list[Emitted] = []
        self.counts: tuple[NDArray[np.float32], ...] = ()

    def begin(self, batch: int) -> None:
        """Passes from now on are over so many samples; `counts` are other arrays."""
        self._set_aside()
        self._batch = batch
        self.counts = tuple(np.zeros((1, batch * width), np.float32) for width in self._widths)

    def passed(self) -> None:
        """One pass has been added to `counts`."""
        self._passes += 1
        if self._passes == self._most:
            self._set_aside()

    def take(self) -> tuple[Emitted, ...]:
        """All since it was last asked."""
        self._set_aside()
        found, self._aside = tuple(self._aside), []
        return found

    def _set_aside(self) -> None:
        if not self._passes:
            return
        counts = tuple(array.copy() for array in self.counts)
        self._aside.append(Emitted(batch=self._batch, passes=self._passes, counts=counts))
        self._passes = 0
        for array in self.counts:
            array.fill(0)
