"""The line to the service manager, on a real socket."""

from __future__ import annotations

import itertools
import os
import socket
import threading
import time
from functools import partial

import msgspec
import pytest

from contract import topics
from contract.messages import ServerState, decode, encode
from edge_client import sleep
from edge_client.app import run_client
from edge_client.sleep import SleepSettings
from edge_client.supervision import Supervision
from tests.unit.edge_client_world import RUN, MemoryLink, MemoryServer, settings


class Manager:
    """Reads what is said, as systemd does: a queue that nobody empties would hold the sender up."""

    def __init__(self, address: str) -> None:
        self.line = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.line.bind(address)
        self._said: list[str] = []
        self.at_s: list[float] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while (text := self.line.recv(4096).decode()) != "end":
            self._said.append(text)
            self.at_s.append(time.monotonic())

    def heard(self) -> list[str]:
        """All that was said; nothing is read afterwards."""
        if self._reader.is_alive():
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
                line.sendto(b"end", self.line.getsockname())
            self._reader.join()
            self.line.close()
        return self._said


@pytest.fixture
def manager(tmp_path, monkeypatch):
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    made = Manager(str(tmp_path / "notify"))
    yield made
    made.heard()  # a test that fails leaves no thread behind


def test_beats_come_as_often_as_the_watchdog_needs_and_no_more(manager, tmp_path):
    now = [0.0]
    told = Supervision({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "8000000"}, lambda: now[0])
    for tick in range(41):
        now[0] = tick / 10
        told.beat(lambda: f"at {now[0]}\nsecond line")
    now[0] = 6.0
    told.beat()
    assert manager.heard() == [f"WATCHDOG=1\nSTATUS=at {at} second line" for at in (0.0, 2.0, 4.0, 4.0)]


def test_an_abstract_socket(tmp_path):
    name = f"spikeleak-{tmp_path.name}-{os.getpid()}"
    manager = Manager(f"\0{name}")
    Supervision({"NOTIFY_SOCKET": f"@{name}"}).ready()
    assert manager.heard() == ["READY=1"]


def test_a_manager_that_does_not_read_holds_nothing_up(tmp_path, caplog):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.bind(str(tmp_path / "notify"))
        told = Supervision({"NOTIFY_SOCKET": str(tmp_path / "notify")})
        while "timed out" not in caplog.text:  # its queue is a few messages long
            told.ready()


def test_without_a_service_manager_nothing_is_asked():
    Supervision({}).beat(lambda: pytest.fail("asked for a status that nobody reads"))


def test_a_socket_that_is_gone_is_a_warning(tmp_path, caplog):
    Supervision({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready()
    assert "service manager not told 'READY=1'" in caplog.text


def test_a_device_says_that_it_is_ready_alive_and_ending(manager, tmp_path, monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", "1000")
    server = MemoryServer(rounds=2)
    assert run_client(settings(tmp_path), link_type=lambda *a, **k: MemoryLink(server, *a, **k)) == 0
    said = manager.heard()
    assert (said[0], said[-1]) == ("READY=1", "STOPPING=1")
    beats = [text for text in said if text.startswith("WATCHDOG=1\nSTATUS=run=")]
    assert any(" round=2/2 " in text and "broker=connected" in text for text in beats), said


def test_each_gradient_is_a_sign_of_life(manager, tmp_path, monkeypatch):
    """The loop does not turn while a round is trained."""
    monkeypatch.setenv("WATCHDOG_USEC", "1")
    monkeypatch.setattr(Supervision, "beat", lambda self, status=None: status or self._send("from an engine"))
    server = MemoryServer(rounds=2)
    assert run_client(settings(tmp_path), link_type=lambda *a, **k: MemoryLink(server, *a, **k)) == 0
    assert manager.heard().count("from an engine") >= 2


class LateServer(MemoryServer):
    """Says only after a while that the run is finished: until then the device has nothing to do."""

    WAIT_S = 0.5

    def open(self, round_):
        if round_ <= self.rounds:
            super().open(round_)
            return
        state = decode(self.retained[topics.server_state(RUN)], ServerState)
        self.say(topics.server_state(RUN), encode(msgspec.structs.replace(state, status="closed")))
        threading.Timer(self.WAIT_S, partial(super().open, round_)).start()


@pytest.mark.parametrize("command", [(), ("sleep", "1.4")], ids=["rests", "command"])
def test_a_device_that_sleeps_longer_than_its_watchdog_is_alive(manager, tmp_path, monkeypatch, command):
    """After 0.6 s without a word systemd would end it, in the midst of its sleep of 1.4 s."""
    monkeypatch.setenv("WATCHDOG_USEC", "600000")
    monkeypatch.setattr(sleep, "_LOOK_S", 0.1)
    server = LateServer(rounds=1)
    asleep = SleepSettings(seconds=1.4, after_s=0.0, command=command)
    began_s = time.monotonic()
    assert run_client(settings(tmp_path, sleep=asleep), link_type=lambda *a, **k: MemoryLink(server, *a, **k)) == 0
    assert time.monotonic() - began_s > 1.4, "it did not sleep"
    said = manager.heard()
    assert said[-1] == "STOPPING=1"
    resting = [at_s for text, at_s in zip(said, manager.at_s, strict=True) if text.endswith(" resting=yes")]
    assert len(resting) > 5
    assert max(b - a for a, b in itertools.pairwise(resting)) < 0.6
    assert resting[-1] - resting[0] > 0.6
    assert "round=1/1" in next(text for text in said if text.endswith(" resting=yes")), "what it last did is still told"


def test_a_wait_ends_when_the_device_is_told_to_stop(manager, tmp_path):
    stop = threading.Event()
    told = Supervision({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"})
    threading.Timer(0.2, stop.set).start()
    assert told.patient(stop.wait, lambda: "a")(600.0)
    assert set(manager.heard()) == {"WATCHDOG=1\nSTATUS=a resting=yes"}
    unheard = Supervision({}).patient(stop.wait, lambda: pytest.fail("asked for a status that nobody reads"))
    stop.clear()
    assert not unheard(0.01)
