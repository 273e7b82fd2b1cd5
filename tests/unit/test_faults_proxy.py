"""The fault proxy does what it is told: its figures are measured here, its breaks are seen from both sides."""

from __future__ import annotations

import json
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from deploy.shaping.proxy import LOOPBACK, Conditions, Direction, Proxy

PATIENCE_S = 10.0


class Peer:
    """A server that accepts one connection after another and gives them out."""

    def __init__(self) -> None:
        self.listener = socket.create_server((LOOPBACK, 0))
        self.listener.settimeout(PATIENCE_S)
        self.port = self.listener.getsockname()[1]

    def accept(self) -> socket.socket:
        found, _ = self.listener.accept()
        found.settimeout(PATIENCE_S)
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return found


@contextmanager
def link(conditions: Conditions | None = None, seed: int = 0) -> Iterator[tuple[Proxy, socket.socket, socket.socket]]:
    """A proxy with one connection through it: proxy, the client's end, the server's end."""
    peer = Peer()
    with (
        peer.listener,
        Proxy(peer.port, conditions=conditions, seed=seed) as proxy,
        connect(proxy) as client,
        peer.accept() as server,
    ):
        yield proxy, client, server


def connect(proxy: Proxy) -> socket.socket:
    found = socket.create_connection((LOOPBACK, proxy.port), timeout=PATIENCE_S)
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return found


def receive(end: socket.socket, count: int) -> bytes:
    found = bytearray()
    while len(found) < count:
        part = end.recv(min(65536, count - len(found)))
        assert part, f"the connection ended after {len(found)} of {count} bytes"
        found += part
    return bytes(found)


def silent(end: socket.socket, seconds: float) -> bool:
    """Whether an end hears nothing at all, no data, FIN or RST, for a while."""
    return not select.select([end], [], [], seconds)[0]


def send_all(end: socket.socket, data: bytes) -> threading.Thread:
    def work() -> None:
        with suppress(OSError):
            end.sendall(data)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_bytes_pass_unchanged_both_ways_and_an_end_is_passed_on():
    data = bytes(range(256)) * 4096
    with link() as (proxy, client, server):
        for source, sink in ((client, server), (server, client)):
            sender = send_all(source, data)
            assert receive(sink, len(data)) == data
            sender.join()
        client.shutdown(socket.SHUT_WR)
        assert server.recv(1) == b""
        server.sendall(b"still open")
        assert receive(client, 10) == b"still open"
        assert (proxy.tally.bytes_up, proxy.tally.bytes_down) == (len(data), len(data) + 10)
        assert (proxy.tally.connections, proxy.tally.flipped_bits) == (1, 0)


@pytest.mark.parametrize("latency_s", [0.05, 0.15])
def test_latency_is_within_a_tenth_of_what_was_asked(latency_s: float):
    with link(Conditions(up=Direction(latency_s=latency_s), down=Direction(latency_s=2 * latency_s))) as (_, a, b):
        took = {"up": [], "down": []}
        for _ in range(20):
            for way, source, sink in (("up", a, b), ("down", b, a)):
                began = time.monotonic()
                source.sendall(b"x")
                receive(sink, 1)
                took[way].append(time.monotonic() - began)
        for way, asked_s in (("up", latency_s), ("down", 2 * latency_s)):
            assert min(took[way]) >= asked_s, took[way]
            lower_quartile_s = sorted(took[way])[5]  # what is above it is this machine, when it is busy
            assert lower_quartile_s < 1.1 * asked_s, took[way]


def test_latency_delays_a_stream_once_and_not_each_of_its_chunks():
    data = bytes(2_000_000)
    with link(Conditions(up=Direction(latency_s=0.2))) as (_, client, server):
        began = time.monotonic()
        sender = send_all(client, data)
        receive(server, len(data))
        assert 0.2 <= time.monotonic() - began < 1.5
        sender.join()


@pytest.mark.parametrize("bytes_s", [50_000, 2_000_000])
def test_bandwidth_is_within_a_tenth_of_what_was_asked(bytes_s: int):
    data = bytes(int(1.5 * bytes_s))
    with link(Conditions(down=Direction(bytes_s=bytes_s))) as (_, client, server):
        began = time.monotonic()
        sender = send_all(server, data)
        receive(client, len(data))
        seen = len(data) / (time.monotonic() - began)
        sender.join()
        assert abs(seen / bytes_s - 1) < 0.1, f"{seen:.0f} B/s in place of {bytes_s}"


def test_the_connections_of_a_link_share_its_bandwidth_and_a_burst_passes_at_once():
    peer = Peer()
    slow = Conditions(up=Direction(bytes_s=100_000, burst_bytes=20_000))
    with (
        peer.listener,
        Proxy(peer.port, conditions=slow) as proxy,
        connect(proxy) as a,
        peer.accept() as far_a,
        connect(proxy) as b,
        peer.accept() as far_b,
    ):
        began = time.monotonic()
        a.sendall(bytes(18_000))
        receive(far_a, 18_000)
        assert time.monotonic() - began < 0.1
        senders = [send_all(a, bytes(60_000)), send_all(b, bytes(60_000))]
        receive(far_a, 60_000)
        receive(far_b, 60_000)
        took_s = time.monotonic() - began
        for sender in senders:
            sender.join()
    expected_s = (138_000 - 20_000) / 100_000
    assert abs(took_s / expected_s - 1) < 0.1, f"{took_s:.2f} s in place of {expected_s:.2f} s"


@pytest.mark.parametrize("how", ["command", "probability"])
def test_a_reset_is_a_reset_on_both_sides(how: str):
    with link() as (proxy, client, server):
        client.sendall(b"before")
        assert receive(server, 6) == b"before"
        if how == "probability":
            proxy.shape(Conditions(up=Direction(reset_probability=1.0)))
            client.sendall(b"x")
        else:
            assert proxy.reset() == 1
        for end in (client, server):
            with pytest.raises(ConnectionResetError):
                end.recv(1)
        assert proxy.tally.resets == 1


def test_resets_come_as_often_as_asked_and_repeat_with_the_seed():
    def lived(seed: int) -> list[int]:
        """Chunks that got through before the reset, of each of 60 connections."""
        peer, counts = Peer(), []
        often = Conditions(up=Direction(reset_probability=0.2))
        with peer.listener, Proxy(peer.port, conditions=often, seed=seed) as p:
            for _ in range(60):
                with connect(p) as client, peer.accept() as server:
                    counts.append(0)
                    with suppress(ConnectionResetError, BrokenPipeError):
                        while True:
                            client.sendall(b"x")
                            receive(server, 1)
                            counts[-1] += 1
            assert p.tally.resets == 60
        return counts

    first = lived(seed=4)
    assert lived(seed=4) == first
    mean = sum(first) / len(first)
    assert 2.4 < mean < 5.9, f"mean of {mean:.2f} chunks: 4 is expected, 2.4 … 5.9 are three standard errors"


@pytest.mark.parametrize("closed", ["server", "client"])
def test_a_half_open_connection_is_silent_on_one_side_and_ended_on_the_other(closed: str):
    with link() as (proxy, client, server):
        client.sendall(b"before")
        assert receive(server, 6) == b"before"
        assert proxy.half_open(closed=closed) == 1
        gone, left = (server, client) if closed == "server" else (client, server)
        with suppress(ConnectionResetError):
            assert gone.recv(1) == b""
        for _ in range(5):
            left.sendall(b"is anybody there?")
            assert silent(left, 0.2), "it heard something"
        assert proxy.half_open() == 0, "a deserted connection is not counted again"


def test_while_stalled_nothing_comes_and_afterwards_everything():
    with link() as (proxy, client, server):
        proxy.stall()
        client.sendall(b"later")
        server.sendall(b"too")
        assert silent(server, 0.3)
        assert silent(client, 0.1)
        proxy.stall(on=False)
        assert (receive(server, 5), receive(client, 3)) == (b"later", b"too")


def test_a_partition_holds_what_stands_and_ends_what_was_opened_meanwhile():
    peer = Peer()
    with peer.listener, Proxy(peer.port) as proxy, connect(proxy) as old, peer.accept() as far:
        proxy.partition()
        old.sendall(b"held")
        with connect(proxy) as new:
            new.sendall(b"hello?")
            assert silent(new, 0.3)
            assert silent(far, 0.1)
            peer.listener.settimeout(0.2)
            with pytest.raises(TimeoutError):
                peer.accept()
            peer.listener.settimeout(PATIENCE_S)
            proxy.partition(on=False)
            assert receive(far, 4) == b"held"
            with suppress(ConnectionResetError):
                assert new.recv(1) == b""
        with connect(proxy) as again, peer.accept() as further:
            again.sendall(b"again")
            assert receive(further, 5) == b"again"


def test_bits_flip_as_often_as_asked_whatever_the_chunks():
    data = bytes(400_000)
    with link(Conditions(up=Direction(flip_probability=0.01)), seed=1) as (proxy, client, server):
        sender = send_all(client, data)
        found = receive(server, len(data))
        sender.join()
        harmed = [byte for byte in found if byte]
        assert all(byte.bit_count() == 1 for byte in harmed)
        assert proxy.tally.flipped_bits == len(harmed)
        assert 3_750 < len(harmed) < 4_250, "4,000 are expected, a standard deviation is 63"
    with link(Conditions(up=Direction(flip_probability=1.0))) as (_, client, server):
        client.sendall(bytes(50))
        assert all(byte.bit_count() == 1 for byte in receive(server, 50))


def test_a_server_that_is_not_there_ends_the_connection():
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
    with Proxy(port) as proxy, connect(proxy) as client, suppress(ConnectionResetError):
        assert client.recv(1) == b""


@pytest.mark.parametrize(
    ("field", "value"),
    [("latency_s", -1.0), ("bytes_s", 0.0), ("burst_bytes", float("nan")), ("reset_probability", 1.1)],
)
def test_conditions_that_cannot_be_are_refused_by_name(field: str, value: float):
    with pytest.raises(ValueError, match=field):
        Direction(**{field: value})


def test_a_proxy_process_obeys_its_commands():
    peer = Peer()
    command = [sys.executable, "-m", "deploy.shaping.proxy", str(peer.port), "--seed", "3"]
    with peer.listener, subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def say(line: str) -> str:
            process.stdin.write(line + "\n")
            process.stdin.flush()
            return process.stdout.readline().strip()

        port = int(process.stdout.readline())
        with socket.create_connection((LOOPBACK, port)) as client, peer.accept() as server:
            assert say('shape {"up": {"latency_s": 0.1}}') == "done"
            began = time.monotonic()
            client.sendall(b"x")
            receive(server, 1)
            assert time.monotonic() - began >= 0.1
            assert say("stall on") == "done"
            client.sendall(b"y")
            assert silent(server, 0.2)
            assert say("stall off") == "done"
            assert receive(server, 1) == b"y"
            assert json.loads(say("tally"))["bytes_up"] == 2
            assert say("bend").startswith("error: 'bend'")
            assert say('shape {"up": {"latency": 1}}').startswith("error: ")
            assert say("reset") == "1"
            with pytest.raises(ConnectionResetError):
                client.recv(1)
        process.stdin.close()
        assert process.wait(PATIENCE_S) == 0
