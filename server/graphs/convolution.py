"""Strided convolutions as products over patches, with the samples innermost.

With activity as ``[S, features, B]``, patches are a gather of blocks of B, and one product a step does all positions
and samples, while a cache still holds them. Let ``s`` be the stride, ``p`` the padding, ``k`` the kernel's side::

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
from server.graphs.neurons import UNROLLED


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
        self._patches: list[Value] = []

    def forward(self, x: Value) -> Value:
        """See `server.graphs.affine.Affine`."""
        graph, spec = self._graph, self._spec
        if not self._place.columns:
            rows = graph.reshape(x, self._steps, -1, math.prod(spec.inputs))
            x = graph.node("Transpose", rows, perm=[0, 2, 1])
        taps = np.arange(spec.kernel) - spec.padding
        places = [spec.stride * np.arange(side) + taps[:, None] for side in spec.outputs[1:]]
        self._patches = self._gathered(x, spec.inputs, places, ones=True)
        flat = graph.reshape(self._weight, spec.outputs[0], -1)
        rows = graph.node("Concat", flat, graph.reshape(self._bias, -1, 1), axis=1)
        return graph.reshape(self._product(rows, self._patches), self._steps, -1)

    def parameter_gradients(self, delta: Value) -> tuple[Value, Value]:
        """See `server.graphs.affine.Affine`."""
        graph, spec = self._graph, self._spec
        channels = graph.reshape(delta, self._steps, spec.outputs[0], -1)
        deltas = [graph.node("Transpose", part, perm=[0, 2, 1]) for part in self._apart(channels)]
        each = [graph.node("MatMul", patches, part) for patches, part in zip(self._patches, deltas, strict=True)]
        turned = graph.node("Transpose", graph.total(graph.node("Sum", *each), 0), perm=[1, 0])
        sizes = graph.integers(math.prod(spec.weight_shape[1:]), 1)
        weight, bias = graph.nodes("Split", [turned, sizes], 2, axis=1)
        return graph.reshape(weight, *spec.weight_shape), graph.reshape(bias, -1)

    def input_gradient(self, delta: Value) -> Value:
        """See `server.graphs.affine.Affine`."""
        graph, spec, s = self._graph, self._spec, self._spec.stride
        first, last = -((spec.kernel - 1 - spec.padding) // s), (s - 1 + spec.padding) // s
        shifts = np.arange(first, last + 1)
        blocks = [-(-side // s) for side in spec.inputs[1:]]
        places = [np.arange(count) + shifts[:, None] for count in blocks]
        near = self._gathered(delta, spec.outputs, places, ones=False)
        phases = self._product(self._phase_weights(shifts), near)
        phases = graph.reshape(phases, self._steps, s * s * spec.inputs[0] * math.prod(blocks), -1)
        return graph.reshape(graph.node("Gather", phases, self._interleaved(blocks), axis=1), self._steps, -1)

    def _gathered(
        self, x: Value, shape: tuple[int, ...], places: list[NDArray[np.int64]], *, ones: bool
    ) -> list[Value]:
        """Blocks at ``places[0] x places[1]``, each `[taps, positions]` of one axis: `[S, C * taps, positions * B]`.

        In parts, see `_apart`; with a row of ones behind them where that is asked for.
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
        flat = graph.reshape(x, self._steps, features, -1)
        size = graph.node("Concat", graph.integers(self._steps, 1), graph.node("Shape", flat, start=2), axis=0)
        rest = graph.node("Expand", graph.constant(np.array([[0], [1]], dtype=np.float32)), size)
        parts = self._apart(graph.node("Concat", flat, rest, axis=1))
        chosen = [graph.node("Gather", part, index, axis=1) for part in parts]
        return [graph.reshape(part, self._steps // len(parts), taps, -1) for part in chosen]

    def _product(self, weights: Value, patches: list[Value]) -> Value:
        """Weights times patches of all parts, `[S, outputs, positions * B]`."""
        each = [self._graph.node("MatMul", weights, part) for part in patches]
        return each[0] if len(each) == 1 else self._graph.node("Concat", *each, axis=0)

    def _apart(self, x: Value) -> list[Value]:
        """Step by step, so that what is gathered is multiplied before it leaves the cache; many steps as one."""
        if self._steps == 1 or self._steps > UNROLLED:
            return [x]
        return self._graph.nodes("Split", [x], self._steps, axis=0, num_outputs=self._steps)

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
