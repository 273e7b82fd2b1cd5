"""Surrogate derivatives as nodes: the formulas of `contract.models.surrogates`, times what comes from above.

A quotient takes the upstream gradient as its numerator, and constant factors are left to the caller, whose next product
has room for them: each saves a pass over all steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from contract.models.surrogates import SURROGATES
from contract.task import NeuronSpec
from server.graphs.builder import Graph, Value

Product = Callable[[Graph, Value, Value, float], tuple[Value, float]]
"""Graph, membrane minus threshold `u`, upstream `g`, slope to a value and a factor, together ``g surrogate(u)``."""


def _atan(graph: Graph, u: Value, g: Value, alpha: float) -> tuple[Value, float]:
    """``alpha/2 / (1 + (k u)^2) = alpha / 2k^2 / (u^2 + 1/k^2)`` with ``k = pi alpha / 2``."""
    slope = math.pi / 2 * alpha
    bottom = graph.node("Add", graph.node("Mul", u, u), graph.scalar(slope**-2))
    return graph.node("Div", g, bottom), alpha / 2 * slope**-2


def _fast_sigmoid(graph: Graph, u: Value, g: Value, slope: float) -> tuple[Value, float]:
    """``1 / (1 + k |u|)^2 = 1/k^2 / (|u| + 1/k)^2``."""
    root = graph.node("Add", graph.node("Abs", u), graph.scalar(1 / slope))
    return graph.node("Div", g, graph.node("Mul", root, root)), slope**-2


def _ste(graph: Graph, u: Value, g: Value, _slope: float) -> tuple[Value, float]:
    return graph.node("Expand", g, graph.node("Shape", u)), 1.0


def _triangular(graph: Graph, u: Value, g: Value, threshold: float) -> tuple[Value, float]:
    below = graph.node("Less", u, graph.scalar(0.0))
    return graph.node("Where", below, g, graph.node("Neg", g)), threshold


def _sigmoid(graph: Graph, u: Value, g: Value, slope: float) -> tuple[Value, float]:
    """``k e / (1 + e)^2`` with ``e = exp(-k|u|)``: even, no overflow, and exact where `Sigmoid` saturates."""
    falling = graph.node("Exp", graph.node("Mul", graph.node("Abs", u), graph.scalar(-slope)))
    root = graph.node("Add", falling, graph.scalar(1.0))
    share = graph.node("Div", falling, graph.node("Mul", root, root))
    return graph.node("Mul", g, share), slope


def _spike_rate_escape(graph: Graph, u: Value, g: Value, slope: float) -> tuple[Value, float]:
    distance = graph.node("Abs", graph.node("Sub", u, graph.scalar(1.0)))
    falling = graph.node("Exp", graph.node("Neg", distance))
    return graph.node("Mul", g, falling), slope


PRODUCTS: dict[str, Product] = {
    "atan": _atan,
    "fast_sigmoid": _fast_sigmoid,
    "ste": _ste,
    "triangular": _triangular,
    "sigmoid": _sigmoid,
    "spike_rate_escape": _spike_rate_escape,
}


def through_spike(graph: Graph, neuron: NeuronSpec, membranes: Value, upstream: Value) -> tuple[Value, float]:
    """Gradient of the membranes from the gradient of the spikes: ``g surrogate(m - threshold)``.

    Args:
        graph: Where the nodes go.
        neuron: Gives surrogate, slope and threshold.
        membranes: Of all steps.
        upstream: Of all steps, or one for all alike.

    Returns:
        A value like the membranes, and what it has to be multiplied by.
    """
    default = SURROGATES[neuron.surrogate].slope
    slope = default if neuron.surrogate_slope is None else neuron.surrogate_slope
    u = graph.node("Sub", membranes, graph.scalar(neuron.threshold))
    return PRODUCTS[neuron.surrogate](graph, u, upstream, slope)
