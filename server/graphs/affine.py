"""Layers with parameters as nodes: forward, and the gradients of parameters and input. Rows are samples (and steps)."""

from __future__ import annotations

import math
from typing import Protocol

from contract.models.layout import LayerSpec
from server.graphs.builder import Graph, Value


class Affine(Protocol):
    """``y = W x + b`` of one layer, with ``N`` rows."""

    def forward(self, x: Value) -> Value:
        """From `[N, inputs]`, of any shape with as many elements, to `[N, *outputs]`; once only."""
        ...

    def parameter_gradients(self, delta: Value) -> tuple[Value, Value]:
        """Of weight and bias, summed over the rows, from ``delta`` of as many elements as the output."""
        ...

    def input_gradient(self, delta: Value) -> Value:
        """``W^T delta``, `[N, inputs]`."""
        ...


class Linear:
    """One product over all rows.

    Args:
        graph: Where the nodes go.
        spec: The layer.
        weight: Its weight, as it multiplies.
        bias: Its bias.
    """

    def __init__(self, graph: Graph, spec: LayerSpec, weight: Value, bias: Value) -> None:
        self._graph, self._weight, self._bias = graph, weight, bias
        self._inputs, self._outputs = math.prod(spec.inputs), math.prod(spec.outputs)
        self._rows = ""

    def forward(self, x: Value) -> Value:
        """See `Affine`."""
        self._rows = self._graph.reshape(x, -1, self._inputs)
        return self._graph.node("Gemm", self._rows, self._weight, self._bias, transB=1)

    def parameter_gradients(self, delta: Value) -> tuple[Value, Value]:
        """See `Affine`."""
        rows = self._graph.reshape(delta, -1, self._outputs)
        return self._graph.node("Gemm", rows, self._rows, transA=1), self._graph.total(rows, 0)

    def input_gradient(self, delta: Value) -> Value:
        """See `Affine`."""
        rows = self._graph.reshape(delta, -1, self._outputs)
        return self._graph.node("MatMul", rows, self._weight)
