"""A broker for runs on one machine: mosquitto from PATH, otherwise amqtt embedded, otherwise a clear error.

The broker is a process of its own, on the loopback interface only. `python -m deploy.broker PORT` serves amqtt.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from contract.errors import ConfigurationError, EnvironmentFaultError
from contract.link import Link, LinkSettings, TlsSettings
from deploy.door import Door
from deploy.supervisor import end_with_parent, module_environment

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
_START_TIMEOUT_S = 20.0
_RESTARTS = 10
_RESTART_DELAY_S = 1.0


class BrokerSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[broker]` of a study.

    Attributes:
        kind: `auto` (mosquitto if it is on PATH, otherwise amqtt), `mosquitto`, `amqtt`, or `external` (one that runs
            already at host and port).
        host: Name or address of an external broker.
        port: Its port; for the others 0 takes a free one.
        tls: For an external broker: the files of `[link.tls]`. All parties of the study show this one certificate.
        insecure: Permits an external broker beyond loopback without TLS.
    """

    kind: Literal["auto", "mosquitto", "amqtt", "external"] = "auto"
    host: str = LOOPBACK
    port: Annotated[int, Meta(ge=0, le=65535)] = 0
    tls: TlsSettings | None = None
    insecure: bool = False

    def __post_init__(self) -> None:
        if self.kind == "external":
            self.external()
        elif self.tls is not None or self.insecure:
            raise ValueError(
                f"tls or insecure with kind = {self.kind!r}: such a broker serves loopback alone, in the clear; leave "
                "them out, or set kind = 'external'"
            )

    def external(self) -> LinkSettings:
        """How to reach an external broker.

        Raises:
            UnprotectedLinkError: It lies beyond loopback, with neither `tls` nor `insecure`.
        """
        tls = None if self.tls is None else self.tls.absolute()
        return LinkSettings(host=self.host, port=self.port or 1883, tls=tls, insecure=self.insecure)


class Broker(msgspec.Struct, frozen=True, kw_only=True):
    """A broker that answers.

    Attributes:
        door: How attackers on other machines reach it, where it has a door for them.
        tend: To be called now and then: a broker of our own that died is started again.
    """

    name: str
    link: LinkSettings
    door: LinkSettings | None = None
    tend: Callable[[], None] = lambda: None


def _mosquitto(port: int, directory: Path, door: Door | None) -> list[str]:
    """Command for mosquitto; its configuration goes into `directory`."""
    program = mosquitto_path()
    if program is None:
        raise ConfigurationError("broker.kind = 'mosquitto': not on PATH; install mosquitto or use kind = 'amqtt'")
    settings = directory / "mosquitto.conf"
    # Started by root, mosquitto would become another user, and Linux then forgets that it is to end with its parent.
    user = "user root\n" if os.geteuid() == 0 else ""
    settings.write_text(
        f"{user}listener {port} {LOOPBACK}\nallow_anonymous true\npersistence false\n"
        "set_tcp_nodelay true\nmax_queued_messages 100000\nmax_inflight_messages 0\n"
        f"log_dest stderr\nlog_type error\nlog_type warning\n{door.lines() if door else ''}",
        encoding="utf-8",
    )
    return [program, "-c", str(settings)]


def _amqtt(port: int, _directory: Path, door: Door | None) -> list[str]:
    """Command for the embedded broker."""
    if door is not None:
        raise ConfigurationError("broker.kind = 'amqtt': it has no door for attackers elsewhere; install mosquitto")
    if importlib.util.find_spec("amqtt") is None:
        raise ConfigurationError("broker.kind = 'amqtt': not installed; pip install 'spikeleak[lab]'")
    return [sys.executable, "-m", "deploy.broker", str(port)]


_COMMANDS: dict[str, Callable[[int, Path, Door | None], list[str]]] = {"mosquitto": _mosquitto, "amqtt": _amqtt}
KINDS = tuple(_COMMANDS)
"""Brokers that this machine can start itself."""


def mosquitto_path() -> str | None:
    """Path of mosquitto; Debian keeps it in /usr/sbin, which is not on every user's PATH."""
    return shutil.which("mosquitto")


def choose(kind: str) -> str:
    """The broker that `auto` means on this machine.

    Raises:
        EnvironmentFaultError: There is neither mosquitto nor amqtt.
    """
    if kind != "auto":
        return kind
    if mosquitto_path() is not None:
        return "mosquitto"
    if importlib.util.find_spec("amqtt") is not None:
        return "amqtt"
    raise EnvironmentFaultError(
        "no broker: mosquitto is not on PATH and amqtt is not installed; "
        "install mosquitto, or 'pip install spikeleak[lab]', or name a running one under [broker]"
    )


def free_port() -> int:
    """A TCP port of the loopback interface that is free now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def require_free(port: int) -> None:
    """Checks that nothing listens on `port`.

    Raises:
        EnvironmentFaultError: The port is taken.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            raise EnvironmentFaultError(
                f"broker.port = {port}: cannot listen on {LOOPBACK}:{port} ({error.strerror}); "
                "free the port, choose another, or set port = 0 for any free one"
            ) from error


def probe(link: LinkSettings, *, timeout_s: float) -> None:
    """Connects once and leaves.

    Raises:
        EnvironmentFaultError: No MQTT broker answers in time.
    """
    visitor = Link(link, f"probe-{time.monotonic_ns():x}", on_message=lambda _topic, _payload: None)
    visitor.start(timeout_s=timeout_s)
    visitor.stop()


@contextlib.contextmanager
def serve(section: BrokerSection, directory: Path, door: Door | None = None) -> Iterator[Broker]:
    """A broker for the time of a `with` block.

    Args:
        section: Which broker, and where.
        directory: For its configuration and log.
        door: A second listener, of mosquitto, for attackers on other machines.

    Raises:
        ConfigurationError: The chosen broker is not installed.
        EnvironmentFaultError: None is there, the port is taken, or it does not answer.
    """
    if section.kind == "external":
        if section.port == 0:
            raise ConfigurationError("broker.port = 0 with kind = 'external': name the running broker's port")
        link = section.external()
        probe(link, timeout_s=5.0)
        yield Broker(name=f"external {section.host}:{section.port}", link=link)
        return
    kind = choose(section.kind)
    port = section.port or free_port()
    require_free(port)
    process = _Process(kind, _COMMANDS[kind](port, directory, door), directory / f"{kind}.log")
    process.start()
    try:
        link = LinkSettings(port=port, protocol="3.1.1" if kind == "amqtt" else "auto")
        _wait_until_it_answers(process, link)
        yield Broker(name=kind, link=link, door=door.link if door else None, tend=process.tend)
    finally:
        process.end()


class _Process:
    """A broker of our own. All that it forgets in a crash the parties publish again when they are connected again."""

    def __init__(self, kind: str, command: list[str], log_path: Path) -> None:
        self.kind, self._command, self._log_path = kind, command, log_path
        self._restarts = 0
        self._started_s = 0.0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._started_s = time.monotonic()
        with self._log_path.open("ab") as log_file:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log_file,
                stderr=log_file,
                env=module_environment(),
                start_new_session=True,
                preexec_fn=end_with_parent,  # noqa: PLW1509 - calls one function of libc
            )

    def ended(self) -> str:
        """How it ended, in words; empty while it runs."""
        if self._process is None or self._process.poll() is None:
            return ""
        tail = self._log_path.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        return f"status {self._process.returncode}: {''.join(tail) or 'no output'} (log: {self._log_path})"

    def tend(self) -> None:
        """Starts it again if it died.

        Raises:
            EnvironmentFaultError: It died too often.
        """
        ended = self.ended()
        if not ended or time.monotonic() - self._started_s < _RESTART_DELAY_S:
            return
        if self._restarts >= _RESTARTS:
            raise EnvironmentFaultError(f"{self.kind} died {self._restarts + 1} times, the last time with {ended}")
        self._restarts += 1
        log.warning("%s died with %s; starting it again (%d)", self.kind, ended, self._restarts)
        self.start()

    def end(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _wait_until_it_answers(process: _Process, link: LinkSettings) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline:
        ended = process.ended()
        if ended:
            raise EnvironmentFaultError(f"{process.kind} ended at once with {ended}")
        with contextlib.suppress(OSError), socket.create_connection((link.host, link.port), 0.2):
            break
        time.sleep(0.05)
    probe(link, timeout_s=max(1.0, deadline - time.monotonic()))


async def _serve_amqtt(port: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from amqtt.broker import Broker as AmqttBroker  # noqa: PLC0415 - only this process needs it
    broker = AmqttBroker(
        {
            "listeners": {"default": {"type": "tcp", "bind": f"{LOOPBACK}:{port}", "max_connections": 2000}},
            "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
        }
    )
    await broker.start()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    await broker.shutdown()


def main() -> None:
    """Serves amqtt on the loopback interface until SIGTERM."""
    logging.basicConfig(level=logging.ERROR)
    asyncio.run(_serve_amqtt(int(sys.argv[1])))


if __name__ == "__main__":
    main()
