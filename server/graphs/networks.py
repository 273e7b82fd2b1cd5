"""A task's network as nodes: the spiking one layer by layer over all steps, and its ANN twin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from contract.models.layout import LayerSpec
from contract.task import TaskSpec
from server.graphs.affine import Affine, Linear
from server.graphs.builder import Graph, Value
from server.graphs.convolution import Convolution
from server.graphs.neurons import Neurons, Upstream
from server.graphs.readouts import READOUTS
from server.graphs.weights import on_grid

Gradients = list[Value]
"""Weight and bias of the first layer, of the second, ..."""


class Stage(Protocol):
    """A family of networks in a graph."""

    traces: dict[str, Value]
    """What is worth comparing between implementations: `spikes:0`, `membranes:0`, ... each `[T, B * neurons]`."""
    emitted: list[Value]
    """Per hidden layer its spikes or activations, `[T or 1, B * neurons]`."""

    def forward(self, frames: Value) -> Value:
        """Class scores `[B, classes]` of frames `[S, B, *shape]`."""
        ...

    def backward(self, delta: Value) -> Gradients:
        """Parameters' gradients from the scores'."""
        ...


def _affines(graph: Graph, task: TaskSpec, specs: tuple[LayerSpec, ...], params: Mapping[str, Value]) -> list[Affine]:
    return [AFFINES[spec.kind](graph, spec, *_parameters(graph, task, spec, params)) for spec in specs]


def _parameters(graph: Graph, task: TaskSpec, spec: LayerSpec, params: Mapping[str, Value]) -> tuple[Value, Value]:
    weight = on_grid(graph, params[f"{spec.name}.weight"], task.model.weight_bits, len(spec.weight_shape))
    return weight, params[f"{spec.name}.bias"]


class Spiking:
    """Hidden layers of the task's neurons, then a readout."""

    def __init__(self, graph: Graph, task: TaskSpec, specs: tuple[LayerSpec, ...], params: Mapping[str, Value]) -> None:
        self._graph, self._steps = graph, task.encoding.steps
        self._constant = task.encoding.kind == "direct"
        self._neurons = Neurons(graph, task)
        self._affines = _affines(graph, task, specs[:-1], params)
        self._readout = READOUTS[task.model.readout](
            graph, task, specs[-1], *_parameters(graph, task, specs[-1], params)
        )
        self._membranes: list[Value] = []
        self.emitted: list[Value] = []
        self.traces: dict[str, Value] = {}

    def forward(self, frames: Value) -> Value:
        """See `Stage`."""
        x = frames
        for i, affine in enumerate(self._affines):
            constant = self._constant and i == 0
            current = self._graph.reshape(affine.forward(x), 1 if constant else self._steps, -1)
            self._membranes.append(self._neurons.membranes(current, constant=constant))
            x = self._neurons.fires(self._membranes[-1])
            self.emitted.append(x)
            self.traces |= {f"membranes:{i}": self._membranes[-1], f"trains:{i}": x}
        return self._readout.forward(x)

    def backward(self, delta: Value) -> Gradients:
        """See `Stage`."""
        last, upstream = self._readout.backward(delta)
        found = [last]
        for i in range(len(self._affines) - 1, -1, -1):
            affine = self._affines[i]
            gradient = self._neurons.total_adjoint if self._constant and i == 0 else self._neurons.adjoint
            inner = gradient(self._membranes[i], self.emitted[i], upstream)
            found.append(affine.parameter_gradients(inner))
            if i > 0:
                below = affine.input_gradient(inner)
                upstream = Upstream(value=self._graph.reshape(below, self._steps, -1))
        return [gradient for pair in reversed(found) for gradient in pair]


class Twin:
    """The ANN: an activation after each hidden layer, the first frame as its input."""

    def __init__(self, graph: Graph, task: TaskSpec, specs: tuple[LayerSpec, ...], params: Mapping[str, Value]) -> None:
        self._graph, self._specs, self._activation = graph, specs, task.model.activation
        self._affines = _affines(graph, task, specs, params)
        self._first = task.encoding.kind != "direct" and task.encoding.steps > 1
        self.emitted: list[Value] = []
        self.traces: dict[str, Value] = {}

    def forward(self, frames: Value) -> Value:
        """See `Stage`."""
        graph = self._graph
        x = graph.node("Slice", frames, graph.integers(0), graph.integers(1)) if self._first else frames
        for affine in self._affines[:-1]:
            x = graph.node(self._activation.capitalize(), affine.forward(x))
            self.emitted.append(x)
        return self._affines[-1].forward(x)

    def backward(self, delta: Value) -> Gradients:
        """See `Stage`."""
        found = [self._affines[-1].parameter_gradients(delta)]
        for i in range(len(self._affines) - 2, -1, -1):
            outer = self._affines[i + 1].input_gradient(delta)
            delta = self._through(self._graph.reshape(outer, -1, *self._specs[i].outputs), self.emitted[i])
            found.append(self._affines[i].parameter_gradients(delta))
        return [gradient for pair in reversed(found) for gradient in pair]

    def _through(self, outer: Value, activation: Value) -> Value:
        graph = self._graph
        if self._activation == "relu":
            return graph.node("Where", graph.node("Greater", activation, graph.scalar(0.0)), outer, graph.scalar(0.0))
        slope = graph.node("Mul", activation, graph.node("Sub", graph.scalar(1.0), activation))
        return graph.node("Mul", outer, slope)


AFFINES: dict[str, type[Linear | Convolution]] = {"linear": Linear, "conv": Convolution}
NETWORKS: dict[str, type[Spiking | Twin]] = {"snn": Spiking, "ann": Twin}
