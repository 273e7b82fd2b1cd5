"""Leaky integrate-and-fire neurons over all steps: the recurrence written out or as a `Scan`, its adjoint one product.

The equations are those of `contract.models.neurons`. Forward, with the spike as an exact step (see `fires`), each step
does in snntorch's order what its Leaky does::

    subtract   m = Q((beta m' + I) - threshold s')        zero   m = Q(beta (m' - s' m') + I)
    none       m = Q(beta m' + I); without a grid one product with ``L^T``, below

Backward, resets are detached, so for `subtract` and `none` the adjoint is linear with constant coefficients: with
``x_u = w_u g_u surrogate(m_u - threshold)``::

    delta_t = x_t + beta delta_{t+1} = sum_u L[t, u] x_u,   L[t, u] = beta^(u - t) for u >= t, else 0

one product with a `[T, T]` matrix in place of T steps, and one with a row of T numbers where only
``sum_t delta_t`` is asked for. `zero` forgets at spikes and takes a scan backwards.
"""

from __future__ import annotations

import math

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from contract.models.neurons import mean_membrane_weights
from contract.models.quantization import FixedPoint, membrane_grid
from contract.task import TaskSpec
from server.graphs.builder import FLOAT, Graph, Value
from server.graphs.surrogates import through_spike


class Upstream(Struct, frozen=True, kw_only=True):
    """Gradient of a layer's spikes, ``w_t g_t``.

    Attributes:
        value: `[T, N]`, or `[1, N]` where it is the same for all steps but for the weights.
        weights: ``w_t``; `None` for 1.
    """

    value: Value
    weights: tuple[float, ...] | None = None


class Neurons:
    """Adds populations of one task's neurons to a graph. Currents and all else are `[T, N]`.

    Args:
        graph: Where the nodes go.
        task: Gives neuron, steps and the membrane's bits.
    """

    def __init__(self, graph: Graph, task: TaskSpec) -> None:
        self._graph, self._spec, self._steps = graph, task.neuron, task.encoding.steps
        self._beta = graph.scalar(task.neuron.beta)
        self._grid = membrane_grid(task.neuron.threshold, task.model.membrane_bits)

    def membranes(self, current: Value, *, constant: bool) -> Value:
        """Membranes `[T, N]`.

        Args:
            current: `[T, N]`, or `[1, N]` where it is constant.
            constant: Whether one row of current stands for all steps.
        """
        graph = self._graph
        if self._steps == 1:
            return _rounded(graph, current, self._grid)
        if self._spec.reset == "none" and self._grid is None:
            if constant:  # the sums over j of beta^j
                rises = np.array(mean_membrane_weights(self._steps, self._spec.beta)[::-1]) * self._steps
                return graph.node("Mul", graph.constant(rises.astype(np.float32)[:, None]), current)
            return graph.node("MatMul", graph.node("Transpose", self._memory(), perm=[1, 0]), current)
        if self._steps <= UNROLLED:
            return self._unrolled(current, constant=constant)
        return self._scan(current, constant=constant)

    def fires(self, membranes: Value) -> Value:
        """``[m > threshold]`` as float32."""
        return _fires(self._graph, membranes, self._spec.threshold)

    def adjoint(self, membranes: Value, spikes: Value, upstream: Upstream) -> Value:
        """Gradient of the current at each step, `[T, N]`."""
        graph = self._graph
        x, factor = through_spike(graph, self._spec, membranes, upstream.value)
        weights = (factor * self._weights(upstream)).astype(np.float32)
        if self._spec.reset == "zero" or self._steps == 1:
            return self._adjoint_of_zero(graph.node("Mul", x, graph.constant(weights[:, None])), spikes)
        return graph.node("MatMul", graph.node("Mul", self._memory(), graph.constant(weights)), x)

    def total_adjoint(self, membranes: Value, spikes: Value, upstream: Upstream) -> Value:
        """Gradient of a current that is the same at all steps, `[1, N]`."""
        graph = self._graph
        if self._spec.reset == "zero":
            return graph.total(self.adjoint(membranes, spikes, upstream), 0, keep=True)
        x, factor = through_spike(graph, self._spec, membranes, upstream.value)
        weights = factor * self._weights(upstream)
        reach = np.cumsum(self._spec.beta ** np.arange(self._steps))  # sum over t <= u of beta^(u - t)
        return graph.node("MatMul", graph.constant((weights * reach).astype(np.float32)[None]), x)

    def _weights(self, upstream: Upstream) -> NDArray[np.float64]:
        return np.ones(self._steps) if upstream.weights is None else np.array(upstream.weights)

    def _memory(self) -> Value:
        """``L`` of the module's docstring; onnxruntime folds it once when it loads the graph."""
        graph, steps = self._graph, self._steps
        powers = graph.constant((self._spec.beta ** np.arange(steps)).astype(np.float32))
        step = np.arange(steps, dtype=np.int64)
        lag = graph.node("Sub", graph.constant(step[None]), graph.constant(step[:, None]))
        late = graph.node("Less", lag, graph.integers(0))
        reached = graph.node("Gather", powers, graph.node("Max", lag, graph.integers(0)))
        return graph.node("Where", late, graph.scalar(0.0), reached)

    def _unrolled(self, current: Value, *, constant: bool) -> Value:
        graph, steps = self._graph, self._steps
        currents = [current] * steps if constant else graph.nodes("Split", [current], steps, axis=0, num_outputs=steps)
        found: list[Value] = []
        states: list[Value] = []
        for now in currents:
            if found:
                states = self._left(graph, found[-1])
            found.append(self._charged(graph, states, now))
        return graph.node("Concat", *found, axis=0)

    def _scan(self, current: Value, *, constant: bool) -> Value:
        graph, body = self._graph, self._graph.inner()
        states = [body.input(body.name(), FLOAT, [None]) for _ in STATES[self._spec.reset]]
        tick = body.input(body.name(), FLOAT, [] if constant else [None])
        now = graph.reshape(current, -1) if constant else tick
        membrane = self._charged(body, states, now)
        for value in (*self._left(body, membrane), membrane):
            body.output(body.name(), value, FLOAT, [None])
        rest = graph.node("ConstantOfShape", graph.node("Shape", current, start=1))
        ticks = graph.constant(np.zeros(self._steps, dtype=np.float32)) if constant else current
        inputs = [*[rest] * len(states), ticks]
        return graph.nodes("Scan", inputs, len(states) + 1, body=body.body("leaky"), num_scan_inputs=1)[-1]

    def _charged(self, body: Graph, states: list[Value], current: Value) -> Value:
        """The membrane after one step, from what the step before it left: nothing at rest."""
        moved = body.node("Add", states[0], current) if states else current
        if states and self._spec.reset == "subtract":
            moved = body.node("Sub", moved, states[1])
        return _rounded(body, moved, self._grid)

    def _left(self, body: Graph, membrane: Value) -> list[Value]:
        """The states that a step leaves to the next, `STATES`."""
        reset, threshold = self._spec.reset, self._spec.threshold
        if reset == "zero":
            above = body.node("ThresholdedRelu", membrane, alpha=float(np.float32(threshold)))
            return [body.node("Mul", body.node("Sub", membrane, above), self._beta)]
        decayed = body.node("Mul", membrane, self._beta)
        if reset == "none":
            return [decayed]
        fired = _fires(body, membrane, threshold)
        return [decayed, fired if threshold == 1 else body.node("Mul", fired, self._graph.scalar(threshold))]

    def _adjoint_of_zero(self, x: Value, spikes: Value) -> Value:
        """``delta_t = x_t + beta (1 - s_t) delta_{t+1}``."""
        if self._steps == 1:
            return x
        graph, body = self._graph, self._graph.inner()
        later, direct, keep = (body.input(body.name(), FLOAT, [None]) for _ in range(3))
        delta = body.node("Add", direct, body.node("Mul", keep, later))
        body.output(body.name(), delta, FLOAT, [None])
        body.output(body.name(), delta, FLOAT, [None])
        kept = graph.node("Mul", graph.node("Sub", graph.scalar(1.0), spikes), self._beta)
        rest = graph.node("ConstantOfShape", graph.node("Shape", x, start=1))
        backwards = {"num_scan_inputs": 2, "scan_input_directions": [1, 1], "scan_output_directions": [1]}
        return graph.nodes("Scan", [rest, x, kept], 2, body=body.body("adjoint"), **backwards)[1]


UNROLLED = 16
"""Up to so many steps are written out, which spares a `Scan`'s cost at each; more would make the graph large."""
STATES = {"subtract": ("decayed membrane", "threshold taken off"), "zero": ("kept membrane",), "none": ("membrane",)}
"""What a step of each reset leaves to the next."""


def _rounded(graph: Graph, membrane: Value, grid: FixedPoint | None) -> Value:
    if grid is None:
        return membrane
    integers = graph.node("Round", graph.node("Div", membrane, graph.scalar(grid.step)))
    clipped = graph.node("Clip", integers, graph.scalar(grid.low), graph.scalar(grid.high))
    return graph.node("Mul", clipped, graph.scalar(grid.step))


def _fires(graph: Graph, membrane: Value, threshold: float) -> Value:
    """``[m > threshold]`` in one node: ``clip(alpha m - alpha threshold, 0, 1)`` with a large power of two.

    Exact: both products are, the difference has the right sign, and the smallest one that is not 0, half a unit in the
    last place of the threshold, times alpha exceeds 1.
    """
    alpha = math.ldexp(1.0, 40 - math.frexp(threshold)[1])
    return graph.node("HardSigmoid", membrane, alpha=alpha, beta=-alpha * float(np.float32(threshold)))
