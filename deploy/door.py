"""A run's door: where attackers on other machines reach its broker, which is otherwise on the loopback interface alone.

TLS 1.3 with mutual authentication by an authority of the door's own, whose key is never written: one certificate for
the broker at one address, one for the attackers. The broker gives who comes through the door what an attacker may do
(`deploy.acl`), so that whoever holds the attackers' key reads the mirror and neither truths nor scores.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from pathlib import Path

import msgspec

from contract.errors import ConfigurationError, EnvironmentFaultError
from contract.link import LinkSettings, TlsSettings
from deploy.acl import ATTACKER, render

_DAYS = 366
"""A door is made anew whenever its run is started."""
_EVERYBODY = "# Parties on the loopback interface, which show no certificate, may do everything.\ntopic readwrite #\n"


class Door(msgspec.Struct, frozen=True, kw_only=True):
    """A listener with its files.

    Attributes:
        host: Address of this machine that it listens on.
        port: Its port.
        folder: Of its certificates, keys and ACL.
    """

    host: str
    port: int
    folder: Path

    @property
    def link(self) -> LinkSettings:
        """How attackers reach the broker."""
        certificate, key = (self.folder / f"{ATTACKER}.{end}" for end in ("pem", "key"))
        tls = TlsSettings(ca=self.folder / "ca.pem", certificate=certificate, key=key)
        return LinkSettings(host=self.host, port=self.port, tls=tls)

    def lines(self) -> str:
        """What mosquitto's configuration says of it. No certificate, no connection: anonymous are only local ones."""
        return (
            f"acl_file {self.folder / 'acl'}\n"
            f"listener {self.port} {self.host}\n"
            f"cafile {self.folder / 'ca.pem'}\n"
            f"certfile {self.folder / 'broker.pem'}\nkeyfile {self.folder / 'broker.key'}\n"
            "tls_version tlsv1.3\nrequire_certificate true\nuse_identity_as_username true\n"
        )


def make(host: str, folder: Path) -> Door:
    """A door at an address of this machine, at a free port.

    Args:
        host: The address, as others reach it; never all interfaces (`0.0.0.0`).
        folder: Made for its files.

    Raises:
        ConfigurationError: No address of one interface, or the package `cryptography` is not installed.
        EnvironmentFaultError: The address is none of this machine's.
    """
    try:
        one = not ipaddress.ip_address(host).is_unspecified
    except ValueError:
        one = False
    if not one:
        raise ConfigurationError(f"host = {host!r}: a door needs the address of one interface of this machine")
    port = _free_port(host)
    try:
        from deploy.authority import issue, new_authority  # noqa: PLC0415 - an extra of its own
    except ImportError as error:
        raise ConfigurationError(
            "attack jobs of their own need TLS certificates: pip install 'spikeleak[cluster]' on each node"
        ) from error
    authority = new_authority("spikeleak run")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ca.pem").write_bytes(authority.certificate)
    for name, hosts in (("broker", (host,)), (ATTACKER, ())):
        identity = issue(authority, name, days=_DAYS, hosts=hosts)
        (folder / f"{name}.pem").write_bytes(identity.certificate)
        write_key(folder / f"{name}.key", identity.key)
    (folder / "acl").write_text(_EVERYBODY + render([ATTACKER]), encoding="utf-8")
    return Door(host=host, port=port, folder=folder)


def write_key(path: Path, key: bytes) -> None:
    """Writes a private key that only this user can read."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(key)


def _free_port(host: str) -> int:
    try:
        with socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            return int(probe.getsockname()[1])
    except OSError as error:
        raise EnvironmentFaultError(f"cannot listen on {host}: {error.strerror or error}") from error
