"""Surrogate derivatives as nodes: the formulas of `contract.models.surrogates`, times what comes from above.

The upstream gradient is often one row for all steps, so it takes the constant factors, and a quotient takes it as its
numerator: each saves a pass over `[T, B, *]`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from contract.models.surrogates import SURROGATES
from contract.task import NeuronSpec
from server.graphs.builder import Graph, Value

Product = Callable[[Graph, Value, Value, float], Value]
"""Graph, membrane minus threshold `u`, upstream `g`, slope to ``g surrogate(u)``."""


def _atan(graph: Graph, u: Value, g: Value, alpha: float) -> Value:
    x = graph.node("Mul", u, graph.scalar(math.pi / 2 * alpha))
    bottom = graph.node("Add", graph.node("Mul", x, x), graph.scalar(1.0))
    return graph.node("Div", graph.node("Mul", g, graph.scalar(alpha / 2)), bottom)


def _fast_sigmoid(graph: Graph, u: Value, g: Value, slope: float) -> Value:
    x = graph.node("Mul", graph.node("Abs", u), graph.scalar(slope))
    root = graph.node("Add", x, graph.scalar(1.0))
    return graph.node("Div", g, graph.node("Mul", root, root))


def _ste(graph: Graph, u: Value, g: Value, _slope: float) -> Value:
    return graph.node("Expand", g, graph.node("Shape", u))


def _triangular(graph: Graph, u: Value, g: Value, threshold: float) -> Value:
    below = graph.node("Less", u, graph.scalar(0.0))
    up = graph.node("Mul", g, graph.scalar(threshold))
    return graph.node("Where", below, up, graph.node("Neg", up))


def _sigmoid(graph: Graph, u: Value, g: Value, slope: float) -> Value:
    """``k e / (1 + e)^2`` with ``e = exp(-k|u|)``: even, no overflow, and exact where `Sigmoid` saturates."""
    falling = graph.node("Exp", graph.node("Mul", graph.node("Abs", u), graph.scalar(-slope)))
    root = graph.node("Add", falling, graph.scalar(1.0))
    share = graph.node("Div", falling, graph.node("Mul", root, root))
    return graph.node("Mul", graph.node("Mul", g, graph.scalar(slope)), share)


def _spike_rate_escape(graph: Graph, u: Value, g: Value, slope: float) -> Value:
    distance = graph.node("Abs", graph.node("Sub", u, graph.scalar(1.0)))
    falling = graph.node("Exp", graph.node("Neg", distance))
    return graph.node("Mul", graph.node("Mul", g, graph.scalar(slope)), falling)


PRODUCTS: dict[str, Product] = {
    "atan": _atan,
    "fast_sigmoid": _fast_sigmoid,
    "ste": _ste,
    "triangular": _triangular,
    "sigmoid": _sigmoid,
    "spike_rate_escape": _spike_rate_escape,
}


def through_spike(graph: Graph, neuron: NeuronSpec, membranes: Value, upstream: Value) -> Value:
    """Gradient of the membranes from the gradient of the spikes: ``g surrogate(m - threshold)``.

    Args:
        graph: Where the nodes go.
        neuron: Gives surrogate, slope and threshold.
        membranes: `[T, N]`.
        upstream: `[T, N]`, or `[1, N]` for all steps alike.

    Returns:
        `[T, N]`.
    """
    default = SURROGATES[neuron.surrogate].slope
    slope = default if neuron.surrogate_slope is None else neuron.surrogate_slope
    u = graph.node("Sub", membranes, graph.scalar(neuron.threshold))
    return PRODUCTS[neuron.surrogate](graph, u, upstream, slope)
