"""A real mosquitto with settings of a test's own, and certificates made on the spot."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import trustme

from contract.link import TlsSettings
from deploy.broker import LOOPBACK, free_port, mosquitto_path


class Mosquitto(msgspec.Struct, frozen=True, kw_only=True):
    """One that answers on loopback; `log` is its file."""

    port: int
    log: Path


@contextlib.contextmanager
def mosquitto(folder: Path, *lines: str, port: int = 0) -> Iterator[Mosquitto]:
    """Runs it with these lines in its configuration, for the time of a `with` block."""
    program = mosquitto_path()
    assert program is not None, "mosquitto is not on PATH; install it (Debian keeps it in /usr/sbin)"
    folder.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    user = ["user root"] if os.geteuid() == 0 else []
    log, settings = folder / "mosquitto.log", folder / "mosquitto.conf"
    settings.write_text("\n".join([*user, f"listener {port} {LOOPBACK}", "allow_anonymous true", *lines, ""]))
    with log.open("ab") as out:
        process = subprocess.Popen([program, "-c", str(settings)], stdout=out, stderr=out)
    try:
        _wait_for(process, port, log)
        yield Mosquitto(port=port, log=log)
    finally:
        process.terminate()
        process.wait(10)


def _wait_for(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    for _ in range(200):
        assert process.poll() is None, f"mosquitto ended with status {process.returncode}: {log.read_text()}"
        with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, port), 0.2):
            return
        time.sleep(0.05)
    raise AssertionError(f"mosquitto does not answer: {log.read_text()}")


class Authority:
    """A certificate authority in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._ca = folder, trustme.CA()
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(str(self.path))

    def issue(self, name: str, *hosts: str, days: float = 1.0) -> TlsSettings:
        """A certificate with this common name that is valid for so many days from now; of the past when negative."""
        now = datetime.now(UTC)
        leaf = self._ca.issue_cert(
            *(hosts or (name,)),
            common_name=name,
            not_before=now - timedelta(days=30),
            not_after=now + timedelta(days=days),
        )
        certificate, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        leaf.cert_chain_pems[0].write_to_path(str(certificate))
        key.touch(mode=0o600)
        leaf.private_key_pem.write_to_path(str(key))
        return TlsSettings(ca=self.path, certificate=certificate, key=key)

    def listener(self, own: TlsSettings) -> tuple[str, ...]:
        """Lines of a mosquitto that shows `own` and asks for certificates of this authority."""
        return (
            f"cafile {self.path}",
            f"certfile {own.certificate}",
            f"keyfile {own.key}",
            "require_certificate true",
            "use_identity_as_username true",
            "tls_version tlsv1.3",
            "log_type all",
        )
