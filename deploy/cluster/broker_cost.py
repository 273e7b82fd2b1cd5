"""What a message and a connection cost the broker, measured on a mosquitto of this machine over TLS 1.3.

Processor time is the broker's own (`/proc/PID/stat`), so that another load on the machine changes it little.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from contract.errors import EnvironmentFaultError
from contract.frames import CHUNK_BYTES
from contract.link import Link, LinkSettings, TlsSettings
from deploy import authority
from deploy.broker import LOOPBACK, free_port, mosquitto_path
from deploy.bundle import write_file

CONNECTIONS = 300
SMALL_BYTES, LARGE_BYTES = 256, CHUNK_BYTES
SMALL_COUNT, LARGE_COUNT = 4000, 600
_PATIENCE_S = 120.0
_START_S = 10.0
_CONNECT = bytes.fromhex("10 10 00 04 4d 51 54 54 04 02 02 58 00 04")
"""CONNECT of MQTT 3.1.1: clean session, keepalive 600 s, a client identifier of four bytes, which follow."""


class BrokerCost(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Measured on one broker.

    Attributes:
        broker: Its name and version.
        message_s: Processor seconds of a message that comes in and goes out once, whatever its size.
        byte_s: Further processor seconds a byte.
        connection_bytes: Resident memory of an idle connection over TLS.
    """

    broker: str
    message_s: float
    byte_s: float
    connection_bytes: float


def measure() -> BrokerCost:
    """Measures; takes some ten seconds.

    Raises:
        EnvironmentFaultError: mosquitto is not here, or does not take the messages.
    """
    with tempfile.TemporaryDirectory(prefix="spikeleak-broker-") as name, _broker(Path(name)) as (process, link):
        connection_bytes = _connections(process, link)  # first: later they would fill memory that messages left
        small_s = _passed(process, link, SMALL_BYTES, SMALL_COUNT) / SMALL_COUNT
        large_s = _passed(process, link, LARGE_BYTES, LARGE_COUNT) / LARGE_COUNT
        byte_s = max(0.0, large_s - small_s) / (LARGE_BYTES - SMALL_BYTES)
        return BrokerCost(
            broker=_version(),
            message_s=small_s - byte_s * SMALL_BYTES,
            byte_s=byte_s,
            connection_bytes=connection_bytes,
        )


@contextlib.contextmanager
def _broker(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], LinkSettings]]:
    program = mosquitto_path()
    if program is None:
        raise EnvironmentFaultError("mosquitto is not on PATH: install it (Debian: apt install mosquitto)")
    made = authority.new_authority("sizing")
    ca = folder / "ca.pem"
    write_file(ca, made.certificate)
    for name, hosts in (("broker", ("localhost",)), ("client", ())):
        identity = authority.issue(made, name, days=1, hosts=hosts)
        write_file(folder / f"{name}.pem", identity.certificate)
        write_file(folder / f"{name}.key", identity.key, private=True)
    port = free_port()
    lines = [
        f"listener {port} {LOOPBACK}",
        f"cafile {ca}",
        f"certfile {folder}/broker.pem",
        f"keyfile {folder}/broker.key",
    ]
    lines += ["tls_version tlsv1.3", "require_certificate true", "allow_anonymous true", "log_type error"]
    lines += ["max_queued_messages 0", "max_inflight_messages 1000", "set_tcp_nodelay true"]
    lines += ["user root"] * (os.geteuid() == 0)
    (folder / "mosquitto.conf").write_text("\n".join([*lines, ""]), encoding="ascii")
    process = subprocess.Popen([program, "-c", str(folder / "mosquitto.conf")], stderr=subprocess.DEVNULL)
    tls = TlsSettings(ca=ca, certificate=folder / "client.pem", key=folder / "client.key")
    try:
        _wait_until_it_listens(port)
        yield process, LinkSettings(host="localhost", port=port, tls=tls)
    finally:
        process.terminate()
        process.wait()


def _passed(process: subprocess.Popen[bytes], settings: LinkSettings, nbytes: int, count: int) -> float:
    """Processor seconds of the broker for messages from one connection to another."""
    all_there, heard, payload = threading.Event(), [0], os.urandom(nbytes)

    def hear(_topic: str, _payload: bytes) -> None:
        heard[0] += 1
        if heard[0] == count:
            all_there.set()

    reader = Link(settings, "reader", on_message=hear)
    writer = Link(settings, "writer", on_message=lambda _topic, _payload: None)
    reader.subscribe("sizing/#")
    try:
        reader.start()
        writer.start()
        before_s = _cpu_s(process.pid)
        for sent in range(count):
            while sent - heard[0] > 100:  # a queue that grows would be measured too
                if not writer.connected:
                    raise EnvironmentFaultError("mosquitto ended the connection while it was measured; try again")
                time.sleep(0.001)
            writer.publish("sizing/x", payload)
        if not all_there.wait(_PATIENCE_S):
            raise EnvironmentFaultError(f"mosquitto passed on {heard[0]} of {count} messages in {_PATIENCE_S:g} s")
        return _cpu_s(process.pid) - before_s
    finally:
        writer.stop()
        reader.stop()


def _wait_until_it_listens(port: int) -> None:
    until_s = time.monotonic() + _START_S
    while True:
        try:
            socket.create_connection((LOOPBACK, port), 1).close()
        except OSError as error:
            if time.monotonic() > until_s:
                raise EnvironmentFaultError(f"mosquitto does not listen after {_START_S:g} s: {error}") from error
            time.sleep(0.02)
        else:
            return


def _connections(process: subprocess.Popen[bytes], settings: LinkSettings) -> float:
    """Resident bytes of an idle connection."""
    assert settings.tls is not None
    context = settings.tls.context()
    context.sslsocket_class = ssl.SSLSocket
    with contextlib.ExitStack() as opened:
        before = 0
        for number in range(CONNECTIONS + 50):
            if number == 50:  # what the first ones make the broker take for good is not a connection's
                before = _resident_bytes(process.pid)
            plain = socket.create_connection((settings.host, settings.port), 10)
            line = opened.enter_context(context.wrap_socket(plain, server_hostname=settings.host))
            line.sendall(_CONNECT + f"{number:04d}".encode())
            if line.recv(4)[3:] != b"\0":
                raise EnvironmentFaultError("mosquitto refused a connection while it was measured; try again")
        return (_resident_bytes(process.pid) - before) / CONNECTIONS


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _version() -> str:
    program = mosquitto_path()
    assert program is not None
    return subprocess.run([program, "-h"], capture_output=True, text=True, check=False).stdout.split("\n")[0]
