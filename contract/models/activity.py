"""How many entries of each layer's input were not 0, and in how many products they took part."""

from __future__ import annotations

import functools
import math
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from contract.models.emissions import EXACT
from contract.models.layout import LayerSpec

_BYTE = 2**8 - 1
"""Sums of whole numbers up to this one are exact in bytes."""


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


class LayerEntry(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Where a layer's inputs enter it.

    Attributes:
        fan: How many products each input takes part in, `[inputs]`.
        channels: Outputs that each of them leads to at one position.
        alike: Whether all take part in as many, so that it does not matter which of them were active.
        steps: Steps at which its products are formed.
        count: Inputs.
        products: For one sample and one step.
        columns: Whether its entries come with samples innermost: behind a convolution.
        spikes: Whether they are spikes, 0 or 1; else levels, of which each that is not 0 counts once.
    """

    fan: NDArray[np.int64]
    channels: int
    alike: bool
    steps: int
    count: int
    products: int
    columns: bool
    spikes: bool

    @classmethod
    def of(cls, layer: LayerSpec, *, steps: int, columns: bool, spikes: bool) -> LayerEntry:
        """That of a layer; `steps`, `columns` and `spikes` as above."""
        fan = fan_out(layer)
        return cls(
            fan=fan,
            channels=layer.weight_shape[0],
            alike=layer.kind == "linear",
            steps=steps,
            count=len(fan),
            products=dense_products(layer),
            columns=columns,
            spikes=spikes,
        )


Activity = float | NDArray[np.float64]
"""How often inputs of a layer were not 0: all together where each takes part in as many products, else each of them,
`[inputs]`. Whole numbers, exact below 2^53; not finite where a network diverged."""


def activity_of_frames(entry: LayerEntry, x: NDArray[np.float32] | NDArray[np.uint8], rows: int) -> Activity:
    """That of the first layer, whose samples are outermost.

    Args:
        entry: The layer's.
        x: Spikes or levels: `rows` times as many numbers as the layer has inputs.
        rows: Steps times samples.

    Raises:
        ValueError: They are not as many.
    """
    if x.size != rows * entry.count:
        raise ValueError(f"shape {x.shape}: expected {rows} times {entry.count} numbers")
    if not entry.alike:
        return _at_places(x if entry.spikes else x != 0, entry.count).astype(np.float64)
    if x.itemsize == 1:
        return int(np.count_nonzero(x))  # a number of numpy's own takes ten times as long to add
    if entry.spikes:
        return float(x.sum(dtype=np.float32 if x.size < EXACT else np.float64))
    return int(np.count_nonzero(x.view(np.uint32)))  # bits, faster, and only 0 has none


def activity_of_counts(entry: LayerEntry, counts: NDArray[np.float32], batch: int, most: int) -> Activity:
    """That of a layer behind a hidden one.

    Args:
        entry: The layer's.
        counts: How often each input was active, `[1, batch * inputs]`, or `[1, inputs * batch]` where samples are
            innermost.
        batch: Samples.
        most: No count is larger.

    Raises:
        ValueError: They are not as many.
    """
    if counts.size != batch * entry.count:
        raise ValueError(f"counts of shape {counts.shape}: expected {batch} times {entry.count}")
    if entry.alike:
        exact = np.float32 if most * counts.size < EXACT else np.float64
        return float(np.add.reduce(counts, axis=None, dtype=exact))
    split = counts.reshape((entry.count, batch) if entry.columns else (batch, entry.count))
    return np.asarray(split.sum(1 if entry.columns else 0, dtype=np.float64))


def _at_places(ones: NDArray[Any], count: int) -> NDArray[Any]:
    """How often each of so many inputs was active. Sums, not products: these would start threads."""
    rows = ones.reshape(-1, count)
    if rows.dtype.itemsize > 1:
        return np.asarray(rows.sum(0))
    bytes_ = rows.view(np.uint8)  # added up as bytes, in blocks whose sums are none but bytes
    if len(bytes_) <= _BYTE:
        return np.asarray(np.add.reduce(bytes_, axis=0, dtype=np.uint8))
    blocks = [bytes_[i : i + _BYTE].sum(0, dtype=np.uint8) for i in range(0, len(bytes_), _BYTE)]
    return np.asarray(np.sum(blocks, axis=0, dtype=np.int64))
