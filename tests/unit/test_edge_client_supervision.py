"""The line to the service manager, on a real socket."""

from __future__ import annotations

import os
import socket
import threading

import pytest

from edge_client.app import run_client
from edge_client.supervision import Supervision
from tests.unit.edge_client_world import MemoryLink, MemoryServer, settings


class Manager:
    """Reads what is said, as systemd does: a queue that nobody empties would hold the sender up."""

    def __init__(self, address: str) -> None:
        self.line = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.line.bind(address)
        self._said: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while (text := self.line.recv(4096).decode()) != "end":
            self._said.append(text)

    def heard(self) -> list[str]:
        """All that was said; nothing is read afterwards."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
            line.sendto(b"end", self.line.getsockname())
        self._reader.join()
        self.line.close()
        return self._said


@pytest.fixture
def manager(tmp_path, monkeypatch):
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    return Manager(str(tmp_path / "notify"))


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
