"""Graphs on their way into a device: from the network once, from the disk ever after, and never with another hash."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import numpy as np
import pytest

from contract import topics
from contract.errors import ConfigurationError, EnvironmentFaultError
from contract.frames import split
from contract.messages import GraphRecord, Update
from contract.models.layout import initial_parameters
from contract.models.network import Network
from contract.task import EncodingSpec, ModelSpec, TaskSpec
from edge_client.app import INTERRUPTED, run_client
from edge_client.engine import open_engine
from edge_client.graphs import GraphCache
from server.export import inference_graph, training_graph
from tests.unit.edge_client_world import GRAPH, INFO, RECORD, RUN, MemoryLink, MemoryServer, settings


def live(server: MemoryServer, tmp_path: Path, **changes) -> int:
    return run_client(settings(tmp_path, **changes), link_type=lambda *a, **k: MemoryLink(server, *a, **k))


def cached(tmp_path: Path) -> Path:
    return tmp_path / "device" / "graphs" / f"{RECORD.sha256}.onnx"


def second_round() -> MemoryServer:
    """A server that has only the second round to give: the device did the first."""
    server = MemoryServer(rounds=2)
    server.open(2)
    return server


def without_chunks(server: MemoryServer) -> MemoryServer:
    for topic in [t for t in server.retained if topics.parse(t).graph]:
        del server.retained[topic]
    return server


def test_a_graph_is_fetched_kept_and_not_fetched_again(tmp_path):
    server = MemoryServer(rounds=1)
    assert live(server, tmp_path) == 0
    assert cached(tmp_path).read_bytes() == GRAPH
    assert not any("/task/training/" in f for f in server.link.filters)
    again = without_chunks(second_round())
    assert live(again, tmp_path) == 0
    assert len(again.updates) == 1


def test_a_damaged_copy_is_fetched_again(tmp_path, caplog):
    assert live(MemoryServer(rounds=1), tmp_path) == 0
    cached(tmp_path).write_bytes(GRAPH[:-1] + b"\xff")
    server = second_round()
    assert live(server, tmp_path) == 0
    assert len(server.updates) == 1
    assert cached(tmp_path).read_bytes() == GRAPH
    assert "is damaged: the graph is fetched again" in caplog.text


def test_another_graph_than_the_manifests_is_never_run(tmp_path, caplog):
    other = training_graph(TaskSpec(model=ModelSpec(hidden=(9,))), tuple(INFO.shape), INFO.classes)
    server = without_chunks(MemoryServer(rounds=1))
    sha256 = hashlib.sha256(other).hexdigest()
    for index, frame in enumerate(split(other, sha256[:32], frame_bytes=server.frame_bytes)):
        server.retained[topics.graph_chunk(RUN, "training", index)] = frame
    stop = threading.Event()
    threading.Timer(0.5, stop.set).start()
    status = run_client(settings(tmp_path), stop, link_type=lambda *a, **k: MemoryLink(server, *a, **k))
    assert status == INTERRUPTED
    assert server.updates == server.states == []
    assert not (tmp_path / "device" / "graphs").exists()
    assert f"graph 'training' refused: its SHA-256 is {sha256}" in caplog.text


def test_a_server_that_publishes_no_graphs_is_named_with_the_way_out(tmp_path):
    with pytest.raises(ConfigurationError, match=r"'onnx' needs the task's training graph.*export = true.*'torch'"):
        live(MemoryServer(rounds=1, graphs=()), tmp_path)
    server = MemoryServer(rounds=1, graphs=())
    assert live(server, tmp_path, engine="torch") == 0
    assert len(server.updates) == 1


def test_both_engines_make_the_same_update_and_one_engine_the_same_bytes(tmp_path):
    def tensors(folder: str, **changes) -> bytes:
        server = MemoryServer(rounds=1)
        live(server, tmp_path / folder, seed=5, **changes)
        return b"".join(bytes(v) for m, views in server.objects.values() if isinstance(m, Update) for v in views)

    first = tensors("a")
    assert tensors("b") == first
    one, other = (np.frombuffer(blob, np.float32) for blob in (first, tensors("c", engine="torch")))
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-7)


def test_a_full_disk_is_said_plainly(tmp_path):
    (tmp_path / "graphs").write_bytes(b"a file where the folder should be")
    with pytest.raises((EnvironmentFaultError, FileExistsError)):
        GraphCache(tmp_path / "graphs").keep(RECORD, GRAPH)


TASK = TaskSpec(encoding=EncodingSpec(kind="rate", steps=4), model=ModelSpec(hidden=(12,)))
SHAPE, CLASSES = (1, 8, 8), 10


def test_logits_are_the_reference_networks():
    import torch

    graphs = {"training": training_graph(TASK, SHAPE, CLASSES), "inference": inference_graph(TASK, SHAPE, CLASSES)}
    engine = open_engine("onnx", TASK, SHAPE, CLASSES, graphs=graphs)
    params = initial_parameters(TASK, SHAPE, CLASSES)
    for batch in (3, 1):
        frames = (np.random.default_rng(batch).random((4, batch, *SHAPE)) < 0.4).astype(np.float32)
        found = engine.logits(params, frames)
        wanted = Network(TASK, SHAPE, CLASSES)({k: torch.tensor(v) for k, v in params.items()}, torch.tensor(frames))
        np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-5, atol=1e-6)
    bare = open_engine("onnx", TASK, SHAPE, CLASSES, graphs={"training": graphs["training"]})
    with pytest.raises(ConfigurationError, match="no inference graph"):
        bare.logits(params, frames)


@pytest.mark.parametrize(
    ("graphs", "words"),
    [
        ({}, "needs the task's training graph"),
        ({"training": b"no graph"}, "the training graph of 8 bytes is refused by onnxruntime"),
        ({"training": inference_graph(TASK, SHAPE, CLASSES)}, "inputs are not this task's (differing: labels)"),
        (
            {"training": training_graph(TaskSpec(model=ModelSpec(hidden=(4, 4))), SHAPE, CLASSES)},
            "differing: layers.2.bias, layers.2.weight",
        ),
    ],
    ids=["none", "garbage", "inference", "another network"],
)
def test_a_graph_that_is_not_the_tasks_is_refused(graphs, words):
    with pytest.raises(ConfigurationError) as caught:
        open_engine("onnx", TASK, SHAPE, CLASSES, graphs=graphs)
    assert words in str(caught.value)


def test_records_with_a_bad_name_are_not_sent():
    from contract.messages import TaskManifest, decode, encode
    from contract.task import task_hash

    record = GraphRecord(name="a/b", sha256="0" * 64, nbytes=1)
    with pytest.raises(ValueError, match=r"graphs\[0\]\.name"):
        decode(encode(TaskManifest(run="r", task=TASK, task_hash=task_hash(TASK), graphs=(record,))), TaskManifest)
