"""How many entries of each layer's input were not 0, and in how many products they took part."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.models.layout import LayerSpec

_HELD = 2**13
"""Levels that are counted together, at most: what a small processor's nearest cache holds."""
_BYTE, _EXACT = 2**8 - 1, 2**24
"""Sums of whole numbers up to these are exact in bytes and in float32."""
_SAME_SIZE: dict[int, type[np.unsignedinteger[Any]]] = {1: np.uint8, 4: np.uint32}
"""A number whose bits are 0 is 0, and is counted faster as an integer."""


def dense_products(layer: LayerSpec) -> int:
    """Multiplications of one layer for one sample and one step, without those with padding."""
    return math.prod(layer.weight_shape) if layer.kind == "linear" else int(fan_out(layer).sum())


@functools.lru_cache(maxsize=64)
def fan_out(layer: LayerSpec) -> NDArray[np.int64]:
    """How many products each input of a layer takes part in, flat; fewer at the borders of a convolution.

    Args:
        layer: The layer.

    Returns:
        `[inputs]`, kept for the next who asks, and read-only.
    """
    if layer.kind == "linear":
        found = np.full(math.prod(layer.inputs), layer.weight_shape[0], dtype=np.int64)
    else:
        sides = zip(layer.inputs[1:], layer.outputs[1:], strict=True)
        rows, columns = (_reached(layer, into, out) for into, out in sides)
        plane = layer.weight_shape[0] * np.outer(rows, columns)
        found = np.tile(plane.reshape(-1), layer.inputs[0])
    found.flags.writeable = False
    return found


def _reached(layer: LayerSpec, into: int, out: int) -> NDArray[np.int64]:
    """Along one side: to how many outputs each of `into` positions contributes."""
    positions = layer.stride * np.arange(out)[:, None] - layer.padding + np.arange(layer.kernel)
    return np.bincount(positions[(positions >= 0) & (positions < into)], minlength=into).astype(np.int64)


class LayerInputs:
    """What entered one layer.

    Args:
        layer: The layer.
        steps: See below.
        columns: Whether its entries come with samples innermost: behind a convolution.
        spikes: Whether they are spikes, 0 or 1; else levels, of which each that is not 0 counts once.

    Attributes:
        steps: Steps at which its products are formed.
        count: Inputs.
        products: For one sample and one step.
    """

    def __init__(self, layer: LayerSpec, *, steps: int, columns: bool, spikes: bool) -> None:
        self._fan = fan_out(layer)
        self.steps, self.count, self.products = steps, len(self._fan), dense_products(layer)
        self._columns, self._spikes = columns, spikes
        # Whole numbers, exact below 2^53: of each place where the products differ, else of all together.
        self._active, self._places = 0.0, None if layer.kind == "linear" else np.zeros(self.count)
        self._levels = np.empty((0, 0), np.float32)
        self._held = self._batch = 0

    @property
    def active(self) -> int:
        """Entries that were not 0, so far."""
        return int(self._active if self._places is None else self._places.sum())

    @property
    def effective(self) -> int:
        """Products of these."""
        return int(self._active * self._fan[0] if self._places is None else self._places @ self._fan)

    def add(self, x: NDArray[np.float32] | NDArray[np.uint8], rows: int, batch: int) -> None:
        """Counts entries, spikes or levels.

        Args:
            x: `rows` times as many numbers as the layer has inputs.
            rows: Steps times samples.
            batch: Samples that are innermost where samples are.

        Raises:
            ValueError: They are not as many.
        """
        if x.size != rows * self.count:
            raise ValueError(f"shape {x.shape}: expected {rows} times {self.count} numbers")
        if self._places is not None:
            self._places += self._at_places(x if self._spikes else x != 0, batch)
        elif self._spikes and x.itemsize > 1:
            self._active += float(x.sum(dtype=np.float32 if x.size < _EXACT else np.float64))
        else:
            self._active += np.count_nonzero(x.reshape(-1).view(_SAME_SIZE[x.itemsize]))

    def add_spikes(self, count: NDArray[np.float32], batch: int) -> None:
        """Adds spikes that were counted already, in float32.

        Args:
            count: How many entries were 1: a scalar where all take part in as many products, else `[inputs]`.
            batch: Samples in it.

        Raises:
            ValueError: It is not as many numbers, or so large that float32 may have lost a spike.
        """
        if self._places is None:
            if count.shape:
                raise ValueError(f"counts of shape {count.shape}: expected a scalar")
            most = float(count)
            self._active += most
        else:
            if count.shape != self._places.shape:
                raise ValueError(f"counts of shape {count.shape}: expected [{self.count}]")
            most = float(self.steps * batch)
            self._places += count
        if most >= _EXACT:
            raise ValueError(f"{most:.0f} spikes in one sum: float32 counts below {_EXACT}; use smaller batches")

    def hold(self, x: NDArray[np.float32], batch: int) -> None:
        """Copies the levels of one batch, to be counted together with others' by `settle`.

        Raises:
            ValueError: They are not `batch` times as many as the layer has inputs.
        """
        if batch != self._batch:
            self.settle()
            width = batch * self.count
            self._batch, self._levels = batch, np.empty((max(1, _HELD // width), width), np.float32)
        if x.size != self._levels.shape[1]:
            raise ValueError(f"shape {x.shape}: expected {batch} times {self.count} numbers")
        self._levels[self._held] = x
        self._held += 1
        if self._held == len(self._levels):
            self.settle()

    def settle(self) -> None:
        """Counts what is held."""
        held, self._held = self._held, 0
        if held:
            self.add(self._levels[:held], held * self._batch, self._batch)

    def _at_places(self, ones: NDArray[Any], batch: int) -> NDArray[Any]:
        """How often each input was active, `[inputs]`. Sums, not products: these would start threads."""
        if self._columns:
            summed: NDArray[Any] = ones.reshape(-1, self.count * batch).sum(0)
            return np.asarray(summed.reshape(self.count, batch).sum(1))
        rows = ones.reshape(-1, self.count)
        if rows.dtype.itemsize > 1:
            return np.asarray(rows.sum(0))
        bytes_ = rows.view(np.uint8)  # added up as bytes, in blocks whose sums are none but bytes
        if len(bytes_) <= _BYTE:
            return np.asarray(np.add.reduce(bytes_, axis=0, dtype=np.uint8))
        blocks = [bytes_[i : i + _BYTE].sum(0, dtype=np.uint8) for i in range(0, len(bytes_), _BYTE)]
        return np.asarray(np.sum(blocks, axis=0, dtype=np.int64))
