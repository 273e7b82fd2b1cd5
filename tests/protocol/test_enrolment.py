"""A whole federation over mosquitto as `spikeleak enroll` sets it up: it finishes, and a revoked device is out."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from contract import topics
from contract.configuration import decode_toml
from contract.errors import SpikeleakError
from contract.frames import CHUNK_BYTES
from contract.link import Link
from deploy.supervisor import module_environment
from edge_client.settings import ClientSettings
from server.ledger import FILE_NAME, Ledger
from server.summary import summarise
from tests.enrolled_broker import EnrolledBroker, enrolled_broker

RUN = "trial"
DEVICES = ("pi-1", "pi-2")
PATIENCE_S = 90.0

SERVER = """
run = "trial"
directory = "{folder}"
clients = 2
drain_s = 30.0
evaluate = false

[task]
dataset = "digits"
[task.encoding]
kind = "direct"
steps = 2
[task.model]
hidden = [16]
{schedule}
"""
TRAIN = """
[[schedule]]
kind = "train"
rounds = {rounds}
local_steps = 2
learning_rate = 0.2
deadline_s = {deadline_s}
"""
AUDIT = """
[[schedule]]
kind = "audit"
algorithm = "fedsgd"
batch_size = 1
deadline_s = 30.0
"""


class Fleet:
    """Server, devices and attacker as processes of their own, each with its bundle."""

    def __init__(self, broker: EnrolledBroker, folder: Path) -> None:
        self.broker, self.folder = broker, folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start_server(self, schedule: str) -> None:
        head = SERVER.format(folder=self.folder / "server", schedule=schedule)
        config = self._write("server", head + (self.broker.folder / "server" / "server.toml").read_text())
        self._start("server", "deploy.cli", "server", str(config))

    def start_attacker(self) -> None:
        head = f'run = "{RUN}"\ndirectory = "{self.folder / "attack"}"\nbudget_s = 2.0\nattacks = ["label", "ratio"]\n'
        config = self._write("attack", head + (self.broker.folder / "attacker" / "attack.toml").read_text())
        self._start("attack", "deploy.cli", "attack", str(config))

    def start_device(self, node: str) -> None:
        text = (self.broker.folder / "devices" / node / "device.toml").read_text()
        values = {"run": f'"{RUN}"', "directory": f'"{self.folder / node}"', "shard": "0", "shards": "2"}
        lines = [line for line in text.splitlines() if not line.startswith("#")]
        config = self._write(node, "\n".join([*(f"{key} = {value}" for key, value in values.items()), *lines]))
        assert decode_toml(config, ClientSettings).node == node
        self._start(node, "edge_client", str(config))

    def _write(self, name: str, text: str) -> Path:
        path = self.folder / f"{name}.toml"
        path.write_text(text)
        return path

    def _start(self, name: str, *module: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log_file:
            self._running[name] = subprocess.Popen(
                [sys.executable, "-m", *module],
                stdin=subprocess.DEVNULL,
                stdout=log_file,
                stderr=log_file,
                env={**module_environment(), "OMP_NUM_THREADS": "1"},
            )

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def join(self, name: str) -> int:
        return self._running[name].wait(PATIENCE_S)

    def kill(self, name: str) -> None:
        process = self._running.pop(name)
        process.kill()
        process.wait()

    def end(self) -> None:
        for name in list(self._running):
            self.kill(name)

    def admitted(self, node: str) -> list[int]:
        """Rounds of which the ledger holds an update of a device."""
        try:
            with Ledger.open_read(self.folder / "server" / FILE_NAME) as ledger:
                text = "SELECT round FROM updates WHERE status = 'admitted' AND node = ? ORDER BY round"
                return [row["round"] for row in ledger.rows(text, node)]
        except SpikeleakError:
            return []

    def until(self, condition: Callable[[], bool], what: str) -> None:
        end_s = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < end_s, f"{what}; server: {self.log('server')[-1500:]}"
            time.sleep(0.05)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with enrolled_broker(tmp_path / "lab", *DEVICES) as broker:
        started = Fleet(broker, tmp_path)
        try:
            yield started
        finally:
            started.end()


def test_a_run_over_tls_and_the_shipped_acl_loses_nothing_and_is_scored(fleet: Fleet) -> None:
    fleet.start_server(TRAIN.format(rounds=1, deadline_s=30.0) + AUDIT)
    fleet.start_attacker()
    for node in DEVICES:
        fleet.start_device(node)
    parties = ("server", "attack", *DEVICES)
    statuses = {name: fleet.join(name) for name in parties}
    assert statuses == dict.fromkeys(parties, 0), {name: fleet.log(name)[-800:] for name in parties}
    summary = summarise(fleet.folder / "server")
    updates = summary["updates"]
    counts = (updates["published"], updates["admitted"], updates["lost"], updates["duplicated"])
    assert counts == (4, 4, 0, 0), updates
    assert summary["leakage"]["unscored"] == 0, summary["leakage"]
    assert summary["leakage"]["by_schedule"]["audit"]["worst_psnr_db"] > 60, summary["leakage"]["by_schedule"]


def test_a_device_revoked_in_mid_run_is_out_and_the_others_go_on(fleet: Fleet) -> None:
    fleet.start_server(TRAIN.format(rounds=500, deadline_s=1.0))
    for node in DEVICES:
        fleet.start_device(node)
    good, bad = DEVICES
    fleet.until(lambda: len(fleet.admitted(bad)) >= 3, f"{bad} took no part before it was revoked")
    fleet.broker.command("revoke", bad)
    fleet.broker.reload()
    last = max(fleet.admitted(bad)) + 1  # one may be under way
    fleet.until(lambda: max(fleet.admitted(good)) >= last + 3, f"{good} did not go on")
    assert max(fleet.admitted(bad)) <= last, "a revoked device took part"

    fleet.kill(bad)
    fleet.start_device(bad)  # it comes again with what it has
    fleet.until(lambda: "not reached" in fleet.log(bad), "its connection was not refused")
    going = max(fleet.admitted(good))
    fleet.until(lambda: max(fleet.admitted(good)) > going, f"{good} did not go on")
    assert max(fleet.admitted(bad)) <= last, "a revoked device took part"

    fleet.broker.command("device", bad, "--renew")
    fleet.broker.reload()
    fleet.kill(bad)
    fleet.start_device(bad)
    fleet.until(lambda: max(fleet.admitted(bad)) > last + 1, "with a new certificate it does not take part")


def test_the_shipped_settings_drop_nothing_and_stop_what_is_too_large(tmp_path: Path) -> None:
    heard: list[bytes] = []
    slow = threading.Event()

    def hear(_topic: str, payload: bytes) -> None:
        slow.wait(20.0)  # nothing is taken from the socket meanwhile
        heard.append(payload)

    with enrolled_broker(tmp_path / "lab", "pi-1") as broker, contextlib.ExitStack() as links:
        reader = Link(broker.link("server"), "reader", on_message=hear)
        links.callback(reader.stop)
        reader.subscribe(*topics.subscriptions("server", RUN))
        reader.start()
        writer = Link(broker.link("pi-1"), "writer", on_message=lambda _topic, _payload: None)
        writer.start()
        links.callback(writer.stop)
        assert writer.frame_bytes == CHUNK_BYTES, "the broker's limit cuts frames smaller than SPEC.md's"
        sent = [number.to_bytes(4, "big") for number in range(3000)] + [bytes(CHUNK_BYTES)]
        for payload in sent:
            assert writer.publish(topics.score(RUN, "pi-1", 1), payload)
        assert writer._client is not None
        wait_for(lambda: not writer._client._out_messages, lambda: "the broker did not take them all")
        assert len(heard) == 0, "the reader was not slow"
        slow.set()
        wait_for(lambda: len(heard) == len(sent), lambda: f"{len(heard)} of {len(sent)} arrived")
        assert heard == sent
        writer.publish(topics.score(RUN, "pi-1", 1), bytes(400_000))  # whose end the broker may not wait for
        wait_for(lambda: not writer.connected, lambda: "a packet of 400 kB did not end the connection")
        time.sleep(0.2)
        assert len(heard) == len(sent), f"a packet of 400 kB was passed on: {len(heard[-1])} bytes"


def wait_for(condition: Callable[[], bool], what: Callable[[], str]) -> None:
    end_s = time.monotonic() + 30.0
    while not condition():
        assert time.monotonic() < end_s, what()
        time.sleep(0.02)
