"""Filters that are added while a connection comes up are not forgotten on it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

from contract.link import Link, LinkSettings

CONNECT, SUBSCRIBE = 1, 8


def packet(connection: socket.socket) -> tuple[int, bytes]:
    """Type and body of the next MQTT packet; bodies here are shorter than 128 bytes."""
    head = connection.recv(2, socket.MSG_WAITALL)
    assert len(head) == 2, "the link hung up"
    return head[0] >> 4, connection.recv(head[1], socket.MSG_WAITALL) if head[1] else b""


def filter_of(body: bytes) -> str:
    return body[4 : 4 + int.from_bytes(body[2:4], "big")].decode()


@contextmanager
def listening() -> Iterator[socket.socket]:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        server.settimeout(10)
        yield server


def test_a_filter_between_connack_and_suback_is_subscribed_to() -> None:
    up = threading.Event()
    with listening() as server:
        settings = LinkSettings(port=server.getsockname()[1], protocol="3.1.1")
        link = Link(settings, "slow-suback", on_message=lambda _topic, _payload: None, on_up=up.set)
        link.subscribe("first")
        link.start(timeout_s=None)
        connection, _ = server.accept()
        with closing(connection):
            connection.settimeout(10)
            assert packet(connection)[0] == CONNECT
            connection.sendall(b"\x20\x02\x00\x00")
            kind, body = packet(connection)
            assert (kind, filter_of(body)) == (SUBSCRIBE, "first")
            link.subscribe("second")  # the broker has not answered the first
            assert not link.connected
            kind, second = packet(connection)
            assert (kind, filter_of(second)) == (SUBSCRIBE, "second")
            for asked in (body, second):
                connection.sendall(b"\x90\x03" + asked[:2] + b"\x01")
            assert up.wait(10)
            link.stop()
