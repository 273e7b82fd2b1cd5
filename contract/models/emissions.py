"""What hidden layers emitted, pass by pass, as the engine shows it."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from contract.models.activity import EXACT, LayerEntry, LayerInputs

_KEPT_BYTES, _KEPT = 2**16, 64
"""Passes that are kept are added up when they take so many bytes, or are so many."""


class Emissions(Protocol):
    """What entered one layer behind another, over all passes."""

    @property
    def active(self) -> int:
        """Entries that were not 0, of the passes that were added up."""
        ...

    @property
    def effective(self) -> int:
        """Products of these."""
        ...

    def see(self, found: NDArray[Any], batch: int) -> None:
        """What one pass over so many samples emitted; `found` may be written again afterwards.

        Raises:
            ValueError: Another shape than such a layer's.
        """
        ...

    def add_up(self) -> None:
        """Counts what was seen.

        Raises:
            ValueError: Another shape than such a layer's, or a sum too large to be exact.
        """
        ...


def emissions(entry: LayerEntry) -> Emissions:
    """Those that enter a layer."""
    if not entry.alike:
        return _Positions(entry) if entry.spikes else _Columns(entry)
    return _Spikes(entry) if entry.spikes else _Levels(entry)


class _Spikes:
    """Numbers of spikes: each takes part in as many products."""

    def __init__(self, entry: LayerEntry) -> None:
        self._entry, self._told, self.active = entry, [0.0], 0

    @property
    def effective(self) -> int:
        """See `Emissions`."""
        return self.active * self._entry.channels

    def see(self, found: NDArray[Any], _batch: int) -> None:
        """See `Emissions`: `[]`."""
        if found.ndim:
            raise ValueError(f"spikes of shape {found.shape}: expected their number, a scalar")
        self._told.append(found.item())

    def add_up(self) -> None:
        """See `Emissions`."""
        if (most := max(self._told)) >= EXACT:
            raise ValueError(f"{most:.0f} spikes in one sum: float32 counts below {EXACT}; use smaller batches")
        self.active += int(sum(self._told))
        self._told = [0.0]


class _Levels:
    """An ANN's activations, read where they are: as many memory accesses as to keep them."""

    def __init__(self, entry: LayerEntry) -> None:
        self._entry, self.active, self._batch = entry, 0, 0
        self._found = self._bits = np.zeros(0, np.uint32)

    @property
    def effective(self) -> int:
        """See `Emissions`."""
        return self.active * self._entry.channels

    def see(self, found: NDArray[Any], batch: int) -> None:
        """See `Emissions`: `[1, B * neurons]`, float32."""
        if found is not self._found or batch != self._batch:
            if found.size != batch * self._entry.count:
                raise ValueError(f"activations of shape {found.shape}: expected {batch} times {self._entry.count}")
            self._batch = batch
            self._found, self._bits = found, found.view(np.uint32)  # faster, and only 0 has no bits
        self.active += int(np.count_nonzero(self._bits))

    def add_up(self) -> None:
        """See `Emissions`."""


class _Kept:
    """Passes in a row, which are added up together."""

    def __init__(self, entry: LayerEntry) -> None:
        self._entry, self._room = entry, np.zeros(0)
        self._most = self._held = self._batch = 0

    def see(self, found: NDArray[Any], batch: int) -> None:
        """See `Emissions`."""
        if batch != self._batch:
            self.add_up()
            self._batch, self._most = batch, min(_KEPT, max(1, _KEPT_BYTES // max(1, found.nbytes)))
            self._room = np.empty((self._most, *found.shape), found.dtype)
        self._room[self._held] = found
        self._held += 1
        if self._held == self._most:
            self.add_up()

    def add_up(self) -> None:
        """See `Emissions`."""
        held, self._held = self._held, 0
        if held:
            self._add(self._room[:held])

    def _add(self, passes: NDArray[Any]) -> None:
        raise NotImplementedError


class _Positions(_Kept):
    """Spikes that enter a convolution, as `[2, B]`: at how many positions those of each sample take part; how many."""

    def __init__(self, entry: LayerEntry) -> None:
        super().__init__(entry)
        self.active = self.effective = 0

    def _add(self, passes: NDArray[Any]) -> None:
        if passes.shape[1:] != (2, self._batch):
            raise ValueError(f"counts of shape {passes.shape[1:]}: expected [2, {self._batch}], positions and spikes")
        positions, spikes = passes.sum((0, 2), dtype=np.float64).tolist()
        self.effective += int(positions) * self._entry.channels
        self.active += int(spikes)


class _Columns(_Kept):
    """An ANN's activations that enter a convolution, `[1, neurons * B]`."""

    def __init__(self, entry: LayerEntry) -> None:
        super().__init__(entry)
        self._inputs = LayerInputs(entry)

    @property
    def active(self) -> int:
        """See `Emissions`."""
        return self._inputs.active

    @property
    def effective(self) -> int:
        """See `Emissions`."""
        return self._inputs.effective

    def _add(self, passes: NDArray[Any]) -> None:
        self._inputs.add(passes, len(passes) * self._batch, self._batch)
