"""Bad payloads through a real broker to a server process, while an honest device goes on with its rounds."""

from __future__ import annotations

import contextlib
import itertools
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from contract import datasets, messages, topics
from contract.link import Link, LinkSettings
from contract.messages import NodeState, ServerState
from contract.models.layout import initial_parameters
from contract.task import EncodingSpec, ModelSpec, RoundPlan, TaskSpec, task_hash
from deploy import broker
from server.inbox import HELD_BYTES
from server.ledger import FILE_NAME, Ledger
from tests.conftest import brokers
from tests.faults.chaos.families import bad_messages
from tests.faults.chaos.mutants import NODE, REPORTER, STRANGERS, Base
from tests.protocol.test_second_client import CLIENT, process
from tests.unit.server_world import RUN

PAYLOADS = 4000
ROUNDS = 4
TASK = TaskSpec(dataset="digits", encoding=EncodingSpec(steps=2), model=ModelSpec(hidden=(8,)))
PLAN = RoundPlan(batch_size=32)
SERVER = """
run = "{run}"
directory = "{directory}"
clients = 2
evaluate = false
export = false
drain_s = 2.0
[link]
host = "{link.host}"
port = {link.port}
protocol = "{link.protocol}"
[task]
dataset = "digits"
[task.encoding]
steps = 2
[task.model]
hidden = [8]
[[schedule]]
batch_size = 32
deadline_s = 8.0
[[schedule]]
batch_size = 32
deadline_s = 1.0
rounds = 3
"""


class Stranger:
    """A device that the server knows, and that sends nothing good."""

    def __init__(self, link: LinkSettings) -> None:
        self.open = False
        self.link = Link(link, "stranger", on_message=self._heard)
        self.link.subscribe(topics.server_state(RUN))
        self.link.start()
        for node in (NODE, REPORTER, *STRANGERS):
            status = "online" if node == NODE else "offline"
            state = messages.encode(NodeState(node=node, epoch=1, status=status))
            assert self.link.publish(topics.node_state(RUN, node), state, retain=True)

    def _heard(self, _topic: str, payload: bytes) -> None:
        self.open = messages.decode(payload, ServerState).status == "open"

    def payloads(self) -> Iterator[tuple[str, bytes]]:
        """What the server reads and a broker can carry."""
        info = datasets.dataset_info("digits")
        shapes = {n: v.shape for n, v in initial_parameters(TASK, info.shape, info.classes).items()}
        limit = 2 * sum(4 * int(np.prod(shape)) for shape in shapes.values()) + (1 << 20)
        base = Base(PLAN, limit, "0" * 32, task_hash=task_hash(TASK), shapes=shapes)
        for topic, payload in bad_messages(np.random.default_rng(11), base):
            if re.match(rf"spikeleak/v1/{RUN}/(node|up|recon|score|truth)/", topic) and not set(topic) & set("+#\0"):
                yield topic, payload

    def fire(self) -> int:
        """Sends them, a few hundred at a time; how many."""
        sent = 0
        for topic, payload in itertools.islice(self.payloads(), PAYLOADS):
            while not self.link.publish(topic, payload):
                time.sleep(0.05)
            sent += 1
            if sent % 100 == 0:
                time.sleep(0.05)
        return sent


def memory_of(pid: int, key: str) -> int:
    """A figure of a process's memory, in bytes: `VmRSS` now, `VmHWM` the most so far."""
    text = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(next(line.split()[1] for line in text.splitlines() if line.startswith(f"{key}:")))


def wait_for(condition, what: str, timeout_s: float = 60.0) -> None:
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, what
        time.sleep(0.05)


@pytest.mark.slow
def test_an_honest_device_finishes_its_rounds_under_fire(tmp_path):
    (tmp_path / "broker").mkdir()
    section = broker.BrokerSection(kind=brokers()[0])
    with broker.serve(section, tmp_path / "broker") as running, contextlib.ExitStack() as stack:
        (tmp_path / "server.toml").write_text(SERVER.format(run=RUN, directory=tmp_path / "run", link=running.link))
        command = ("-m", "deploy.cli", "server", str(tmp_path / "server.toml"))
        server = stack.enter_context(process(tmp_path / "server.log", *command))
        stranger = Stranger(running.link)
        stack.callback(stranger.link.stop)
        address = (running.link.host, str(running.link.port))
        honest = stack.enter_context(process(tmp_path / "honest.log", "-I", str(CLIENT), *address, RUN, "honest"))
        wait_for(lambda: stranger.open, "the first round does not open")
        before = memory_of(server.pid, "VmRSS")
        assert stranger.fire() == PAYLOADS
        assert server.poll() is None, (tmp_path / "server.log").read_text()[-3000:]
        most = memory_of(server.pid, "VmHWM") - before
        for child in (honest, server):
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(90)
            assert child.returncode == 0, (tmp_path / "server.log").read_text()[-3000:]
    limit = HELD_BYTES + (1 << 20)
    assert most < limit, f"the server took {most} bytes more than before, its limit and one update are {limit}"
    with Ledger.open_read(tmp_path / "run" / FILE_NAME) as ledger:
        admitted = [tuple(row) for row in ledger.rows("SELECT round, node FROM updates WHERE status = 'admitted'")]
        assert sorted(admitted) == [(round_, "honest") for round_ in range(1, ROUNDS + 1)]
        codes = {row[0] for row in ledger.rows("SELECT DISTINCT code FROM updates WHERE status = 'refused'")}
        assert {"schema", "task", "plan", "tensors", "finite", "norm"} <= codes, f"refused for {codes} alone"
        assert ledger.value("SELECT SUM(frames_bad) FROM sessions") > PAYLOADS / 10
        assert ledger.meta("outcome") == "finished"
