"""The server as a process against each broker, with devices made of numpy alone."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from contract import datasets, frames, messages, topics
from contract.codecs import encode_tensors
from contract.errors import ConfigurationError, EnvironmentFaultError
from contract.link import Link, LinkSettings
from contract.messages import Ack, NodeState, ServerState, Update
from contract.models.layout import initial_parameters
from contract.task import ModelSpec, TaskSpec, task_hash
from server.app import INTERRUPTED, run_server
from server.ledger import FILE_NAME, Ledger
from server.model import parameters_of
from server.settings import ScheduleEntry, ServerSettings
from server.summary import summarise
from tests.unit.server_world import name_of

TASK = TaskSpec(dataset="digits", model=ModelSpec(hidden=(8,)))
INFO = datasets.dataset_info("digits")
SHAPES = {name: value.shape for name, value in initial_parameters(TASK, INFO.shape, INFO.classes).items()}


class Device:
    """Answers each round that it is selected in, until `silent`; remembers what it heard."""

    def __init__(self, node: str, link: LinkSettings, *, silent: bool = False) -> None:
        self.node, self.silent = node, silent
        self.acks: dict[str, Ack] = {}
        self.state: ServerState | None = None
        self.told = threading.Event()
        self.link = Link(link, f"device-{node}", on_message=self._message, on_up=self._up)
        self.link.subscribe(*topics.subscriptions("client", "run", node))
        self.link.start()

    def _up(self) -> None:
        birth = NodeState(node=self.node, epoch=1, status="online")
        self.link.publish(topics.node_state("run", self.node), messages.encode(birth), retain=True)

    def _message(self, topic: str, payload: bytes) -> None:
        kind = topics.parse(topic).kind
        if kind == "ack":
            ack = messages.decode(payload, Ack)
            self.acks[ack.uid] = ack
        elif kind == "server" and payload:
            self.state = messages.decode(payload, ServerState)
            self.told.set()
            if self.state.status == "open" and self.node in self.state.selected and not self.silent:
                self.deliver(self.state)

    def deliver(self, state: ServerState) -> None:
        uid = name_of(self.node, state.round)
        rng = np.random.default_rng([state.round, ord(self.node)])
        tensors = {name: rng.standard_normal(shape).astype(np.float32) * 0.01 for name, shape in SHAPES.items()}
        records, buffers = encode_tensors("fp32", tensors, rng)
        update = Update(
            uid=uid,
            node=self.node,
            epoch=1,
            round=state.round,
            model_version=state.model_version,
            task_hash=task_hash(TASK),
            plan=state.plan,
            samples=1 + state.round,
            loss=1.0,
            tensors=records,
        )
        for index, frame in enumerate(frames.split(messages.pack(update, buffers), uid, frame_bytes=1000)):
            self.link.publish(topics.update_chunk("run", self.node, state.round, uid, index), frame)


class Server:
    """A server on a thread of its own."""

    def __init__(self, directory: Path, link: LinkSettings) -> None:
        self.settings = ServerSettings(
            run="run",
            directory=directory,
            link=link,
            task=TASK,
            clients=2,
            drain_s=0.2,
            evaluate=False,
            export=False,
            schedule=(ScheduleEntry(rounds=4, server_momentum=0.9, deadline_s=20.0),),
        )
        self.stop = threading.Event()
        self.status: int | None = None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        self.status = run_server(self.settings, self.stop)

    def join(self) -> int | None:
        self.thread.join(30)
        return self.status


def wait_for(condition, what: str, timeout_s: float = 20.0) -> None:
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, what
        time.sleep(0.02)


def model_of(directory: Path) -> bytes:
    with Ledger.open_read(directory / FILE_NAME) as ledger:
        return bytes(ledger.value("SELECT object FROM models ORDER BY version DESC LIMIT 1"))


def test_a_stopped_server_resumes_at_its_round_and_ends_with_the_same_bits(running_broker, tmp_path):
    devices = [Device(node, running_broker.link) for node in "ab"]
    try:
        whole = Server(tmp_path / "whole", running_broker.link)
        assert whole.join() == 0
        wait_for(lambda: devices[0].state.status == "finished", "the end is retained")
        assert {ack.status for device in devices for ack in device.acks.values()} == {"admitted"}
        assert len(devices[0].acks) == 4
        assert summarise(tmp_path / "whole")["updates"]["lost"] == 0
        saved = load_file(tmp_path / "whole" / "model.safetensors")
        stored = parameters_of(model_of(tmp_path / "whole"))
        assert {k: v.tobytes() for k, v in saved.items()} == {k: v.tobytes() for k, v in stored.items()}
        devices[1].silent = True
        half = Server(tmp_path / "half", running_broker.link)
        wait_for(lambda: devices[0].state.status == "open" and _admitted(tmp_path / "half") == 1, "one of two is in")
        half.stop.set()
        assert half.join() == INTERRUPTED
        wait_for(lambda: devices[0].state.status == "offline", "it says that it is gone")
        devices[1].silent = False
        assert Server(tmp_path / "half", running_broker.link).join() == 0
        assert model_of(tmp_path / "half") == model_of(tmp_path / "whole")
        summary = summarise(tmp_path / "half")
        assert (summary["starts"], summary["rounds"], summary["rounds_opened_again"]) == (2, 4, 1)
        assert (summary["updates"]["admitted"], summary["updates"]["duplicated"]) == (8, 0)
    finally:
        for device in devices:
            device.link.stop()


def _admitted(directory: Path) -> int:
    try:
        with Ledger.open_read(directory / FILE_NAME) as ledger:
            return int(ledger.value("SELECT COUNT(*) FROM updates"))
    except (ConfigurationError, EnvironmentFaultError):
        return 0


def test_faults_before_the_first_round_are_said_plainly(tmp_path):
    base = {"directory": tmp_path, "task": TASK, "link": LinkSettings(port=1)}
    with pytest.raises(ConfigurationError, match="run = 'a/b'"):
        run_server(ServerSettings(run="a/b", **base), threading.Event())
    with pytest.raises(ConfigurationError, match="no_such_set"):
        run_server(ServerSettings(run="r", **{**base, "task": TaskSpec(dataset="no_such_set")}), threading.Event())
