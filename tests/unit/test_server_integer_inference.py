"""True int8 inference of a model: exact where it should be, small, and never the end of a run."""

from __future__ import annotations

import json

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from contract.models.layout import initial_parameters
from contract.models.network import Network
from contract.task import EncodingSpec, ModelSpec, NeuronSpec, RoundPlan, TaskSpec
from server.evaluation import Evaluator, evaluate_pending
from server.graphs import int8
from server.integer_inference import META_KEY, int8_inference, note_int8_inference, noted
from server.ledger import Ledger
from server.model import GlobalModel
from server.summary import summarise
from tests.federation import Fleet

SHAPE, CLASSES = (1, 28, 28), 10


def run(model, frames):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"frames": frames})[0]


@pytest.fixture(scope="module")
def sums_exactly():
    """Whether this processor adds products of uint8 and int8 without saturation."""
    nodes = [helper.make_node("MatMulInteger", ["frames", "w"], ["y"])]
    x = helper.make_tensor_value_info("frames", TensorProto.UINT8, [1, 8])
    y = helper.make_tensor_value_info("y", TensorProto.INT32, [1, 1])
    w = helper.make_tensor("w", TensorProto.INT8, [8, 1], [127] * 8)
    graph = helper.make_graph(nodes, "sum", [x], [y], [w])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return int(run(model, np.full((1, 8), 255, np.uint8))[0, 0]) == 8 * 255 * 127


def networks(kind, family, readout, bits):
    small = {"hidden": (32,)} if kind == "conv" else {}
    model = ModelSpec(kind=kind, family=family, readout=readout, weight_bits=bits, **small)
    task = TaskSpec(encoding=EncodingSpec(kind="rate", steps=5), model=model, neuron=NeuronSpec(threshold=0.3))
    parameters = initial_parameters(task, SHAPE, CLASSES)
    frames = (np.random.default_rng(1).random((5, 32, *SHAPE)) < 0.3).astype(np.float32)
    tensors = {name: torch.from_numpy(value) for name, value in parameters.items()}
    logits = Network(task, SHAPE, CLASSES)(tensors, torch.from_numpy(frames)).numpy()
    plain = int8.baked(task, SHAPE, CLASSES, parameters)
    return plain, int8.with_integer_products(plain), frames, logits


@pytest.mark.parametrize("bits", [2, 8])
@pytest.mark.parametrize("kind", ["fc", "conv"])
def test_spikes_and_weights_on_their_grid_lose_nothing(kind, bits, sums_exactly):
    plain, integer, frames, logits = networks(kind, "snn", "spike", bits)
    assert np.abs(run(plain, frames) - logits).max() < 1e-5
    assert int8.integer_products(plain) == 0
    assert int8.integer_products(integer) == {"fc": 2, "conv": 4}[kind]
    if not sums_exactly:
        pytest.skip("this processor saturates sums of uint8 times int8")
    assert np.abs(run(integer, frames) - logits).max() < 1e-5


@pytest.mark.parametrize(("family", "readout"), [("snn", "membrane"), ("ann", "membrane")])
def test_activations_that_are_not_spikes_round(family, readout):
    _, integer, frames, logits = networks("fc", family, readout, 8)
    error = np.abs(run(integer, frames) - logits).max() / np.abs(logits).max()
    assert 0 < error < 0.05


TASK = TaskSpec(dataset="digits", encoding=EncodingSpec(steps=5), model=ModelSpec(hidden=(64,), weight_bits=8))


@pytest.fixture(scope="module")
def trained():
    *_, last = Fleet(TASK, 3).rounds(RoundPlan(local_steps=20, learning_rate=0.1, momentum=0.9), 5, secret=1)
    return last.parameters


def test_accuracy_and_size_of_a_trained_model(trained, tmp_path):
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        GlobalModel(ledger, "0" * 64, lambda: trained)
        evaluator = Evaluator(TASK)
        evaluate_pending(ledger, evaluator)
        note_int8_inference(ledger, evaluator)
        found = noted(ledger)
    assert found.reason == ""
    assert found.fake_quantised_accuracy > 0.85
    assert abs(found.accuracy - found.fake_quantised_accuracy) < 0.02
    assert (found.integer_layers, found.layers, found.model_version) == (2, 2, 0)
    assert found.float_bytes > 4 * (64 * 64 + 64 * 10)
    assert found.bytes < 0.5 * found.float_bytes
    summary = summarise(tmp_path)["int8_inference"]
    assert (summary["accuracy"], summary["bytes"], summary["reason"]) == (found.accuracy, found.bytes, "")
    assert json.dumps(summary)


def test_a_file_of_the_demos_size_is_a_quarter():
    task = TaskSpec(encoding=EncodingSpec(steps=10))
    found = int8_inference(task, SHAPE, CLASSES, initial_parameters(task, SHAPE, CLASSES), batches(task))
    assert found.bytes / found.float_bytes < 0.27


def batches(task):
    yield np.zeros((1, 4, *SHAPE), np.float32), np.zeros(4, np.int64)


def test_what_cannot_be_done_has_a_reason_and_no_figures(trained, tmp_path, monkeypatch, caplog):
    def refuse(_model):
        raise RuntimeError("no such operator")

    monkeypatch.setattr(int8, "with_integer_products", refuse)
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        GlobalModel(ledger, "0" * 64, lambda: trained)
        evaluator = Evaluator(TASK)
        note_int8_inference(ledger, evaluator)
        assert noted(ledger).reason == "the newest model was not evaluated"
        evaluate_pending(ledger, evaluator)
        note_int8_inference(ledger, evaluator)
        assert noted(ledger).reason == "RuntimeError: no such operator"
    assert "no such operator" in caplog.text
    found = summarise(tmp_path)["int8_inference"]
    assert found["accuracy"] is None
    assert found["bytes"] is None


def test_a_run_that_has_not_finished_says_so(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert ledger.meta(META_KEY) is None
        assert noted(ledger).accuracy is None
        assert "finishes" in noted(ledger).reason
