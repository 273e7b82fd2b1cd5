"""Inputs, outputs and the steps between them: the two graphs that a task has."""

from __future__ import annotations

import numpy as np
import onnx

from contract.models.layout import layers, parameter_shapes
from contract.task import TaskSpec
from server.graphs.builder import FLOAT, INT64, Graph, Value
from server.graphs.loss import cross_entropy
from server.graphs.networks import NETWORKS, Stage


class Assembly:
    """Declares what both graphs share: frames, parameters and the network over them."""

    def __init__(self, task: TaskSpec, shape: tuple[int, ...], classes: int) -> None:
        self.task, self.shape, self.classes = task, shape, classes
        self.graph = Graph()
        self.frames_given = 1 if task.encoding.kind == "direct" else task.encoding.steps
        self.frames = self.graph.input("frames", FLOAT, [self.frames_given, "B", *shape])
        self.shapes = parameter_shapes(task, shape, classes)

    def network(self) -> Stage:
        """Declares the parameters and makes the network over them."""
        params = {name: self.graph.input(name, FLOAT, size) for name, size in self.shapes.items()}
        specs = layers(self.task, self.shape, self.classes)
        return NETWORKS[self.task.model.family](self.graph, self.task, specs, params)


def training_model(
    task: TaskSpec, shape: tuple[int, ...], classes: int, *, traces: bool = False, counted: bool = True
) -> onnx.ModelProto:
    """Loss, gradients and spikes of one batch; `server.export.training_graph` says more.

    Args:
        task: The task.
        shape: Shape of one sample.
        classes: Number of classes.
        traces: Adds the network's `traces` as outputs `[T, B * neurons]`, to be compared with another implementation.
        counted: Whether it shows what hidden layers emitted; without, what counting costs is measured.
    """
    made = Assembly(task, shape, classes)
    graph, labels = made.graph, made.graph.input("labels", INT64, ["B"])
    network = made.network()
    logits = network.forward(made.frames)
    loss, delta = cross_entropy(graph, logits, labels, classes)
    graph.output("loss", loss, FLOAT, [])
    for (name, size), gradient in zip(made.shapes.items(), network.backward(delta), strict=True):
        graph.output(f"gradient:{name}", gradient, FLOAT, size)
    if traces:
        for name, value in network.traces().items():
            graph.output(name, value, FLOAT, [None, None])
    graph.look()
    for i, count in enumerate(network.counts() if counted else ()):
        graph.output(f"emitted:{i}", _sum(graph, i, count), FLOAT, [1, None])
    return graph.model("training")


def _sum(graph: Graph, layer: int, count: Value) -> Value:
    """What a hidden layer has emitted, with this pass."""
    before = graph.input(f"emitted_before:{layer}", FLOAT, [1, None], default=np.zeros((1, 1), np.float32))
    return graph.node("Add", before, count)


def inference_model(task: TaskSpec, shape: tuple[int, ...], classes: int) -> onnx.ModelProto:
    """Class scores of one batch; `server.export.inference_graph` says more."""
    made = Assembly(task, shape, classes)
    logits = made.network().forward(made.frames)
    made.graph.output("logits", logits, FLOAT, ["B", classes])
    return made.graph.model("inference")
