"""A task's network as nodes: the spiking one layer by layer over all steps, and its ANN twin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from contract.models.layout import LayerSpec
from contract.task import TaskSpec
from server.graphs.affine import Affine, Linear, Place, as_rows
from server.graphs.builder import FLOAT, Graph, Value
from server.graphs.convolution import Convolution
from server.graphs.neurons import Neurons, Upstream
from server.graphs.readouts import READOUTS
from server.graphs.weights import on_grid

Gradients = list[Value]
"""Weight and bias of the first layer, of the second, ..."""


class Stage(Protocol):
    """A family of networks in a graph."""

    def forward(self, frames: Value) -> Value:
        """Class scores `[B, classes]` of frames `[S, B, *shape]`."""
        ...

    def backward(self, delta: Value) -> Gradients:
        """Parameters' gradients from the scores'."""
        ...

    def counts(self) -> list[Value]:
        """How often each hidden layer's neurons emitted something, `[1, N]`."""
        ...

    def traces(self) -> dict[str, Value]:
        """`membranes:I` and `trains:I` of the hidden layers, each `[T, B * neurons]`: to compare implementations."""
        ...


def _places(specs: tuple[LayerSpec, ...], first: int, others: int) -> list[Place]:
    """Where each layer stands, with S of the first and of the others."""
    places: list[Place] = []
    columns = False
    for i, spec in enumerate(specs):
        places.append(Place(spec=spec, steps=others if i else first, columns=columns))
        columns = AFFINES[spec.kind].columns
    return places


def _affine(graph: Graph, task: TaskSpec, place: Place, params: Mapping[str, Value]) -> Affine:
    return AFFINES[place.spec.kind](graph, place, *_parameters(graph, task, place.spec, params))


def _parameters(graph: Graph, task: TaskSpec, spec: LayerSpec, params: Mapping[str, Value]) -> tuple[Value, Value]:
    weight = on_grid(graph, params[f"{spec.name}.weight"], task.model.weight_bits, len(spec.weight_shape))
    return weight, params[f"{spec.name}.bias"]


class Spiking:
    """Hidden layers of the task's neurons, then a readout."""

    def __init__(self, graph: Graph, task: TaskSpec, specs: tuple[LayerSpec, ...], params: Mapping[str, Value]) -> None:
        self._graph, self._steps = graph, task.encoding.steps
        self._constant = task.encoding.kind == "direct"
        self._neurons = Neurons(graph, task)
        self._places = _places(specs, 1 if self._constant else self._steps, self._steps)
        self._affines = [_affine(graph, task, place, params) for place in self._places[:-1]]
        last = _parameters(graph, task, specs[-1], params)
        self._readout = READOUTS[task.model.readout](graph, task, self._places[-1], *last)
        self._membranes: list[Value] = []
        self._spikes: list[Value] = []

    def forward(self, frames: Value) -> Value:
        """See `Stage`."""
        x = frames
        for i, affine in enumerate(self._affines):
            constant = self._constant and i == 0
            self._membranes.append(self._neurons.membranes(affine.forward(x), constant=constant))
            x = self._neurons.fires(self._membranes[-1])
            self._spikes.append(x)
        return self._readout.forward(x)

    def counts(self) -> list[Value]:
        """See `Stage`: over the steps by a product with a row of ones, two to four times as fast as a sum."""
        ones = self._graph.constant(np.ones((1, self._steps), np.float32))
        return [self._graph.node("MatMul", ones, spikes) for spikes in self._spikes]

    def traces(self) -> dict[str, Value]:
        """See `Stage`."""
        found: dict[str, Value] = {}
        for kind, values in (("membranes", self._membranes), ("trains", self._spikes)):
            for i, (value, place, affine) in enumerate(zip(values, self._places[:-1], self._affines, strict=True)):
                rows = as_rows(self._graph, value, self._steps, place.spec.outputs, columns=affine.columns)
                found[f"{kind}:{i}"] = self._graph.reshape(rows, self._steps, -1)
        return found

    def backward(self, delta: Value) -> Gradients:
        """See `Stage`."""
        last, upstream = self._readout.backward(delta)
        found = [last]
        for i in range(len(self._affines) - 1, -1, -1):
            affine = self._affines[i]
            gradient = self._neurons.total_adjoint if self._constant and i == 0 else self._neurons.adjoint
            inner = gradient(self._membranes[i], self._spikes[i], upstream)
            found.append(affine.parameter_gradients(inner))
            if i > 0:
                upstream = Upstream(value=affine.input_gradient(inner))
        return [gradient for pair in reversed(found) for gradient in pair]


class Twin:
    """The ANN: an activation after each hidden layer, the first frame as its input."""

    def __init__(self, graph: Graph, task: TaskSpec, specs: tuple[LayerSpec, ...], params: Mapping[str, Value]) -> None:
        self._graph, self._activation = graph, task.model.activation
        places = _places(specs, 1, 1)
        self._affines, self._classes = [_affine(graph, task, place, params) for place in places], places[-1].outputs
        self._first = task.encoding.kind != "direct" and task.encoding.steps > 1
        self._activations: list[Value] = []
        self._positive: dict[int, Value] = {}

    def forward(self, frames: Value) -> Value:
        """See `Stage`."""
        graph = self._graph
        x = graph.node("Slice", frames, graph.integers(0), graph.integers(1)) if self._first else frames
        for affine in self._affines[:-1]:
            x = graph.node(self._activation.capitalize(), affine.forward(x))
            self._activations.append(x)
        return graph.reshape(self._affines[-1].forward(x), -1, self._classes)

    def counts(self) -> list[Value]:
        """See `Stage`: where an activation is above 0, since none is below. A `Sign` takes three times as long."""
        if self._activation == "relu":
            return [self._graph.node("Cast", self._above(i), to=FLOAT) for i in range(len(self._activations))]
        return [self._graph.node("Ceil", activation) for activation in self._activations]  # at most 1

    def traces(self) -> dict[str, Value]:
        """See `Stage`: no steps, nothing that a rounding could flip."""
        return {}

    def backward(self, delta: Value) -> Gradients:
        """See `Stage`."""
        delta = self._graph.reshape(delta, 1, -1)
        found = [self._affines[-1].parameter_gradients(delta)]
        for i in range(len(self._affines) - 2, -1, -1):
            outer = self._affines[i + 1].input_gradient(delta)
            delta = self._through(outer, i)
            found.append(self._affines[i].parameter_gradients(delta))
        return [gradient for pair in reversed(found) for gradient in pair]

    def _through(self, outer: Value, layer: int) -> Value:
        graph, activation = self._graph, self._activations[layer]
        if self._activation == "relu":
            return graph.node("Where", self._above(layer), outer, graph.scalar(0.0))
        slope = graph.node("Mul", activation, graph.node("Sub", graph.scalar(1.0), activation))
        return graph.node("Mul", outer, slope)

    def _above(self, layer: int) -> Value:
        """Where an activation is above 0: the same node for the slope of a rectifier and for the count."""
        if layer not in self._positive:
            self._positive[layer] = self._graph.node("Greater", self._activations[layer], self._graph.scalar(0.0))
        return self._positive[layer]


AFFINES: dict[str, type[Linear | Convolution]] = {"linear": Linear, "conv": Convolution}
NETWORKS: dict[str, type[Spiking | Twin]] = {"snn": Spiking, "ann": Twin}
