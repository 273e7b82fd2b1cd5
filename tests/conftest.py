"""What the tests share: brokers, a small study, a way to run commands as a user would."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from deploy import broker

settings.register_profile("shared machine", deadline=None)  # a busy machine is no fault of the code
settings.load_profile("shared machine")

ROOT = Path(__file__).resolve().parent.parent


def brokers() -> list[str]:
    """Brokers that the protocol tests run against: amqtt always, mosquitto where it is installed.

    In CI mosquitto must be there: its absence is an error, not a skip.
    """
    if broker.mosquitto_path() is not None:
        return ["mosquitto", "amqtt"]
    if os.environ.get("CI"):
        raise RuntimeError("CI without mosquitto: .ci/run installs it")
    return ["amqtt"]


@pytest.fixture(params=brokers())
def running_broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[broker.Broker]:
    """A fresh broker on the loopback interface, once per kind."""
    folder = tmp_path / "broker"
    folder.mkdir()
    with broker.serve(broker.BrokerSection(kind=request.param), folder) as running:
        yield running


STUDY = """
name = "small"
clients = 3

[task]
dataset = "digits"
seed = 3

[task.encoding]
kind = "direct"
steps = 4

[task.model]
hidden = [32]

[attack]
budget_s = 2.0
{attack}

[broker]
kind = "{broker}"

[server]
drain_s = 20.0

[[schedule]]
kind = "train"
rounds = {rounds}
algorithm = "fedavg"
local_steps = {local_steps}
batch_size = 16
learning_rate = 0.2
deadline_s = {deadline_s}

[[schedule]]
kind = "audit"
rounds = 1
algorithm = "fedsgd"
batch_size = 1
clients = 1
deadline_s = {deadline_s}
"""


@pytest.fixture
def study_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes a small study: three devices, digits, T = 4; with 5 local steps a round takes about 25 ms."""

    def write(
        *, rounds: int = 2, deadline_s: float = 30.0, broker: str = "auto", attack: str = "", local_steps: int = 5
    ) -> Path:
        path = tmp_path / "study.toml"
        given = {"rounds": rounds, "deadline_s": deadline_s, "broker": broker, "attack": attack}
        path.write_text(STUDY.format(**given, local_steps=local_steps))
        return path

    return write


def spikeleak(*arguments: str, timeout_s: float = 240.0, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the command line as a user would, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "deploy.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        cwd=ROOT,
        env={**os.environ, **environment},
        check=False,
    )
