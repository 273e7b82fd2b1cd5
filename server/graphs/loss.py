"""Mean cross-entropy over a batch, and its gradient."""

from __future__ import annotations

import numpy as np

from server.graphs.builder import FLOAT, Graph, Value


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
