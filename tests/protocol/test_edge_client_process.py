"""A device as a process of its own, over a real broker: killed, come back, asked to leave."""

from __future__ import annotations

import hashlib
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from contract import topics
from contract.codecs import encode_tensors
from contract.datasets import dataset_info
from contract.frames import Assembler, CompleteObject, split
from contract.link import Link, LinkSettings
from contract.messages import (
    Ack,
    EnergyReport,
    GraphRecord,
    Model,
    NodeState,
    ServerState,
    TaskManifest,
    Update,
    decode,
    encode,
    pack,
    unpack,
)
from contract.models.layout import initial_parameters
from contract.task import EncodingSpec, ModelSpec, RoundPlan, TaskSpec, task_hash
from server.export import training_graph

CLIENT = """
import sys
from edge_client.app import main
status = main(sys.argv[1:])
print(*sorted({"torch", "snntorch", "onnx", "scipy", "pandas"} & {m.split(".")[0] for m in sys.modules}))
sys.exit(status)
"""
RUN, NODE = "trial", "device-0"
TASK = TaskSpec(dataset="digits", encoding=EncodingSpec(steps=2), model=ModelSpec(hidden=(4,)))
PATIENCE_S = 60.0


class Ear:
    """What the broker says, one message at a time."""

    def __init__(self, link: LinkSettings) -> None:
        self.heard: queue.SimpleQueue[tuple[str, bytes]] = queue.SimpleQueue()
        self.link = Link(link, "ear", on_message=lambda topic, payload: self.heard.put((topic, payload)))
        self.link.subscribe(*topics.subscriptions("server", RUN))
        self.link.start()
        self._assembler = Assembler()

    def until(self, wanted: Callable[[str, bytes], object]) -> object:
        end_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < end_s:
            try:
                found = wanted(*self.heard.get(timeout=0.2))
            except queue.Empty:
                continue
            if found is not None:
                return found
        raise AssertionError("what was waited for did not come")

    def state(self, status: str) -> NodeState:
        def wanted(topic: str, payload: bytes) -> NodeState | None:
            if topic != topics.node_state(RUN, NODE):
                return None
            state = decode(payload, NodeState)
            return state if state.status == status else None

        return self.until(wanted)

    def object(self, kind: str) -> CompleteObject:
        def wanted(topic: str, payload: bytes) -> CompleteObject | None:
            return self._assembler.add(payload) if topics.parse(topic).kind == kind else None

        return self.until(wanted)

    def say(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        assert self.link.publish(topic, payload, retain=retain)


@pytest.fixture
def ear(running_broker) -> Iterator[Ear]:
    listening = Ear(running_broker.link)
    yield listening
    listening.link.stop()


@pytest.fixture
def start(running_broker, tmp_path) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    config = tmp_path / "device.toml"
    link = running_broker.link
    login = f'username = "{link.username}"\npassword = "{link.password}"\n' if link.username else ""
    config.write_text(
        f'run = "{RUN}"\nnode = "{NODE}"\ndirectory = "{tmp_path / "device"}"\nshard = 0\nshards = 2\n'
        f'[link]\nhost = "{link.host}"\nport = {link.port}\nprotocol = "{link.protocol}"\n{login}',
        encoding="utf-8",
    )
    children: list[subprocess.Popen[bytes]] = []

    def begin() -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", CLIENT, str(config)]
        children.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
        return children[-1]

    yield begin
    for child in children:
        child.kill()
        child.communicate()


def open_round(ear: Ear) -> None:
    info = dataset_info(TASK.dataset)
    params = initial_parameters(TASK, info.shape, info.classes)
    records, buffers = encode_tensors("fp32", params, np.random.default_rng(0))
    blob = pack(Model(version=0, task_hash=task_hash(TASK), tensors=records), buffers)
    for index, frame in enumerate(split(blob, "0" * 32, frame_bytes=512)):
        ear.say(topics.model_chunk(RUN, 0, index), frame, retain=True)
    graph = training_graph(TASK, tuple(info.shape), info.classes)
    record = GraphRecord(name="training", sha256=hashlib.sha256(graph).hexdigest(), nbytes=len(graph))
    for index, frame in enumerate(split(graph, record.sha256[:32], frame_bytes=512)):
        ear.say(topics.graph_chunk(RUN, "training", index), frame, retain=True)
    manifest = TaskManifest(run=RUN, task=TASK, task_hash=task_hash(TASK), graphs=(record,))
    ear.say(topics.task_manifest(RUN), encode(manifest), retain=True)
    state = ServerState(
        run=RUN,
        status="open",
        epoch=1,
        round=1,
        attempt=1,
        plan=RoundPlan(batch_size=4),
        model_sha256=hashlib.sha256(blob).hexdigest(),
        task_hash=task_hash(TASK),
        selected=(NODE,),
    )
    ear.say(topics.server_state(RUN), encode(state), retain=True)


def test_killed_before_the_acknowledgement_the_update_comes_again_and_once(ear, start):
    open_round(ear)
    child = start()
    assert ear.state("online").epoch == 1
    first = ear.object("up")
    child.send_signal(signal.SIGKILL)
    assert ear.state("offline").epoch == 1

    child = start()
    assert ear.state("online").epoch == 2
    again = ear.object("up")
    assert (again.uid, again.blob) == (first.uid, first.blob)
    update, _ = unpack(memoryview(again.blob), Update)
    assert update.epoch == 1
    ear.say(topics.ack(RUN, NODE), encode(Ack(uid=again.uid, status="admitted")))
    report, _ = unpack(memoryview(ear.object("score").blob), EnergyReport)
    assert report.update_uid == first.uid
    assert {p.phase for p in report.phases if p.phase == "train"} == {"train"}
    ear.say(topics.ack(RUN, NODE), encode(Ack(uid=report.uid, status="admitted")))

    time.sleep(0.3)
    child.send_signal(signal.SIGTERM)
    last = ear.state("offline")
    assert (last.epoch, last.published, last.acknowledged, last.pending) == (2, 1, 1, 0)
    assert child.wait(PATIENCE_S) == 0

    assert child.stdout.read() == b"\n", "the default engine trained without torch or any other heavy library"

    child = start()
    assert ear.state("online").epoch == 3
    child.send_signal(signal.SIGINT)
    assert ear.state("offline").epoch == 3
    assert child.wait(PATIENCE_S) == 130
    assert b"Traceback" not in child.stderr.read()


def test_a_config_that_is_not_there_is_one_line(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-m", "edge_client", str(tmp_path / "none.toml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "no such file" in done.stderr
