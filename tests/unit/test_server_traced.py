"""Graphs traced from users' networks: equal to the module's autograd, any batch; what cannot be exported is named."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from msgspec import structs

from contract.errors import ConfigurationError
from contract.models.own import user_network
from contract.task import EncodingSpec, TaskSpec
from edge_client.engines.onnx import OnnxEngine
from server import export
from server.export import GraphMismatchError
from server.graphs import tracing_check
from server.graphs.traced import inference_graph, training_graph
from tests.conftest import ROOT

FILE = ROOT / "tests" / "own_networks.py"
SHAPE, CLASSES, STEPS = (1, 8, 8), 10, 2
TASK = TaskSpec(dataset="digits", encoding=EncodingSpec(kind="rate", steps=STEPS))


def network_of(name, task=TASK):
    return user_network(f"{FILE}:{name}", task, SHAPE, CLASSES, named=f"model = {name!r}")


@pytest.fixture(scope="module")
def strided():
    network, task = network_of("Strided")
    found = {graph.name: graph for graph in export.exported(task, SHAPE, CLASSES, network)}
    return network, task, found


def test_graphs_are_checked_and_small(strided):
    _, _, found = strided
    assert set(found) == {"training", "inference"}
    assert all(0 < graph.error < 1e-5 for graph in found.values())
    assert all(graph.nbytes < 500_000 for graph in found.values())


def test_the_boards_engine_trains_on_it(strided):
    network, task, found = strided
    engine = OnnxEngine(task, SHAPE, CLASSES, {name: graph.blob for name, graph in found.items()})
    rng = np.random.default_rng(5)
    params = {name: value * 2 for name, value in network.initial_parameters().items()}
    for batch in (1, 2, 7):
        frames = (rng.random((STEPS, batch, *SHAPE)) < 0.5).astype(np.float32)
        labels = rng.integers(0, CLASSES, batch)
        made = engine.gradients(params, frames, labels)
        expected = tracing_check.stepped(network, {"frames": frames, "labels": labels, **params})
        assert made.loss == pytest.approx(float(expected["loss"]), rel=1e-5)
        assert [passes.counts for passes in engine.emitted()] == [()]
        for name, gradient in made.gradients.items():
            wanted = expected[f"gradient:{name}"]
            assert np.abs(gradient - wanted).max() <= 1e-5 * np.abs(wanted).max()
        np.testing.assert_allclose(engine.logits(params, frames), expected["logits"], atol=1e-5)
    assert all(np.any(expected[f"gradient:{name}"]) for name in params)


def test_a_wrong_graph_is_refused(strided, monkeypatch):
    network, task, found = strided
    model = onnx.load_model_from_string(found["inference"].blob)
    last = next(node for node in model.graph.node if "logits" in node.output)
    last.output[:] = ["before"]
    model.graph.node.append(onnx.helper.make_node("Mul", ["before", "factor"], ["logits"]))
    model.graph.initializer.append(onnx.helper.make_tensor("factor", onnx.TensorProto.FLOAT, [], [0.999]))
    blob = model.SerializeToString()
    compared = tracing_check.compare(blob, network, task, SHAPE, CLASSES)
    assert (compared.differing, compared.worst) == (compared.batches, "logits")
    monkeypatch.setattr("server.graphs.traced.inference_graph", lambda *_: blob)
    with pytest.raises(GraphMismatchError, match="differs from the network's own autograd"):
        export._traced("inference", network, task, SHAPE, CLASSES)


def test_an_operator_without_a_form_in_onnx_is_named():
    network, task = network_of("Inexpressible")
    with pytest.raises(ConfigurationError, match=r"^operator prims\.erf_inv has no form in ONNX") as caught:
        inference_graph(network, task, SHAPE)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [("Grouped", "aten.convolution_backward of a transposed or grouped"), ("Branching", "take the same path")],
)
def test_what_cannot_be_traced_is_said(name, said):
    network, task = network_of(name)
    with pytest.raises(ConfigurationError, match=said) as caught:
        training_graph(network, task, SHAPE, CLASSES)
    assert "\n" not in str(caught.value)


def test_direct_coding_takes_one_frame():
    task = structs.replace(TASK, encoding=EncodingSpec(kind="direct", steps=STEPS))
    network, task = network_of("Plain", task)
    blob = inference_graph(network, task, SHAPE)
    sizes = onnx.load_model_from_string(blob).graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_value for d in sizes] == [1, 0, *SHAPE]
    assert tracing_check.compare(blob, network, task, SHAPE, CLASSES).differing == 0
    assert torch.is_grad_enabled()
