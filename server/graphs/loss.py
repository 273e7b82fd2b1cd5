"""Mean cross-entropy over a batch, and its gradient."""

from __future__ import annotations

import numpy as np

from server.graphs.builder import FLOAT, INT64, Graph, Value


def cross_entropy(graph: Graph, logits: Value, labels: Value, classes: int) -> tuple[Value, Value]:
    """``-1/B sum_b log softmax(z_b)[y_b]``; its gradient is ``(softmax(z) - onehot(y)) / B``.

    Args:
        graph: Where the nodes go.
        logits: ``z``, `[B, classes]`.
        labels: ``y``, int64 `[B]`; one outside ``[-classes, classes)`` makes the run fail.
        classes: Number of classes.

    Returns:
        The loss, a scalar; its gradient `[B, classes]`.
    """
    column = graph.node("Unsqueeze", labels, graph.integers(1))
    logarithms = graph.node("LogSoftmax", logits, axis=1)
    picked = graph.node("GatherElements", logarithms, column, axis=1)
    loss = graph.node("Neg", graph.node("ReduceMean", picked, keepdims=0))
    true = graph.node("Equal", column, graph.constant(np.arange(classes, dtype=np.int64)[None]))
    distance = graph.node("Sub", graph.node("Exp", logarithms), graph.node("Cast", true, to=FLOAT))
    batch = graph.node("Cast", graph.node("Shape", labels), to=FLOAT)
    return loss, graph.node("Div", distance, batch)


def count_nonzeros(graph: Graph, x: Value, *, binary: bool) -> Value:
    """Number of elements that are not 0, as an int64 scalar; exact, since float32 sums stay within one row.

    Args:
        graph: Where the nodes go.
        x: Any shape, a row of which has at most 2^24 elements.
        binary: Whether all elements are 0 or 1, which saves the comparison.
    """
    ones = x if binary else graph.node("Cast", graph.node("Cast", x, to=9), to=FLOAT)
    rows = graph.total(graph.reshape(ones, 0, -1), 1)
    return graph.total(graph.node("Cast", rows, to=INT64))
