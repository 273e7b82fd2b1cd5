"""What a real mosquitto refuses for its size, and how: announced, by ending the connection, or by silence."""

from __future__ import annotations

import queue
import threading
import time
from pathlib import Path
from typing import Self

import pytest

from contract.errors import EnvironmentFaultError
from contract.frames import Assembler, split
from contract.link import Link, LinkSettings
from contract.link_limits import FLOOR_BYTES, LARGEST_WINDOW, LAST_STRIKES
from contract.task import EncodingSpec, ModelSpec, TaskSpec
from edge_client.app import main as client_main
from edge_client.app import run_client
from edge_client.settings import ClientSettings
from server.app import ScheduleEntry, ServerSettings, run_server
from server.ledger import FILE_NAME, Ledger
from tests.mosquitto import mosquitto

UID = "ab" * 16
BLOB = bytes(range(256)) * 3200
"""819,200 bytes."""
PATIENCE_S = 60.0


class Sender:
    """Sends an object anew after each connection, as a spool does, in what frames the link wants then."""

    def __init__(self, settings: LinkSettings) -> None:
        self.faults: queue.Queue[EnvironmentFaultError] = queue.Queue()
        self.ups, self.largest = 0, list[int]()
        self._wake = threading.Semaphore(0)
        self.link = Link(settings, "sender", on_message=ignore, on_up=self._wake.release, on_fault=self.faults.put)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send)

    def _send(self) -> None:
        while not self._stop.is_set():
            if self._wake.acquire(timeout=0.1):
                self.ups += 1
                self.largest.append(self.link.frame_bytes)
                for index, frame in enumerate(split(BLOB, UID, frame_bytes=self.link.frame_bytes)):
                    if not self.link.publish(f"up/{index}", frame):
                        break

    def __enter__(self) -> Self:
        self._thread.start()
        self.link.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.link.stop()


def ignore(_topic: str, _payload: bytes) -> None:
    return None


def delivered(lines: tuple[str, ...], protocol: str, folder: Path, *, wait_s: float) -> tuple[bytes, Sender, str]:
    """What a reader has of the object in the end, its sender, and what was seen in words."""
    inbox: queue.Queue[bytes] = queue.Queue()
    with mosquitto(folder, *lines) as broker:
        link = LinkSettings(port=broker.port, protocol=protocol)
        reader = Link(link, "reader", on_message=lambda _topic, payload: inbox.put(payload))
        reader.subscribe("up/+")
        reader.start()
        assembler, whole, end_s = Assembler(), None, time.monotonic() + wait_s
        with Sender(link) as sender:
            while whole is None and time.monotonic() < end_s:
                try:
                    whole = assembler.add(inbox.get(timeout=0.2))
                except queue.Empty:
                    continue
            assert sender.link.connected
            assert sender.faults.empty()
        reader.stop()
    seen = f"{sender.ups} connections with frames of {sender.largest} bytes"
    return b"" if whole is None else bytes(whole.blob), sender, seen


@pytest.mark.parametrize(
    ("lines", "protocol", "connections"),
    [
        (("max_packet_size 50000",), "5", 1),
        (("max_packet_size 50000",), "3.1.1", 8),
        (("message_size_limit 50000",), "5", 8),
        (("message_size_limit 50000", "max_queued_messages 0"), "3.1.1", 14),
    ],
)
def test_an_object_gets_through_in_smaller_frames(
    lines: tuple[str, ...], protocol: str, connections: int, tmp_path: Path
) -> None:
    blob, sender, seen = delivered(lines, protocol, tmp_path, wait_s=PATIENCE_S)
    assert blob == BLOB, seen
    assert 12_000 < sender.largest[-1] <= 50_000, seen
    assert sender.ups <= connections, seen


def test_a_broker_that_says_that_all_is_well_is_believed_by_the_link_alone(tmp_path: Path) -> None:
    blob, sender, seen = delivered(("message_size_limit 50000",), "3.1.1", tmp_path, wait_s=3.0)
    assert blob == b"", "mosquitto delivered what its message_size_limit forbids"
    assert sender.largest == [262_144], seen


def test_a_party_of_a_useless_broker_ends_with_an_error(tmp_path: Path) -> None:
    with mosquitto(tmp_path / "broker", "max_packet_size 900") as broker:
        link = LinkSettings(port=broker.port, protocol="3.1.1")
        base = {"run": "r", "directory": tmp_path, "link": link, "task": LARGE, "export": False, "evaluate": False}
        with pytest.raises(EnvironmentFaultError, match="max_packet_size"):
            run_server(ServerSettings(**base), threading.Event())
        device = tmp_path / "device.toml"
        device.write_text(
            f'run = "r"\nnode = "d"\ndirectory = "{tmp_path / "d"}"\nshard = 0\nshards = 1\n'
            f"[link]\nport = {broker.port}\n"
        )
        assert client_main([str(device)]) == 1
    with Ledger(tmp_path / FILE_NAME) as ledger:
        assert "max_packet_size" in str(ledger.value("SELECT ended FROM sessions"))


@pytest.mark.parametrize("limit", ["max_packet_size 900", "message_size_limit 700"])
def test_a_broker_that_takes_not_even_the_smallest_frames_is_given_up(limit: str, tmp_path: Path) -> None:
    protocol = "3.1.1" if limit.startswith("max") else "5"
    with mosquitto(tmp_path, limit) as broker:
        with Sender(LinkSettings(port=broker.port, protocol=protocol)) as sender:
            fault = sender.faults.get(timeout=PATIENCE_S)
            assert not sender.link.connected
            time.sleep(1.0)
            assert broker.log.read_text().count("as sender") == sender.ups, "it comes back after it has given up"
        assert sender.largest[-LAST_STRIKES:] == [FLOOR_BYTES] * LAST_STRIKES, sender.largest
    for words in (f"127.0.0.1:{broker.port}", f"{FLOOR_BYTES} bytes", f"{LAST_STRIKES} times", "max_packet_size"):
        assert words in str(fault), str(fault)


def test_a_broker_that_announces_too_little_is_said_at_once(tmp_path: Path) -> None:
    with mosquitto(tmp_path, "max_packet_size 1000") as broker:
        link = Link(LinkSettings(port=broker.port), "x", on_message=ignore)
        began_s = time.monotonic()
        with pytest.raises(EnvironmentFaultError, match=r"at most 1000 bytes.*1536.*max_packet_size"):
            link.start()
        assert time.monotonic() - began_s < 5


@pytest.mark.parametrize(
    ("line", "window"), [("max_inflight_messages 7", 7), ("", 20), ("max_inflight_messages 0", 64)]
)
def test_no_more_in_flight_than_the_broker_announces(line: str, window: int, tmp_path: Path) -> None:
    inbox: queue.Queue[bytes] = queue.Queue()
    downs: list[str] = []
    with mosquitto(tmp_path, line, "max_queued_messages 0") as broker:
        settings = LinkSettings(port=broker.port, protocol="5")
        link = Link(settings, "x", on_message=lambda _topic, payload: inbox.put(payload), on_down=downs.append)
        link.subscribe("t")
        link.start()
        assert link._client is not None
        assert link._client.max_inflight_messages == window <= LARGEST_WINDOW
        for number in range(500):
            assert link.publish("t", b"%d" % number)
        assert [int(inbox.get(timeout=10)) for _ in range(500)] == list(range(500))
        end_s = time.monotonic() + 5.0
        while link.sending and time.monotonic() < end_s:
            time.sleep(0.01)
        assert not link.sending
        assert not downs
        link.stop()


# --- a whole federation ---------------------------------------------------------------------------------------------

LARGE = TaskSpec(dataset="digits", encoding=EncodingSpec(kind="direct", steps=2), model=ModelSpec(hidden=(2700,)))
"""64 · 2700 + 2700 + 2700 · 10 + 10 parameters: 810 kB."""


@pytest.mark.parametrize(
    ("limit", "protocol", "server_frames"),
    [
        ("max_packet_size 100000", "5", 262_144),
        ("max_packet_size 100000", "3.1.1", 262_144),
        ("message_size_limit 100000", "5", 262_144),
        ("message_size_limit 100000", "3.1.1", 16_000),
    ],
)
def test_a_large_update_gets_through_in_the_end(limit: str, protocol: str, server_frames: int, tmp_path: Path) -> None:
    with mosquitto(tmp_path / "broker", limit) as broker:
        link = LinkSettings(port=broker.port, protocol=protocol)
        server = ServerSettings(
            run="large",
            directory=tmp_path / "server",
            link=LinkSettings(port=broker.port, protocol=protocol, max_frame_bytes=server_frames),
            task=LARGE,
            schedule=(ScheduleEntry(kind="train", algorithm="fedsgd", batch_size=4, deadline_s=100.0),),
            export=False,
            evaluate=False,
            drain_s=5.0,
        )
        server.directory.mkdir()
        device = ClientSettings(
            run="large", node="d", directory=tmp_path / "device", shard=0, shards=1, engine="torch", link=link
        )
        stop, ends = threading.Event(), dict[str, int]()
        parties = [
            threading.Thread(target=lambda: ends.update(server=run_server(server, stop))),
            threading.Thread(target=lambda: ends.update(device=run_client(device, stop))),
        ]
        for party in parties:
            party.start()
        for party in parties:
            party.join(100.0)
        stop.set()
        for party in parties:
            party.join()
        with Ledger(server.directory / FILE_NAME) as ledger:
            rows = [dict(row) for row in ledger.rows("SELECT node, bytes, status FROM updates")]
    assert ends == {"server": 0, "device": 0}
    assert [(row["node"], row["status"]) for row in rows] == [("d", "admitted")], rows
    assert rows[0]["bytes"] > 800_000, rows
