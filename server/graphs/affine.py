"""Layers with parameters as nodes: forward, and the gradients of parameters and input.

Activity is ``[S, N]`` everywhere, S steps (1 where one stands for all) of ``N = B * features``. Which of the two is the
inner one is up to the layer: a product wants rows of features, a convolution columns of samples, `[S, features, B]`.
Neurons do not care.
"""

from __future__ import annotations

import math
from typing import Protocol

from msgspec import Struct

from contract.models.layout import LayerSpec
from server.graphs.builder import Graph, Value


class Place(Struct, frozen=True, kw_only=True):
    """Where a layer stands.

    Attributes:
        spec: The layer.
        steps: S of its input and output.
        columns: Whether its input comes as `[S, features, B]`, not `[S, B, *shape]`.
    """

    spec: LayerSpec
    steps: int
    columns: bool

    @property
    def outputs(self) -> int:
        """Features that come out."""
        return math.prod(self.spec.outputs)


class Affine(Protocol):
    """``y = W x + b`` of one layer."""

    columns: bool
    """Whether its output comes as `[S, features, B]`."""

    def forward(self, x: Value) -> Value:
        """From `[S, N]`, or frames `[S, B, *shape]`, to `[S, N']`; called once."""
        ...

    def parameter_gradients(self, delta: Value) -> tuple[Value, Value]:
        """Of weight and bias, summed over steps and samples, from ``delta`` `[S, N']`."""
        ...

    def input_gradient(self, delta: Value) -> Value:
        """``W^T delta``, `[S, N]` in the order of the input."""
        ...


def as_rows(graph: Graph, x: Value, steps: int, shape: tuple[int, ...], *, columns: bool) -> Value:
    """Activity as `[S * B, features]`.

    Args:
        graph: Where the nodes go.
        x: `[S, N]`.
        steps: S.
        shape: Of one sample.
        columns: Whether it is `[S, features, B]`.
    """
    if columns:
        x = graph.node("Transpose", graph.reshape(x, steps, math.prod(shape), -1), perm=[0, 2, 1])
    return graph.reshape(x, -1, math.prod(shape))


def from_rows(graph: Graph, rows: Value, steps: int, shape: tuple[int, ...], *, columns: bool) -> Value:
    """Undoes `as_rows`."""
    if columns:
        rows = graph.node("Transpose", graph.reshape(rows, steps, -1, math.prod(shape)), perm=[0, 2, 1])
    return graph.reshape(rows, steps, -1)


class Linear:
    """One product over all steps and samples.

    Args:
        graph: Where the nodes go.
        place: The layer.
        weight: Its weight, as it multiplies.
        bias: Its bias.
    """

    columns = False

    def __init__(self, graph: Graph, place: Place, weight: Value, bias: Value) -> None:
        self._graph, self._place, self._weight, self._bias = graph, place, weight, bias
        self._rows = ""

    def forward(self, x: Value) -> Value:
        """See `Affine`."""
        graph, place = self._graph, self._place
        self._rows = as_rows(graph, x, place.steps, place.spec.inputs, columns=place.columns)
        current = graph.node("Gemm", self._rows, self._weight, self._bias, transB=1)
        return graph.reshape(current, place.steps, -1)

    def parameter_gradients(self, delta: Value) -> tuple[Value, Value]:
        """See `Affine`."""
        rows = self._graph.reshape(delta, -1, self._place.outputs)
        return self._graph.node("Gemm", rows, self._rows, transA=1), self._graph.total(rows, 0)

    def input_gradient(self, delta: Value) -> Value:
        """See `Affine`."""
        graph, place = self._graph, self._place
        rows = graph.node("MatMul", graph.reshape(delta, -1, place.outputs), self._weight)
        return from_rows(graph, rows, place.steps, place.spec.inputs, columns=place.columns)
