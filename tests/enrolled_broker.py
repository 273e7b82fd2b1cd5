"""A broker as an operator would run it: the enrolment folder made by the command, mosquitto on the shipped settings."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from contract.link import LinkSettings, TlsSettings
from deploy.broker import LOOPBACK, free_port, mosquitto_path
from tests.conftest import spikeleak

ACCOUNT = pwd.getpwuid(os.geteuid()).pw_name
_PATIENCE_S = 20.0


def enroll(*arguments: str) -> str:
    """One `spikeleak enroll` that must succeed; what it printed."""
    done = spikeleak("enroll", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def start_mosquitto(settings: Path, port: int, log_path: Path) -> subprocess.Popen[bytes]:
    """A mosquitto that listens."""
    program = mosquitto_path()
    assert program is not None, "mosquitto is not on PATH"
    with log_path.open("ab") as log_file:
        command = [program, "-c", str(settings)]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log_file, stderr=log_file)
    end_s = time.monotonic() + _PATIENCE_S
    while time.monotonic() < end_s and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, port), 0.5):
            return process
        time.sleep(0.05)
    process.kill()
    process.wait()
    raise AssertionError(f"mosquitto does not listen: {log_path.read_text(errors='replace')[-2000:]}")


@contextlib.contextmanager
def mosquitto(settings: Path, port: int, log_path: Path) -> Iterator[None]:
    """A mosquitto for the time of a `with` block."""
    process = start_mosquitto(settings, port, log_path)
    try:
        yield
    finally:
        process.terminate()
        process.wait(_PATIENCE_S)


class EnrolledBroker:
    """An enrolment folder and its mosquitto.

    Args:
        folder: Where the enrolment folder is made.
        devices: Names of devices to enrol.
    """

    def __init__(self, folder: Path, *devices: str) -> None:
        self.folder, self.port = folder, free_port()
        self.command("init", "--host", "localhost", "--ip", LOOPBACK, "--port", str(self.port), "--user", ACCOUNT)
        if devices:
            self.command("device", *devices)
        self.log_path = folder.parent / f"{folder.name}-mosquitto.log"
        self._process: subprocess.Popen[bytes] | None = None

    def command(self, name: str, *arguments: str) -> str:
        """`spikeleak enroll NAME …` on this folder."""
        return enroll(name, *arguments, "--out", str(self.folder))

    def tls(self, party: str) -> TlsSettings:
        """The settings in a party's bundle."""
        own = party in {"server", "attacker", "operator"}
        place, stem = (self.folder / party, party) if own else (self.folder / "devices" / party, "device")
        return TlsSettings(ca=place / "ca.pem", certificate=place / f"{stem}.pem", key=place / f"{stem}.key")

    def link(self, party: str) -> LinkSettings:
        """How a party reaches the broker."""
        return LinkSettings(host="localhost", port=self.port, tls=self.tls(party))

    def settings_file(self) -> Path:
        """The shipped settings; only that the listener is bound to the loopback interface, and reloads are logged."""
        shipped = (self.folder / "broker" / "mosquitto.conf").read_text()
        bound = shipped.replace(f"\nlistener {self.port}\n", f"\nlistener {self.port} {LOOPBACK}\n")
        assert bound != shipped, shipped
        path = self.folder.parent / f"{self.folder.name}-loopback.conf"
        path.write_text(bound + "log_type information\n")
        return path

    def start(self) -> None:
        self._process = start_mosquitto(self.settings_file(), self.port, self.log_path)

    def reload(self) -> None:
        """SIGHUP, as `systemctl reload` sends it; returns once the log says that it was taken."""
        assert self._process is not None
        before = self.log_path.read_text().count("Reloading config")
        self._process.send_signal(signal.SIGHUP)
        end_s = time.monotonic() + _PATIENCE_S
        while self.log_path.read_text().count("Reloading config") == before:
            assert time.monotonic() < end_s, self.log_path.read_text()[-2000:]
            time.sleep(0.02)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(_PATIENCE_S)

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")


@contextlib.contextmanager
def enrolled_broker(folder: Path, *devices: str) -> Iterator[EnrolledBroker]:
    """Made, started, and stopped at the end."""
    made = EnrolledBroker(folder, *devices)
    made.start()
    try:
        yield made
    finally:
        made.stop()
