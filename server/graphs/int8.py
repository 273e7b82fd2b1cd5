"""The inference graph with a model in it, and the same with integer products by onnxruntime's quantiser."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from contract.models.quantization import fake_quantize
from contract.task import TaskSpec
from server.graphs.assembly import inference_model

Array32 = NDArray[np.float32]


def baked(task: TaskSpec, shape: tuple[int, ...], classes: int, parameters: Mapping[str, Array32]) -> onnx.ModelProto:
    """A task's inference graph with one model's parameters as constants, weights on their grid.

    Returns:
        A model with input `frames` and output `logits`.
    """
    plain = msgspec.structs.replace(task, model=msgspec.structs.replace(task.model, weight_bits=None))
    model = inference_model(plain, shape, classes)
    frames = [given for given in model.graph.input if given.name not in parameters]
    del model.graph.input[:]
    model.graph.input.extend(frames)
    for name, value in parameters.items():
        bits = task.model.weight_bits if name.endswith(".weight") else None
        _hold(model, name, fake_quantize(torch.from_numpy(np.array(value)), bits).numpy())
    return model


def with_integer_products(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph after `onnxruntime.quantization.quantize_dynamic`: uint8 activations, int8 weights per channel."""
    with tempfile.TemporaryDirectory() as folder:
        folded = _folded(model, Path(folder) / "folded.onnx")
        _put_weights_second(folded)
        # The quantiser asks for its preprocessing on the terminal; folding constants is what it would do here.
        helper.set_model_props(folded, {"onnx.quant.pre_process": "onnxruntime.quant"})
        path = Path(folder) / "int8.onnx"
        quantize_dynamic(folded, path, per_channel=True, weight_type=QuantType.QInt8)
        return onnx.load(path)


def integer_products(model: onnx.ModelProto) -> int:
    """How many products a graph computes in integers."""
    return sum(node.op_type == "MatMulInteger" for node in model.graph.node)


def _folded(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(path)


def _put_weights_second(model: onnx.ModelProto) -> None:
    """Writes each `Gemm` with a constant weight as ``x W + b``, the form that the quantiser takes.

    ``W x + b``, a convolution over patches, becomes ``(x^T W^T + b^T)^T``; a factor on b goes into b.
    """
    constants = {held.name: numpy_helper.to_array(held) for held in model.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        nodes.extend(_product(model, node, constants) or [node])
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _product(model: onnx.ModelProto, node: onnx.NodeProto, constants: Mapping[str, Array32]) -> list[onnx.NodeProto]:
    if node.op_type != "Gemm" or node.input[2] not in constants:
        return []
    settings = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    left, right, bias = node.input
    name = node.output[0]
    weight_first = left in constants
    if not weight_first and right not in constants:
        return []
    flipped = bool(settings.get("transA" if weight_first else "transB"))
    weight = constants[left if weight_first else right]
    _hold(model, f"{name}_w", weight.T if flipped != weight_first else weight)
    _hold(model, f"{name}_b", constants[bias].reshape(1, -1) * np.float32(settings.get("beta", 1.0)))
    turn = bool(settings.get("transB" if weight_first else "transA")) != weight_first
    made: list[onnx.NodeProto] = []
    x = right if weight_first else left
    if turn:
        made.append(helper.make_node("Transpose", [x], [f"{name}_x"], perm=[1, 0]))
        x = f"{name}_x"
    rows = f"{name}_rows" if weight_first else name
    made.append(helper.make_node("MatMul", [x, f"{name}_w"], [f"{name}_product"]))
    made.append(helper.make_node("Add", [f"{name}_product", f"{name}_b"], [rows]))
    if weight_first:
        made.append(helper.make_node("Transpose", [rows], [name], perm=[1, 0]))
    return made


def _hold(model: onnx.ModelProto, name: str, array: NDArray[Any]) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
