"""The link against real brokers."""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Callable

import pytest

from contract.errors import EnvironmentFaultError
from contract.link import Link, LinkSettings
from deploy.broker import Broker, free_port


def collector() -> tuple[queue.Queue[tuple[str, bytes]], Callable[[str, bytes], None]]:
    inbox: queue.Queue[tuple[str, bytes]] = queue.Queue()
    return inbox, lambda topic, payload: inbox.put((topic, payload))


def ignore(_topic: str, _payload: bytes) -> None:
    return None


def test_messages_arrive_in_order_and_whole(running_broker: Broker) -> None:
    inbox, put = collector()
    reader = Link(running_broker.link, "reader", on_message=put)
    reader.subscribe("t/#")
    writer = Link(running_broker.link, "writer", on_message=ignore)
    reader.start()
    writer.start()
    sent = [bytes([i]) * 200_000 for i in range(30)]
    for payload in sent:
        assert writer.publish("t/x", payload)
    received = [inbox.get(timeout=10) for _ in sent]
    writer.stop()
    reader.stop()
    assert received == [("t/x", payload) for payload in sent]


def test_a_callback_that_raises_does_not_end_the_network_thread(running_broker: Broker) -> None:
    inbox, put = collector()

    def fragile(topic: str, payload: bytes) -> None:
        if payload == b"bad":
            raise RuntimeError("callback fault")
        put(topic, payload)

    def broken_up() -> None:
        raise RuntimeError("on_up fault")

    reader = Link(running_broker.link, "reader", on_message=fragile, on_up=broken_up)
    reader.subscribe("t")
    reader.start()
    writer = Link(running_broker.link, "writer", on_message=ignore)
    writer.start()
    for payload in (b"bad", b"good", b"bad", b"last"):
        writer.publish("t", payload)
    assert [inbox.get(timeout=5)[1] for _ in range(2)] == [b"good", b"last"]
    assert reader.connected
    writer.stop()
    reader.stop()


def test_will_is_published_when_a_party_vanishes_and_not_after_a_farewell(running_broker: Broker) -> None:
    inbox, put = collector()
    watcher = Link(running_broker.link, "watcher", on_message=put)
    watcher.subscribe("state")
    watcher.start()
    vanishing = Link(running_broker.link, "vanishing", will=("state", b"gone"), on_message=ignore)
    vanishing.start()
    assert vanishing._client is not None
    sock = vanishing._client.socket()
    assert sock is not None
    vanishing._stopping.set()  # no reconnect
    sock.shutdown(socket.SHUT_RDWR)
    assert inbox.get(timeout=5) == ("state", b"gone")
    polite = Link(running_broker.link, "polite", will=("state", b"gone"), on_message=ignore)
    polite.start()
    polite.stop(farewell=("state", b"bye"))
    assert inbox.get(timeout=5) == ("state", b"bye")
    with pytest.raises(queue.Empty):
        inbox.get(timeout=0.5)
    watcher.stop()


def test_comes_back_with_its_subscriptions_after_a_lost_connection(running_broker: Broker) -> None:
    inbox, put = collector()
    ups = threading.Semaphore(0)
    downs: list[str] = []
    link = Link(running_broker.link, "phoenix", on_message=put, on_up=ups.release, on_down=downs.append, seed=1)
    link.subscribe("t")
    link.start()
    assert ups.acquire(timeout=5)
    assert link._client is not None
    sock = link._client.socket()
    assert sock is not None
    sock.shutdown(socket.SHUT_RDWR)
    assert ups.acquire(timeout=5)
    assert len(downs) == 1
    assert link.publish("t", b"again")
    assert inbox.get(timeout=5) == ("t", b"again")
    link.unsubscribe("t")
    link.stop()
    assert not link.publish("t", b"late")


def test_auto_falls_back_to_what_the_broker_speaks(running_broker: Broker) -> None:
    link = Link(LinkSettings(port=running_broker.link.port, protocol="auto"), "auto", on_message=ignore)
    link.start(timeout_s=15)
    assert link.protocol == ("5" if running_broker.name == "mosquitto" else "3.1.1")
    link.stop()


def test_offline_publish_is_refused_and_never_sent_later(running_broker: Broker) -> None:
    inbox, put = collector()
    watcher = Link(running_broker.link, "watcher", on_message=put)
    watcher.subscribe("t")
    watcher.start()
    link = Link(running_broker.link, "early", on_message=ignore)
    assert not link.publish("t", b"too early")
    link.start()
    assert link.publish("t", b"in time")
    assert inbox.get(timeout=5) == ("t", b"in time")
    with pytest.raises(queue.Empty):
        inbox.get(timeout=0.3)
    link.stop()
    watcher.stop()


def test_unreachable_broker_is_a_clear_error_in_time() -> None:
    port = free_port()
    link = Link(LinkSettings(port=port), "lonely", on_message=ignore)
    began_s = time.monotonic()
    with pytest.raises(EnvironmentFaultError, match=rf"broker 127\.0\.0\.1:{port} not reached within 1 s"):
        link.start(timeout_s=1.0)
    assert time.monotonic() - began_s < 5


def test_frames_shrink_to_what_the_broker_announces() -> None:
    class Announcement:
        MaximumPacketSize = 20_000

    class Fine:
        is_failure = False

    link = Link(LinkSettings(), "small", on_message=ignore)
    client = link._new_client()
    link._connected(client, client.user_data_get(), None, Fine(), Announcement())  # type: ignore[arg-type]
    assert 15_000 < link.frame_bytes < 20_000
