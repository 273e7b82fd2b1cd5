"""An ONNX graph in the making: values are names, equal constants are stored once."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from server.graphs.schedule import scheduled

OPSET, IR_VERSION = 20, 9
"""Read by onnxruntime from 1.17 on."""

Value = str
"""Name of a tensor in the graph."""
Dimension = int | str
Declared = tuple[str, int, Sequence[Dimension]]


class Graph:
    """Collects nodes; every method returns the name of what it computes.

    Args:
        prefix: Put before every name that is made here: bodies of loops share their names with the graph around them.
    """

    def __init__(self, prefix: str = "v") -> None:
        self._prefix = prefix
        self._count = itertools.count()
        self._nodes: list[onnx.NodeProto] = []
        self._looking_from: int | None = None
        self._constants: dict[tuple[str, tuple[int, ...], bytes], Value] = {}
        self._tensors: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []

    def name(self) -> Value:
        """A name not used before."""
        return f"{self._prefix}{next(self._count)}"

    def inner(self) -> Graph:
        """An empty graph for the body of a loop of this one, which may read this one's values."""
        return Graph(f"{self.name()}_")

    def node(self, operator: str, *inputs: Value, output: Value | None = None, **attributes: Any) -> Value:
        """Adds a node with one output.

        Args:
            operator: ONNX operator.
            inputs: Its inputs; `""` leaves an optional one out.
            output: Name of the output; by default a new one.
            attributes: Its attributes.
        """
        output = self.name() if output is None else output
        self._nodes.append(helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    def nodes(self, operator: str, inputs: Sequence[Value], outputs: int, **attributes: Any) -> list[Value]:
        """Adds a node with several outputs."""
        first = self.name()
        names = [f"{first}_{i}" for i in range(outputs)]
        self._nodes.append(helper.make_node(operator, list(inputs), names, **attributes))
        return names

    def constant(self, array: NDArray[Any]) -> Value:
        """A tensor that is part of the graph."""
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = self.name()
            self._tensors.append(numpy_helper.from_array(np.ascontiguousarray(array), self._constants[key]))
        return self._constants[key]

    def scalar(self, number: float) -> Value:
        """A float32 constant without dimensions."""
        return self.constant(np.array(number, dtype=np.float32))

    def integers(self, *numbers: int) -> Value:
        """A vector of int64 constants: shapes and axes."""
        return self.constant(np.array(numbers, dtype=np.int64))

    def reshape(self, x: Value, *shape: int) -> Value:
        """Another shape; -1 once for what follows from the rest."""
        return self.node("Reshape", x, self.integers(*shape))

    def total(self, x: Value, *axes: int, keep: bool = False) -> Value:
        """Sum over some axes; over all when none is named."""
        named = (self.integers(*axes),) if axes else ()
        return self.node("ReduceSum", x, *named, keepdims=int(keep))

    def input(
        self, name: str, dtype: int, shape: Sequence[Dimension | None], default: NDArray[Any] | None = None
    ) -> Value:
        """Declares an input, which may be left out where it has a default."""
        self._inputs.append(helper.make_tensor_value_info(name, dtype, list(shape)))
        if default is not None:
            self._tensors.append(numpy_helper.from_array(default, name))
        return name

    def output(self, name: str, value: Value, dtype: int, shape: Sequence[Dimension | None]) -> None:
        """Declares an output under its outside name; the value that it shows is renamed when the graph is made."""
        self.node("Identity", value, output=name)
        self._outputs.append(helper.make_tensor_value_info(name, dtype, list(shape)))

    def look(self) -> None:
        """All nodes from now on only look at values: they run right behind what makes these (`schedule`)."""
        self._looking_from = len(self._nodes)

    def body(self, name: str) -> onnx.GraphProto:
        """The graph without its surroundings, for a loop; its outputs are declared like those of a model."""
        return self._graph(self._renamed(), name)

    def _graph(self, nodes: list[onnx.NodeProto], name: str) -> onnx.GraphProto:
        return helper.make_graph(nodes, name, self._inputs, self._outputs, self._tensors)

    def model(self, name: str) -> onnx.ModelProto:
        """The finished model, its nodes in the order in which they run."""
        looking = {id(node) for node in self._nodes[self._looking_from :]} if self._looking_from is not None else set()
        nodes = self._renamed()
        lookers = {i for i, node in enumerate(nodes) if id(node) in looking}
        return helper.make_model(
            self._graph(scheduled(nodes, lookers), name),
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="spikeleak",
        )

    def _renamed(self) -> list[onnx.NodeProto]:
        """The nodes, without the `Identity` of an output whose value nobody else gave a name."""
        produced = {output for node in self._nodes for output in node.output if node.op_type != "Identity"}
        names: dict[Value, Value] = {}
        kept: list[onnx.NodeProto] = []
        for node in self._nodes:
            if node.op_type == "Identity" and node.input[0] in produced and node.input[0] not in names:
                names[node.input[0]] = node.output[0]
            else:
                kept.append(node)
        for node in kept:
            node.input[:] = [names.get(value, value) for value in node.input]
            node.output[:] = [names.get(value, value) for value in node.output]
        return kept


FLOAT, DOUBLE, INT64 = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64
