"""From the last hidden layer's spikes to class scores, and back."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from contract.models.neurons import mean_membrane_weights
from contract.task import TaskSpec
from server.graphs.affine import Linear, Place, as_rows, from_rows
from server.graphs.builder import Graph, Value
from server.graphs.neurons import Neurons, Upstream


class Readout(Protocol):
    """The last layer of a spiking network, with T steps and ``N = B * inputs``."""

    def forward(self, spikes: Value) -> Value:
        """From `[T, N]` to class scores `[B, classes]`."""
        ...

    def backward(self, delta: Value) -> tuple[tuple[Value, Value], Upstream]:
        """From the scores' gradient to those of weight and bias, and of the spikes."""
        ...


class MembraneReadout:
    """Mean membrane of a leaky layer that never resets: ``z = W sum_t w_t s_t + b sum_t w_t``.

    Linear in the spikes: they are weighed over time first and multiplied once, and the gradient of the spikes of step
    t is ``w_t W^T delta``, one row for all steps. The weights are `contract.models.neurons.mean_membrane_weights`.
    """

    def __init__(self, graph: Graph, task: TaskSpec, place: Place, weight: Value, bias: Value) -> None:
        self._graph, self._place, self._weight, self._bias = graph, place, weight, bias
        self._weights = mean_membrane_weights(task.encoding.steps, task.neuron.beta)
        self._weighed = ""

    def forward(self, spikes: Value) -> Value:
        """See `Readout`."""
        row = self._graph.constant(np.array(self._weights, dtype=np.float32)[None])
        weighed = self._graph.node("MatMul", row, spikes)
        self._weighed = as_rows(self._graph, weighed, 1, self._place.spec.inputs, columns=self._place.columns)
        return self._graph.node("Gemm", self._weighed, self._weight, self._bias, transB=1, beta=sum(self._weights))

    def backward(self, delta: Value) -> tuple[tuple[Value, Value], Upstream]:
        """See `Readout`."""
        graph = self._graph
        weight = graph.node("Gemm", delta, self._weighed, transA=1)
        bias = graph.node("Mul", graph.total(delta, 0), graph.scalar(sum(self._weights)))
        rows = graph.node("MatMul", delta, self._weight)
        shared = from_rows(graph, rows, 1, self._place.spec.inputs, columns=self._place.columns)
        return (weight, bias), Upstream(value=shared, weights=tuple(self._weights))


class SpikeReadout:
    """Mean spike count of a layer of the task's neurons."""

    def __init__(self, graph: Graph, task: TaskSpec, place: Place, weight: Value, bias: Value) -> None:
        self._graph, self._steps, self._classes = graph, place.steps, place.outputs
        self._neurons, self._affine = Neurons(graph, task), Linear(graph, place, weight, bias)
        self._membranes = self.spikes = ""

    def forward(self, spikes: Value) -> Value:
        """See `Readout`."""
        graph = self._graph
        self._membranes = self._neurons.membranes(self._affine.forward(spikes), constant=False)
        self.spikes = self._neurons.fires(self._membranes)
        return graph.reshape(graph.node("ReduceMean", self.spikes, graph.integers(0), keepdims=0), -1, self._classes)

    def backward(self, delta: Value) -> tuple[tuple[Value, Value], Upstream]:
        """See `Readout`."""
        graph = self._graph
        shared = graph.node("Div", graph.reshape(delta, 1, -1), graph.scalar(self._steps))
        inner = self._neurons.adjoint(self._membranes, self.spikes, Upstream(value=shared))
        return self._affine.parameter_gradients(inner), Upstream(value=self._affine.input_gradient(inner))


READOUTS: dict[str, type[MembraneReadout | SpikeReadout]] = {"membrane": MembraneReadout, "spike": SpikeReadout}
