"""A connection that is dead and does not say so: half-open, or with a network thread that ended or hangs."""

from __future__ import annotations

import queue
import selectors
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from contract.link import Link, LinkSettings
from deploy.broker import Broker

KEEPALIVE_S = 1


class Proxy:
    """Passes bytes on both ways until it is told to swallow them, without ever closing anything."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.swallows, self._stop = threading.Event(), threading.Event()
        self.accepted = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        selector = selectors.DefaultSelector()
        selector.register(self._listener, selectors.EVENT_READ)
        everyone: list[socket.socket] = []
        while not self._stop.is_set():
            for key, _ in selector.select(0.05):
                if key.fileobj is self._listener:
                    near, _ = self._listener.accept()
                    far = socket.create_connection(("127.0.0.1", self._target))
                    selector.register(near, selectors.EVENT_READ, far)
                    selector.register(far, selectors.EVENT_READ, near)
                    everyone += [near, far]
                    self.accepted += 1
                    continue
                assert isinstance(key.fileobj, socket.socket)
                data = b""
                with suppress(OSError):
                    data = key.fileobj.recv(65536)
                if not data:
                    selector.unregister(key.fileobj)
                if not self.swallows.is_set():
                    with suppress(OSError):
                        key.data.sendall(data) if data else key.data.shutdown(socket.SHUT_WR)
        selector.close()
        for one in everyone:
            one.close()

    def end(self) -> None:
        self._stop.set()
        self._thread.join()
        self._listener.close()


@contextmanager
def proxy(port: int) -> Iterator[Proxy]:
    running = Proxy(port)
    try:
        yield running
    finally:
        running.end()


class Watched:
    """A link with what it said about itself, and when."""

    def __init__(self, port: int, protocol: str) -> None:
        self.ups: queue.Queue[float] = queue.Queue()
        self.downs: queue.Queue[tuple[float, str]] = queue.Queue()
        self.inbox: queue.Queue[bytes] = queue.Queue()
        self.on_message = lambda _topic, payload: self.inbox.put(payload)
        self.link = Link(
            LinkSettings(port=port, protocol=protocol, keepalive_s=KEEPALIVE_S),
            "watched",
            on_message=lambda topic, payload: self.on_message(topic, payload),  # noqa: PLW0108 - replaced on the way
            on_up=lambda: self.ups.put(time.monotonic()),
            on_down=lambda reason: self.downs.put((time.monotonic(), reason)),
            seed=1,
        )
        self.link.subscribe("t")
        self.link.start()
        self.ups.get(timeout=5)

    def works(self) -> bool:
        """Whether a message goes out and comes back."""
        assert self.link.publish("t", b"ping"), "offline"
        return self.inbox.get(timeout=5) == b"ping"


@pytest.mark.parametrize("talks", [True, False])
def test_a_half_open_connection_is_given_up_in_twice_the_keepalive(running_broker: Broker, *, talks: bool) -> None:
    with proxy(running_broker.link.port) as between:
        watched = Watched(between.port, running_broker.link.protocol)
        time.sleep(3 * KEEPALIVE_S)
        assert watched.downs.empty(), "an idle connection was given up"
        assert watched.works()
        between.swallows.set()
        began_s = time.monotonic()
        while talks and watched.downs.empty() and time.monotonic() - began_s < 10:
            watched.link.publish("t", bytes(1000))
            time.sleep(0.05)
        down_s, reason = watched.downs.get(timeout=10)
        assert down_s - began_s < 2 * KEEPALIVE_S + 2.5, f"{down_s - began_s:.1f} s until {reason}"
        between.swallows.clear()
        watched.ups.get(timeout=10)
        assert watched.works()
        watched.link.stop()


def test_a_network_thread_that_dies_is_replaced(running_broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(running_broker.link.port, running_broker.link.protocol)
    for fault in (RuntimeError("in the loop"), SystemExit("killed"), KeyError("b")):
        assert watched.link._client is not None

        def broken(*_: object, fault: BaseException = fault) -> int:
            raise fault

        began_s = time.monotonic()
        with monkeypatch.context() as patched:
            patched.setattr(watched.link._client, "loop_misc", broken)
            down_s, reason = watched.downs.get(timeout=5)
        assert down_s - began_s < 3, f"{down_s - began_s:.1f} s until {reason}"
        if isinstance(fault, Exception):
            assert type(fault).__name__ in reason, reason
        watched.ups.get(timeout=10)
        assert watched.works()
    watched.link.stop()


def test_a_network_thread_that_hangs_is_left_behind(running_broker: Broker) -> None:
    watched = Watched(running_broker.link.port, running_broker.link.protocol)
    release, entered = threading.Event(), threading.Event()

    def hang(_topic: str, _payload: bytes) -> None:
        entered.set()
        release.wait(60)

    keep, watched.on_message = watched.on_message, hang
    assert watched.link.publish("t", b"trap")
    assert entered.wait(5)
    watched.on_message = keep
    began_s = time.monotonic()
    down_s, reason = watched.downs.get(timeout=20)
    assert down_s - began_s < 2 * KEEPALIVE_S + 2.5, f"{down_s - began_s:.1f} s until {reason}"
    assert "nothing heard" in reason
    watched.ups.get(timeout=20)
    assert watched.works()
    release.set()
    time.sleep(0.5)
    assert watched.link.connected, "the thread that was left behind ended its successor"
    assert watched.works()
    watched.link.stop()
    for thread in threading.enumerate():
        if thread.name.startswith("paho-mqtt-client-watched"):
            thread.join(5)
            assert not thread.is_alive()


def test_a_link_on_a_half_open_connection_stops_in_time(running_broker: Broker) -> None:
    with proxy(running_broker.link.port) as between:
        watched = Watched(between.port, running_broker.link.protocol)
        between.swallows.set()
        began_s = time.monotonic()
        watched.link.stop(farewell=("state", b"bye"))
        assert time.monotonic() - began_s < 8
