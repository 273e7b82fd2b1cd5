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
        weights = (held for held in model.graph.initializer if held.name.endswith(".weight"))
        _put_weights_second(folded, frozenset(_fingerprint(numpy_helper.to_array(held)) for held in weights))
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


def _put_weights_second(model: onnx.ModelProto, weights: frozenset[bytes]) -> None:
    """Writes each product with a weight as ``x W``, the form that the quantiser takes.

    A convolution, ``[W b] [x 1]``, becomes ``(x^T W^T + b)^T``; ``Gemm``'s factor on the bias goes into the bias.
    Other constants, such as weights of time steps, stay where they are and in float.
    """
    constants = {held.name: numpy_helper.to_array(held) for held in model.graph.initializer}
    known = {name for name, array in constants.items() if _fingerprint(array) in weights}
    joint = {name for name, array in constants.items() if array.ndim == 2 and _fingerprint(array[:, :-1]) in weights}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.op_type == "Gemm" and node.input[1] in known and node.input[2] in constants:
            nodes.extend(_plain_gemm(model, node, constants))
        elif node.op_type == "MatMul" and node.input[0] in joint:
            nodes.extend(_turned(model, node, constants))
        else:
            nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _plain_gemm(model: onnx.ModelProto, node: onnx.NodeProto, constants: Mapping[str, Array32]) -> list[onnx.NodeProto]:
    x, weight, bias = node.input
    name, settings = node.output[0], {a.name: helper.get_attribute_value(a) for a in node.attribute}
    assert not settings.get("transA"), "activity stands as rows before a weight"
    _hold(model, f"{name}_w", constants[weight].T if settings.get("transB") else constants[weight])
    _hold(model, f"{name}_b", constants[bias] * np.float32(settings.get("beta", 1.0)))
    return [
        helper.make_node("MatMul", [x, f"{name}_w"], [f"{name}_product"]),
        helper.make_node("Add", [f"{name}_product", f"{name}_b"], [name]),
    ]


def _turned(model: onnx.ModelProto, node: onnx.NodeProto, constants: Mapping[str, Array32]) -> list[onnx.NodeProto]:
    """``[W b] x`` for x `[taps + 1, M]`, whose last row is ones."""
    (weight, x), name = node.input, node.output[0]
    _hold(model, f"{name}_w", constants[weight][:, :-1].T)
    _hold(model, f"{name}_b", constants[weight][:, -1])
    for which, number in (("first", 0), ("last", -1), ("axis", 0)):
        model.graph.initializer.append(numpy_helper.from_array(np.array([number]), f"{name}_{which}"))
    return [
        helper.make_node("Slice", [x, f"{name}_first", f"{name}_last", f"{name}_axis"], [f"{name}_taps"]),
        helper.make_node("Transpose", [f"{name}_taps"], [f"{name}_x"], perm=[1, 0]),
        helper.make_node("MatMul", [f"{name}_x", f"{name}_w"], [f"{name}_product"]),
        helper.make_node("Add", [f"{name}_product", f"{name}_b"], [f"{name}_rows"]),
        helper.make_node("Transpose", [f"{name}_rows"], [name], perm=[1, 0]),
    ]


def _fingerprint(array: NDArray[Any]) -> bytes:
    """The same for the same numbers in any order and shape: folding transposes and reshapes weights."""
    return np.sort(array + 0.0, axis=None).tobytes()  # -0.0 and 0.0 are one number


def _hold(model: onnx.ModelProto, name: str, array: NDArray[Any]) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
