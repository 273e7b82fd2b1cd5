"""Exported graphs against snntorch stepped in Python; what they take and give; that a wrong one is refused."""

from __future__ import annotations

import collections
import hashlib
import itertools
import time

import numpy as np
import onnx
import onnxruntime
import pytest
from msgspec import structs

from contract.errors import ConfigurationError
from contract.models.layout import parameter_shapes
from contract.task import EncodingSpec, ModelSpec, NeuronSpec, TaskSpec
from server import export
from server.export import GraphMismatchError, check, exported, inference_graph, training_graph
from server.graphs import checking
from server.graphs.builder import FLOAT, Graph
from server.graphs.neurons import UNROLLED, Neurons
from server.graphs.surrogates import PRODUCTS
from tests.benchmarks import gradients
from tests.benchmarks.gradients import cells, compare, random_batch
from tests.benchmarks.steps import Product, alone, operators, peers, task_of

SHAPE, CLASSES = (2, 7, 9), 4
TAILS = tuple(itertools.product(("direct", "rate"), ("membrane", "spike"), (None, 8, 4, 2), (None, 8, 16), (1, 6)))
GRID = [
    (kind, surrogate, reset, *TAILS[(11 * i) % len(TAILS)])
    for i, (kind, surrogate, reset) in enumerate(
        itertools.product(("fc", "conv"), sorted(PRODUCTS), ("subtract", "zero", "none"))
    )
]


def make(  # noqa: PLR0917 - one case of the grid
    kind,
    surrogate="atan",
    reset="subtract",
    encoding="rate",
    readout="membrane",
    bits=None,
    membrane=None,
    steps=6,
    **model,
):
    sizes = {"hidden": (9, 8), "channels": (3, 4), "kernel": 3}
    return TaskSpec(
        encoding=EncodingSpec(kind=encoding, steps=steps),
        model=ModelSpec(kind=kind, readout=readout, weight_bits=bits, membrane_bits=membrane, **{**sizes, **model}),
        neuron=NeuronSpec(reset=reset, surrogate=surrogate, threshold=0.4),
    )


def test_grid_has_every_choice():
    for column, wanted in ((1, 6), (2, 3), (3, 2), (4, 2), (5, 4), (6, 3), (7, 2)):
        for kind in ("fc", "conv"):
            assert len({case[column] for case in GRID if case[0] == kind}) == wanted


@pytest.mark.parametrize("case", GRID, ids=lambda case: "-".join(map(str, case)))
def test_spiking_graphs_equal_snntorch(case):
    found = list(exported(make(*case), SHAPE, CLASSES))
    assert [graph.name for graph in found] == ["training", "inference"]
    for graph in found:
        assert graph.error <= 1e-5
        assert graph.sha256 == hashlib.sha256(graph.blob).hexdigest()
        assert graph.nbytes == len(graph.blob)


@pytest.mark.parametrize("kind", ["fc", "conv"])
@pytest.mark.parametrize(("activation", "encoding", "bits"), [("sigmoid", "direct", 8), ("relu", "rate", None)])
def test_twins_equal_torch(kind, activation, encoding, bits):
    task = make(kind, encoding=encoding, bits=bits, family="ann", activation=activation)
    assert max(graph.error for graph in exported(task, SHAPE, CLASSES)) <= 1e-5


@pytest.mark.parametrize(("kernel", "stride", "shape"), [
    (1, 1, (1, 5, 4)), (1, 2, (1, 6, 5)), (2, 2, (1, 6, 7)), (3, 1, (2, 5, 5)), (5, 3, (1, 11, 8)), (4, 2, (1, 9, 8)),
    ((5, 3), 2, (1, 9, 9)),
])  # fmt: skip
def test_convolutions_of_any_geometry(kernel, stride, shape):
    task = make("conv", kernel=kernel, stride=stride, hidden=())
    assert max(graph.error for graph in exported(task, shape, CLASSES)) <= 1e-5


@pytest.mark.parametrize("name", ["fc-atan-subtract-T10-B7", "conv-fast_sigmoid-zero-T10-B7", "fc-ste-zero-T50-B1"])
def test_random_batches_of_real_size(name):
    row = compare(*cells()[name], batches=3)
    assert row.flipped <= 1  # counted where they occur; the long form of the benchmark reports the share
    assert row.error is not None
    assert row.error <= 1e-5


@pytest.mark.parametrize("name", ["fc-w8-m8-atan-subtract-T10-B7", "conv-w2-m16-ste-zero-T10-B7"])
def test_quantised_batches_of_real_size(name):
    row = compare(*cells(quantized=True)[name], batches=2, exact=True)
    assert (row.flipped, row.elements) == (0, 0)
    assert row.error <= 1e-5


def test_an_error_beyond_the_limit_is_held_against_float64(monkeypatch):
    monkeypatch.setattr(gradients, "TOLERANCE", 1e-9)
    row = compare(*cells()["fc-atan-subtract-T10-B1"], batches=1)
    assert 1e-9 < max(row.doubles) < 1e-5
    assert 0 < row.norm < 1e-5


@pytest.mark.parametrize(("surrogate", "flips"), [("triangular", 1), ("atan", 0)])
def test_a_membrane_on_the_threshold_counts_where_the_surrogate_jumps(surrogate, flips):
    task = TaskSpec(neuron=NeuronSpec(surrogate=surrogate))
    silent = np.zeros((1, 3), np.float32)
    below = np.nextafter(np.float32(1), np.float32(0))
    found, expected = ({"trains:0": silent, "membranes:0": np.array([[0.5, m, 0.9]], np.float32)} for m in (1.0, below))
    assert gradients.differing(task, found, expected) == flips
    fired = expected | {"trains:0": np.array([[0, 1, 0]], np.float32)}
    assert gradients.differing(task, found, fired) == 1


def test_the_benchmark_of_a_step_compares_like_with_like():
    task, size = task_of("conv-rate-T10-B1")
    works = peers(task, random_batch(task, size, 1))
    expected = [gradient.numpy() for gradient in works["snntorch"]()]
    found = works["graph"]().gradients.values()
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())


def test_the_benchmark_finds_the_products_of_a_graph():
    assert Product(left=(3, 4), right=(5, 4), out=(3, 5)).operations == 2 * 3 * 4 * 5
    assert Product(left=(2, 4, 3), right=(2, 4, 5), out=(2, 3, 5)).operations == 2 * 2 * 3 * 4 * 5
    task, size = task_of("conv-rate-T10-B1")
    totals, products = operators(task, random_batch(task, size, 1), 2)
    assert {"Gather", "MatMul", "FusedMatMul"} <= set(totals)
    counted = collections.Counter(product.operations for product in products)
    second = 2 * 16 * 49 * 10  # of the second convolution's channels, positions and steps
    assert counted[second * (8 * 25 + 1)] == 2  # currents and weights' gradients
    assert counted[second * 8 * 36] == 1
    assert [out.shape for out in alone(products)()] == [product.out for product in products]


@pytest.mark.parametrize("steps", [UNROLLED, UNROLLED + 1])
@pytest.mark.parametrize("encoding", ["rate", "direct"])
@pytest.mark.parametrize("reset", ["subtract", "zero", "none"])
def test_written_out_steps_and_scans_alike_equal_snntorch(steps, encoding, reset):
    task = make("conv", steps=steps, encoding=encoding, reset=reset, hidden=(), membrane=16)
    graph = training_graph(task, SHAPE, CLASSES)
    operators_used = {node.op_type for node in onnx.load_from_string(graph).graph.node}
    assert ("Scan" in operators_used) == (steps > UNROLLED or reset == "zero")
    assert check(graph, task, SHAPE, CLASSES) <= 1e-5


def test_inputs_and_outputs():
    task = make("conv")
    shapes = parameter_shapes(task, SHAPE, CLASSES)
    opened = checking.session(training_graph(task, SHAPE, CLASSES))
    assert [i.name for i in opened.get_inputs()] == ["frames", "labels", *shapes]
    before = [i.name for i in opened.get_overridable_initializers()]
    assert sorted(before) == [f"emitted_before:{i}" for i in range(4)]
    hidden = [f"emitted:{i}" for i in range(4)]
    expected = ["loss", *(f"gradient:{name}" for name in shapes), *hidden]
    assert [o.name for o in opened.get_outputs()] == expected
    assert opened.get_inputs()[0].shape == [6, "B", *SHAPE]
    assert [i.name for i in checking.session(inference_graph(task, SHAPE, CLASSES)).get_inputs()] == ["frames", *shapes]
    direct = checking.session(training_graph(make("fc", encoding="direct"), SHAPE, CLASSES))
    assert direct.get_inputs()[0].shape == [1, "B", *SHAPE]


def test_a_label_that_is_no_class_is_refused():
    task = make("fc")
    batch = checking.exact_batch(task, SHAPE, CLASSES, batch=2, seed=1)
    batch.labels[0] = CLASSES
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.Fail, match="Out of range"):
        checking.run(training_graph(task, SHAPE, CLASSES), batch.feed())


def test_hundred_steps_stay_small_and_quick():
    for kind in ("fc", "conv"):
        task = make(kind, steps=100, hidden=(256,) if kind == "fc" else (), channels=(8, 16), kernel=5)
        began = time.process_time()
        found = list(exported(task, (1, 28, 28), 10))
        assert time.process_time() - began < 20
        assert all(graph.nbytes < 100_000 for graph in found)
        assert max(graph.error for graph in found) <= 1e-5


@pytest.mark.parametrize("change", [{"beta": 0.91}, {"threshold": 0.8}, {"reset": "zero"}, {"surrogate": "sigmoid"}])
def test_a_graph_of_another_neuron_is_refused(change):
    task = make("fc")
    other = structs.replace(task, neuron=structs.replace(task.neuron, **change))
    with pytest.raises(GraphMismatchError, match="snntorch"):
        check(training_graph(other, SHAPE, CLASSES), task, SHAPE, CLASSES)


def test_a_graph_that_computes_nothing_finite_is_refused(monkeypatch):
    task = make("fc")
    broken = onnx.load_from_string(inference_graph(task, SHAPE, CLASSES))
    last = broken.graph.node[-1]
    inner = last.output[0]
    last.output[0] = "before"
    broken.graph.node.append(onnx.helper.make_node("Sqrt", ["before"], [inner]))  # NaN of negative scores
    monkeypatch.setitem(export.MAKERS, "inference", lambda *_: broken.SerializeToString())
    with pytest.raises(GraphMismatchError, match="logits"):
        list(exported(task, SHAPE, CLASSES))


def test_impossible_layouts_are_refused():
    with pytest.raises(ConfigurationError, match="channels, height, width"):
        training_graph(make("conv"), (64,), CLASSES)


@pytest.mark.parametrize("threshold", [1e-3, 0.3, 1.0, 7.7, 1000.0])
def test_a_spike_needs_more_than_the_threshold(threshold):
    task = TaskSpec(neuron=NeuronSpec(threshold=threshold))
    graph = Graph()
    membranes = graph.input("membranes", FLOAT, [None, None])
    graph.output("spikes", Neurons(graph, task).fires(membranes), FLOAT, [None, None])
    at = np.float32(threshold)
    near = [np.nextafter(at, np.float32(0)), at, np.nextafter(at, np.float32(2e3)), -at, 1e6, -1e6, 0]
    found = checking.run(graph.model("fires").SerializeToString(), {"membranes": np.array([near], np.float32)})
    assert found["spikes"][0].tolist() == [0, 0, 1, 0, 1, 0, 0]
