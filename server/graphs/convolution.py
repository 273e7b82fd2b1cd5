"""Strided convolutions as products over patches, with the samples innermost.

With activity as ``[positions, channels, M]``, M = steps * samples, patches are a gather of whole ``[channels, M]``
blocks, and a product at each position over all steps and samples does the rest. Let ``s`` be the stride, ``p`` the
padding, ``k`` the kernel's side::

    forward   y[(y,x), o, m] = sum_{i,j,c} W[o,c,i,j] x[(s y + i - p, s x + j - p), c, m]
    weight    dW[o,c,i,j]    = sum_{y,x,m} delta[(y,x), o, m] x[(s y + i - p, s x + j - p), c, m]
    input     dx[(s a + f, s b + g), c, m] = sum_{d,e,o} W[o, c, f + p - s d, g + p - s e] delta[(a+d, b+e), o, m]

The patches of the first serve the second. The third is a convolution of stride 1 with ``s^2 C`` outputs, one a phase
``(f, g)`` and channel (sub-pixel convolution, Shi et al. 2016, arXiv 1609.05158), so nothing is added up by scattering.
Positions outside the image, and taps outside the kernel, point at zeros put behind the rest.
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
        self._spec = place.spec
        self._patches = ""
        self._deltas: dict[Value, Value] = {}

    def forward(self, x: Value) -> Value:
        """See `server.graphs.affine.Affine`."""
        graph, place, spec = self._graph, self._place, self._spec
        features = math.prod(spec.inputs)
        if place.columns:
            inner = graph.node("Transpose", graph.reshape(x, place.steps, features, -1), perm=[1, 0, 2])
        else:
            flat = graph.node("Transpose", graph.reshape(x, -1, features), perm=[1, 0])
            split = graph.reshape(flat, spec.inputs[0], features // spec.inputs[0], -1)
            inner = graph.node("Transpose", split, perm=[1, 0, 2])
        taps = np.arange(spec.kernel) - spec.padding
        places = [spec.stride * np.arange(side) + taps[:, None] for side in spec.outputs[1:]]
        self._patches = self._gathered(inner, spec.inputs, places)
        turned = graph.node("Transpose", self._weight, perm=[0, 2, 3, 1])
        product = graph.node("MatMul", graph.reshape(turned, spec.outputs[0], -1), self._patches)
        return self._steps_first(graph.node("Add", product, graph.reshape(self._bias, -1, 1)), spec.outputs)

    def parameter_gradients(self, delta: Value) -> tuple[Value, Value]:
        """See `server.graphs.affine.Affine`."""
        graph, spec, inner = self._graph, self._spec, self._positions_first(delta)
        each = graph.node("MatMul", self._patches, graph.node("Transpose", inner, perm=[0, 2, 1]))
        summed = graph.reshape(graph.total(each, 0), spec.kernel, spec.kernel, *spec.weight_shape[1::-1])
        return graph.node("Transpose", summed, perm=[3, 2, 0, 1]), graph.total(inner, 0, 2)

    def input_gradient(self, delta: Value) -> Value:
        """See `server.graphs.affine.Affine`."""
        graph, spec, s = self._graph, self._spec, self._spec.stride
        first, last = -((spec.kernel - 1 - spec.padding) // s), (s - 1 + spec.padding) // s
        shifts = np.arange(first, last + 1)
        blocks = [-(-side // s) for side in spec.inputs[1:]]
        places = [np.arange(count) + shifts[:, None] for count in blocks]
        near = self._gathered(self._positions_first(delta), spec.outputs, places)
        phases = graph.node("MatMul", self._phase_weights(shifts), near)
        rows, columns = (np.arange(side) for side in spec.inputs[1:])
        block = (rows // s)[:, None] * blocks[1] + columns // s
        order = block * s * s + s * (rows % s)[:, None] + columns % s
        phases = graph.reshape(phases, blocks[0] * blocks[1] * s * s, spec.inputs[0], -1)
        return self._steps_first(graph.node("Gather", phases, graph.constant(order.ravel()), axis=0), spec.inputs)

    def _gathered(self, inner: Value, shape: tuple[int, ...], places: list[NDArray[np.int64]]) -> Value:
        """Blocks at ``places[0] x places[1]``, each `[taps, positions]` of one axis: `[positions, taps * C, M]`."""
        graph, (channels, height, width) = self._graph, shape
        inside = [(at >= 0) & (at < side) for at, side in zip(places, (height, width), strict=True)]
        outside = height * width
        rows = np.where(inside[0], places[0] * width, outside).T[:, None, :, None]
        columns = np.where(inside[1], places[1], outside).T[None, :, None, :]
        total = graph.node("Add", graph.constant(rows), graph.constant(columns))
        index = graph.reshape(graph.node("Min", total, graph.integers(outside)), -1)
        blocks = graph.reshape(inner, outside, channels, -1)
        if not (inside[0].all() and inside[1].all()):
            blocks = graph.node("Pad", blocks, graph.integers(0, 0, 0, 1, 0, 0))
        (taps_down, down), (taps_across, across) = (at.shape for at in places)
        chosen = graph.node("Gather", blocks, index, axis=0)
        return graph.reshape(chosen, down * across, taps_down * taps_across * channels, -1)

    def _phase_weights(self, shifts: NDArray[np.int64]) -> Value:
        """``W[o, c, f + p - s d, g + p - s e]`` as `[s * s * C, shifts * shifts * O]`."""
        graph, spec, s, count = self._graph, self._spec, self._spec.stride, len(shifts)
        taps = np.arange(s)[:, None] + spec.padding - s * shifts
        index = graph.constant(np.where((taps >= 0) & (taps < spec.kernel), taps, spec.kernel).ravel())
        padded = graph.node("Pad", self._weight, graph.integers(0, 0, 0, 0, 0, 0, 1, 1))
        chosen = graph.node("Gather", graph.node("Gather", padded, index, axis=2), index, axis=3)
        split = graph.reshape(chosen, spec.outputs[0], spec.inputs[0], s, count, s, count)
        return graph.reshape(graph.node("Transpose", split, perm=[2, 4, 1, 3, 5, 0]), s * s * spec.inputs[0], -1)

    def _positions_first(self, delta: Value) -> Value:
        """From `[S, N]` to `[positions, C, M]`."""
        if delta not in self._deltas:
            graph, spec = self._graph, self._spec
            turned = graph.node(
                "Transpose", graph.reshape(delta, self._place.steps, self._place.outputs, -1), perm=[1, 0, 2]
            )
            self._deltas[delta] = graph.reshape(turned, math.prod(spec.outputs[1:]), spec.outputs[0], -1)
        return self._deltas[delta]

    def _steps_first(self, x: Value, shape: tuple[int, ...]) -> Value:
        """From `[positions, C, M]` to `[S, N]`."""
        graph, steps = self._graph, self._place.steps
        turned = graph.node("Transpose", graph.reshape(x, math.prod(shape), steps, -1), perm=[1, 0, 2])
        return graph.reshape(turned, steps, -1)
