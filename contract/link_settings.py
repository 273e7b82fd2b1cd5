"""What a party is told about its broker: `[link]` and `[link.tls]`. Beyond loopback TLS, unless told by name."""

from __future__ import annotations

import ipaddress
import logging
import ssl
import stat
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from contract.errors import ConfigurationError
from contract.frames import CHUNK_BYTES
from contract.link_limits import FLOOR_BYTES

log = logging.getLogger(__name__)


class UnprotectedLinkError(ConfigurationError, ValueError):
    """A link that would leave this machine in the clear, though nobody said so by name."""


class _Socket(ssl.SSLSocket):
    """Closed when its handshake fails: nobody else would."""

    def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002 - of the library
        try:
            super().do_handshake(block)
        except OSError:
            self.close()
            raise


class _Context(ssl.SSLContext):
    """Holds the broker to a name of its own, where that is another than the host that is connected to."""

    server_name: str | None = None

    def wrap_socket(self, *arguments: Any, **options: Any) -> ssl.SSLSocket:
        if self.server_name is not None:
            options["server_hostname"] = self.server_name
        return super().wrap_socket(*arguments, **options)


class TlsSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """TLS 1.3 with mutual authentication, `[link.tls]`.

    Attributes:
        ca: Certificate of the authority that signed the broker's, PEM.
        certificate: This party's own, PEM; its common name is the party's identity (a device's is its node id) where
            the link has no `username`.
        key: Its private key, PEM.
        server_name: Name that the broker's certificate must carry, where the link leads to another host: that of a
            tunnel or proxy before it. `None`: the link's host.
    """

    ca: Path
    certificate: Path
    key: Path
    server_name: Annotated[str, Meta(min_length=1)] | None = None

    def context(self) -> ssl.SSLContext:
        """For a client: the broker's name and certificate are checked. Warns of a key that others can read.

        Raises:
            ConfigurationError: A file is missing, unreadable or no PEM, or key and certificate do not belong together.
        """
        try:
            context = _Context(ssl.PROTOCOL_TLS_CLIENT)
            context.verify_flags = ssl.create_default_context(cafile=self.ca).verify_flags
            context.load_verify_locations(self.ca)
            context.server_name = self.server_name
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            context.sslsocket_class = _Socket
            context.load_cert_chain(self.certificate, self.key)
            mode = stat.S_IMODE(self.key.stat().st_mode)
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(
                f"link.tls: ca = {str(self.ca)!r}, certificate = {str(self.certificate)!r}, key = {str(self.key)!r}: "
                f"{error}; name PEM files that this user may read, of one bundle"
            ) from error
        if mode & 0o077:
            log.warning("link.tls.key = '%s' has mode %o: others can use it; chmod 600 it", self.key, mode)
        return context

    def absolute(self) -> TlsSettings:
        """The same files, named from the root of the file system: for a process that starts elsewhere."""
        files = {name: getattr(self, name).absolute() for name in ("ca", "certificate", "key")}
        return msgspec.structs.replace(self, **files)


class LinkSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the broker is and how to speak to it, `[link]`.

    Attributes:
        host: Name or address of the broker; with TLS, a name that its certificate carries, unless `tls` names it.
        port: Its port.
        protocol: `auto` tries MQTT 5 and falls back to 3.1.1.
        keepalive_s: Seconds without traffic after which the broker publishes the last will (times 1.5), and after which
            this side gives the connection up (times 2).
        username: For a broker that asks for one. With a certificate and no username the common name is the identity.
        password: Its password.
        max_frame_bytes: Upper limit of a frame; lowered to what the broker announces, and to what it is found to take.
        tls: Encryption and this party's certificate; `None` speaks in the clear.
        insecure: Permits speaking in the clear to a host that is not loopback.

    Raises:
        UnprotectedLinkError: Neither `tls` nor `insecure = true` for such a host.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=1, le=65535)] = 1883
    protocol: Literal["auto", "5", "3.1.1"] = "auto"
    keepalive_s: Annotated[int, Meta(ge=1, le=65535)] = 15
    username: str | None = None
    password: str | None = None
    max_frame_bytes: Annotated[int, Meta(ge=FLOOR_BYTES, le=CHUNK_BYTES)] = CHUNK_BYTES
    tls: TlsSettings | None = None
    insecure: bool = False

    def __post_init__(self) -> None:
        if self.tls is None and not self.insecure and not is_loopback(self.host):
            raise UnprotectedLinkError(
                f"host = {self.host!r} is not a loopback address and there is no TLS: everybody on the way could read "
                "and write; give [link.tls] with ca, certificate and key, or permit it by name with insecure = true"
            )


def is_loopback(host: str) -> bool:
    """Whether a host is this machine by its name alone; nothing is looked up."""
    if host.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)
