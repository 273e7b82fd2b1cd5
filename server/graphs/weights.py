"""Weights on integer grids as nodes: the equations of `contract.models.quantization`, in its order of operations."""

from __future__ import annotations

from collections.abc import Callable

from contract.models.quantization import TERNARY_THRESHOLD
from server.graphs.builder import Graph, Value

Grid = Callable[[Graph, Value, int, tuple[int, ...]], Value]
"""Graph, weight, bits, axes of a channel to the weight on its grid."""


def _uniform(graph: Graph, weight: Value, bits: int, axes: tuple[int, ...]) -> Value:
    magnitude = graph.node("Abs", weight)
    largest = graph.node("ReduceMax", magnitude, graph.integers(*axes), keepdims=1)
    some = graph.node("Greater", largest, graph.scalar(0.0))
    step = graph.node("Div", largest, graph.scalar(2 ** (bits - 1) - 1))
    scale = graph.node("Where", some, step, graph.scalar(1.0))
    return graph.node("Mul", graph.node("Round", graph.node("Div", weight, scale)), scale)


def _ternary(graph: Graph, weight: Value, _bits: int, axes: tuple[int, ...]) -> Value:
    magnitude = graph.node("Abs", weight)
    mean = graph.node("ReduceMean", magnitude, graph.integers(*axes), keepdims=1)
    bound = graph.node("Mul", mean, graph.scalar(TERNARY_THRESHOLD))
    kept = graph.node("Cast", graph.node("Greater", magnitude, bound), to=1)
    count = graph.node("Max", graph.total(kept, *axes, keep=True), graph.scalar(1.0))
    scale = graph.node("Div", graph.total(graph.node("Mul", kept, magnitude), *axes, keep=True), count)
    return graph.node("Mul", graph.node("Mul", scale, kept), graph.node("Sign", weight))


GRIDS: dict[int, Grid] = {2: _ternary, 4: _uniform, 8: _uniform}


def on_grid(graph: Graph, weight: Value, bits: int | None, dimensions: int) -> Value:
    """A weight rounded to the grid of its output channel.

    Args:
        graph: Where the nodes go.
        weight: `[out, ...]`.
        bits: Of `GRIDS`; `None` leaves the weight as it is.
        dimensions: Number of the weight's dimensions.
    """
    return weight if bits is None else GRIDS[bits](graph, weight, bits, tuple(range(1, dimensions)))
