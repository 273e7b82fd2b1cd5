"""Strided convolutions as products over patches, with steps and samples innermost.

With activity as ``[features, S B]``, patches are a gather of blocks of S B numbers, and one product does all positions,
steps and samples. Let ``s`` be the stride, ``p`` the padding, ``k`` the kernel's side::

    forward   y[o, (y,x)] = sum_{c,i,j} W[o,c,i,j] x[c, (s y + i - p, s x + j - p)]
    weight    dW[o,c,i,j] = sum_{y,x} delta[o, (y,x)] x[c, (s y + i - p, s x + j - p)]      and over steps and samples
    input     dx[c, (s a + f, s b + g)] = sum_{o,d,e} W[o, c, f + p - s d, g + p - s e] delta[o, (a+d, b+e)]

The patches of the first serve the second. The third is a convolution of stride 1 with ``s^2 C`` outputs, one a phase
``(f, g)`` and channel (sub-pixel convolution, Shi et al. 2016, arXiv 1609.05158), so nothing is added up by scattering.
Behind the features stand a block of zeros, for positions outside the image and taps outside the kernel, and one of
ones, whose weight is the bias.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from server.graphs.affine import Place
from server.graphs.builder import Graph, Value


class Convolution:
    """One convolution.

    Args:
        graph: Where the nodes go.
        place: The layer.
        weight: Its weight, as it multiplies.
        bias: Its bias.
    """

    columns = True

    def __init__(self, graph: Graph, place: Place, weight: Value, bias: Value) -> None:
        self._graph, self._place, self._weight, self._bias = graph, place, weight, bias
        self._spec, self._steps = place.spec, place.steps
        self._patches = self._delta = ""

    def forward(self, x: Value) -> Value:
        """See `server.graphs.affine.Affine`."""
        graph, spec = self._graph, self._spec
        taps = np.arange(spec.kernel) - spec.padding
        places = [spec.stride * np.arange(side) + taps[:, None] for side in spec.outputs[1:]]
        inputs = self._within(x, spec.inputs, columns=self._place.columns)
        self._patches = self._gathered(inputs, spec.inputs, places, ones=True)
        flat = graph.reshape(self._weight, spec.outputs[0], -1)
        rows = graph.node("Concat", flat, graph.reshape(self._bias, -1, 1), axis=1)
        return self._outside(graph.node("MatMul", rows, self._patches), spec.outputs)

    def parameter_gradients(self, delta: Value) -> tuple[Value, Value]:
        """See `server.graphs.affine.Affine`."""
        graph, spec = self._graph, self._spec
        self._delta = self._within(delta, spec.outputs, columns=True)
        turned = graph.node("Transpose", graph.reshape(self._delta, spec.outputs[0], -1), perm=[1, 0])
        both = graph.node("Transpose", graph.node("MatMul", self._patches, turned), perm=[1, 0])
        sizes = graph.integers(math.prod(spec.weight_shape[1:]), 1)
        weight, bias = graph.nodes("Split", [both, sizes], 2, axis=1)
        return graph.reshape(weight, *spec.weight_shape), graph.reshape(bias, -1)

    def input_gradient(self, delta: Value) -> Value:
        """See `server.graphs.affine.Affine`."""
        graph, spec, s = self._graph, self._spec, self._spec.stride
        first, last = -((spec.kernel - 1 - spec.padding) // s), (s - 1 + spec.padding) // s
        shifts = np.arange(first, last + 1)
        blocks = [-(-side // s) for side in spec.inputs[1:]]
        places = [np.arange(count) + shifts[:, None] for count in blocks]
        within = self._delta or self._within(delta, spec.outputs, columns=True)
        near = self._gathered(within, spec.outputs, places, ones=False)
        phases = graph.node("MatMul", self._phase_weights(shifts), near)
        phases = graph.reshape(phases, s * s * spec.inputs[0] * math.prod(blocks), -1)
        return self._outside(graph.node("Gather", phases, self._interleaved(blocks), axis=0), spec.inputs)

    def _gathered(self, x: Value, shape: tuple[int, ...], places: list[NDArray[np.int64]], *, ones: bool) -> Value:
        """Blocks at ``places[0] x places[1]``, each `[taps, positions]` of one axis: `[C * taps, positions * S * B]`.

        With a row of ones behind them where that is asked for.
        """
        graph, (channels, height, width) = self._graph, shape
        features = math.prod(shape)
        inside = [(at >= 0) & (at < side) for at, side in zip(places, (height, width), strict=True)]
        rows = np.where(inside[0], places[0] * width, features)
        columns = np.where(inside[1], places[1], features)
        anywhere = self._added(height * width * np.arange(channels), rows, columns)
        index = graph.node("Min", anywhere, graph.integers(features))
        taps = channels * len(rows) * len(columns)
        if ones:
            positions = rows.shape[1] * columns.shape[1]
            index = graph.node("Concat", index, graph.constant(np.full(positions, features + 1)), axis=0)
            taps += 1
        size = graph.node("Concat", graph.integers(2), graph.node("Shape", x, start=1), axis=0)
        beyond = graph.node("Expand", graph.constant(np.array([[0], [1]], dtype=np.float32)), size)
        blocks = graph.node("Gather", graph.node("Concat", x, beyond, axis=0), index, axis=0)
        return graph.reshape(blocks, taps, -1)

    def _within(self, x: Value, shape: tuple[int, ...], *, columns: bool) -> Value:
        """Activity `[S, N]` as `[features, S * B]`."""
        graph, features = self._graph, math.prod(shape)
        split = graph.reshape(x, self._steps, *((features, -1) if columns else (-1, features)))
        return graph.reshape(graph.node("Transpose", split, perm=[1, 0, 2] if columns else [2, 0, 1]), features, -1)

    def _outside(self, x: Value, shape: tuple[int, ...]) -> Value:
        """Undoes `_within`, as columns."""
        graph = self._graph
        split = graph.reshape(x, math.prod(shape), self._steps, -1)
        return graph.reshape(graph.node("Transpose", split, perm=[1, 0, 2]), self._steps, -1)

    def _phase_weights(self, shifts: NDArray[np.int64]) -> Value:
        """``W[o, c, f + p - s d, g + p - s e]`` as `[s * s * C, O * shifts * shifts]`."""
        graph, spec, s, count = self._graph, self._spec, self._spec.stride, len(shifts)
        taps = np.arange(s)[:, None] + spec.padding - s * shifts
        index = graph.constant(np.where((taps >= 0) & (taps < spec.kernel), taps, spec.kernel).ravel())
        padded = graph.node("Pad", self._weight, graph.integers(0, 0, 0, 0, 0, 0, 1, 1))
        chosen = graph.node("Gather", graph.node("Gather", padded, index, axis=2), index, axis=3)
        split = graph.reshape(chosen, spec.outputs[0], spec.inputs[0], s, count, s, count)
        return graph.reshape(graph.node("Transpose", split, perm=[2, 4, 1, 0, 3, 5]), s * s * spec.inputs[0], -1)

    def _interleaved(self, blocks: list[int]) -> Value:
        """Where among phases ``(f, g, c)`` and blocks ``(a, b)`` each feature of the input lies."""
        (channels, height, width), s, count = self._spec.inputs, self._spec.stride, math.prod(blocks)
        down, across = np.arange(height), np.arange(width)
        rows = (down % s) * s * channels * count + (down // s) * blocks[1]
        columns = (across % s) * channels * count + across // s
        return self._added(count * np.arange(channels), rows[None], columns[None])

    def _added(self, channels: NDArray[np.int64], rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Value:
        """`[C]`, `[taps, positions]` down and across, added up to all ``(c, i, j, y, x)``; folded when it is loaded."""
        graph = self._graph
        of_position = graph.node("Add", graph.constant(rows[:, None, :, None]), graph.constant(columns[:, None]))
        index = graph.node("Add", graph.constant(channels[:, None, None, None, None]), of_position)
        return graph.reshape(index, -1)
