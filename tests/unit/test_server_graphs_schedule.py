"""Nodes stand in the order in which they run: counting comes right behind what it counts, and moves nothing else."""

from __future__ import annotations

import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from contract.task import EncodingSpec, ModelSpec, NeuronSpec, TaskSpec
from edge_client.engines.onnx import OnnxEngine
from server.graphs.assembly import inference_model, training_model
from server.graphs.schedule import scheduled

SHAPE, CLASSES = (1, 8, 8), 4
RATE = EncodingSpec(kind="rate", steps=4)
TASKS = {
    "fc": TaskSpec(encoding=RATE, model=ModelSpec(hidden=(6, 5))),
    "conv": TaskSpec(encoding=RATE, model=ModelSpec(kind="conv", hidden=(), channels=(2, 3), kernel=3)),
    "reset to zero, spike readout": TaskSpec(
        encoding=RATE, neuron=NeuronSpec(reset="zero"), model=ModelSpec(hidden=(6,), readout="spike")
    ),
    "a scan, and its current from outside": TaskSpec(
        encoding=EncodingSpec(kind="direct", steps=70), model=ModelSpec(hidden=(6, 5))
    ),
    "ann, sigmoid": TaskSpec(model=ModelSpec(family="ann", hidden=(6, 5))),
    "ann, relu": TaskSpec(model=ModelSpec(family="ann", activation="relu", hidden=(6, 5))),
}


def told(nodes: list[onnx.NodeProto]) -> list[tuple[str, int, int]]:
    return [(node.op_type, len(node.input), len(node.output)) for node in nodes]


def made(operator: str, reads: list[str], output: str) -> onnx.NodeProto:
    return helper.make_node(operator, reads, [output])


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[onnx.NodeProto], set[int]]:
    """Nodes that read any of those before them; the last few only look."""
    count, looking = draw(st.integers(1, 20)), draw(st.integers(0, 4))
    nodes = []
    for i in range(count + looking):
        known = st.integers(0, i - 1) if i else st.nothing()
        reads = draw(st.lists(known, max_size=3, min_size=int(i >= count))) if i else []
        nodes.append(made("Sum", [f"v{j}" for j in reads] or ["x"], f"v{i}"))
    return nodes, set(range(count, count + looking))


@given(graphs())
def test_every_node_stands_behind_what_it_reads_and_lookers_move_nothing(graph):
    nodes, lookers = graph
    order = scheduled(nodes, lookers)
    known = {"x"}
    for node in order:
        assert known.issuperset(node.input)
        known.update(node.output)
    assert len(order) == len(nodes)
    looking = {nodes[i].output[0] for i in lookers}
    rest = [node for i, node in enumerate(nodes) if i not in lookers]
    assert [node for node in order if node.output[0] not in looking] == scheduled(rest, set())


def test_a_looker_follows_what_it_looks_at():
    nodes = [made("A", ["x"], "a"), made("B", ["a"], "b"), made("C", ["a"], "c"), made("Look", ["a"], "l")]
    assert [node.op_type for node in scheduled(nodes, {3})] == ["A", "Look", "C", "B"]
    assert [node.op_type for node in scheduled(nodes[:3], set())] == ["A", "C", "B"]


@pytest.mark.parametrize("name", TASKS)
def test_counting_leaves_the_order_of_training_as_it_is(name):
    counted, plain = (list(training_model(TASKS[name], SHAPE, CLASSES, counted=c).graph.node) for c in (True, False))
    more = len(counted) - len(plain)
    assert more >= 2
    rest = iter(told(counted))
    assert all(node in rest for node in told(plain)), "the nodes of training, in their order, with others between"
    ends = [i for i, node in enumerate(counted) if node.output[0].startswith("emitted:")]
    first = next(i for i, node in enumerate(counted) if any(o.startswith("gradient:") for o in node.output))
    assert max(ends) < first, "all is counted before the first gradient is there"


@pytest.mark.parametrize("name", TASKS)
def test_the_file_is_sound_and_the_boards_engine_asks_for_its_order(name):
    task = TASKS[name]
    models = {"training": training_model(task, SHAPE, CLASSES), "inference": inference_model(task, SHAPE, CLASSES)}
    graphs = {kind: model.SerializeToString() for kind, model in models.items()}
    for model in models.values():
        onnx.checker.check_model(model, full_check=True)
    engine = OnnxEngine(task, SHAPE, CLASSES, graphs)
    options = engine._training.get_session_options()
    assert options.execution_order == onnxruntime.ExecutionOrder.PRIORITY_BASED
