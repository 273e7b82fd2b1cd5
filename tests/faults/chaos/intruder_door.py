"""Who is not let in: each case beside a control that differs in one thing and is let in."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import warnings
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from unittest import mock

from contract.errors import EnvironmentFaultError
from contract.link import Link, LinkSettings, TlsSettings
from deploy import authority
from deploy.authority import Identity
from deploy.broker import LOOPBACK, free_port
from tests.enrolled_broker import ACCOUNT, EnrolledBroker, mosquitto

GUEST = "delta"
"""Enrolled, and connected by nobody but this module."""

_TIMEOUT_S = 10.0


def cases(broker: EnrolledBroker, folder: Path) -> int:
    """Tries every case and its control.

    Args:
        broker: Runs; `delta` is enrolled.
        folder: Empty, for keys and certificates.

    Returns:
        How many were denied.

    Raises:
        AssertionError: One was let in, or a control was not.
    """
    count = 0
    for number, (name, refused, control) in enumerate(_identities(broker)):
        place = folder / f"case-{number}"
        place.mkdir()
        ca = broker.folder / "ca" / "ca.pem"
        count += _denied(broker, name, _context(place / "refused", ca, refused), _context(place / "good", ca, control))
    guest = broker.tls(GUEST)
    old = guest.context()
    old.minimum_version = ssl.TLSVersion.TLSv1_2
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    count += _denied(broker, "TLS 1.2", old, guest.context())
    bare = ssl.create_default_context(cafile=guest.ca)
    for login in (None, ("server", "server"), (GUEST, "")):
        for said, context in (("plain TCP", None), ("TLS without certificate", bare)):
            count += _denied(broker, f"{said}, login {login}", context, guest.context(), login)
    return count + _false_broker(broker, folder)


def knock(
    port: int,
    context: ssl.SSLContext | None,
    login: tuple[str, str] | None = None,
    *,
    name: str = "visitor",
    will: tuple[str, bytes] | None = None,
) -> bool:
    """Sends a CONNECT of MQTT 3.1.1 and hangs up without a DISCONNECT; whether the broker accepted it.

    Raises:
        AssertionError: It neither answered nor hung up.
    """
    flags = 0x02 | (0xC0 if login else 0) | (0x24 if will else 0)  # a will of QoS 0, retained
    texts = [name.encode(), *([will[0].encode(), will[1]] if will else []), *(it.encode() for it in login or ())]
    body = b"\0\4MQTT\4" + bytes([flags, 0, 30]) + b"".join(struct.pack(">H", len(text)) + text for text in texts)
    assert len(body) < 16_384, "a longer one needs three bytes for its length"
    length = bytes([len(body)]) if len(body) < 128 else bytes([len(body) % 128 | 128, len(body) // 128])
    try:
        with contextlib.ExitStack() as stack:
            link = stack.enter_context(socket.create_connection((LOOPBACK, port), _TIMEOUT_S))
            if context is not None:
                link = stack.enter_context(context.wrap_socket(link, server_hostname="localhost"))
            link.sendall(b"\x10" + length + body)
            answer = link.recv(4)
    except TimeoutError as error:
        raise AssertionError("the broker neither answered nor hung up") from error
    except OSError:
        return False
    return answer == b"\x20\2\0\0"


def _denied(
    broker: EnrolledBroker,
    case: str,
    refused: ssl.SSLContext | None,
    control: ssl.SSLContext,
    login: tuple[str, str] | None = None,
) -> int:
    assert not knock(broker.port, refused, login), f"{case}: let in"
    assert knock(broker.port, control, login), f"{case}: its control was not let in: {broker.log()[-500:]}"
    return 1


def _identities(broker: EnrolledBroker) -> Iterator[tuple[str, Identity, Identity]]:
    """Case, certificate that must be refused, the same with the one fault mended."""
    ca = broker.folder / "ca"
    own = Identity(certificate=(ca / "ca.pem").read_bytes(), key=(ca / "ca.key").read_bytes())
    good = authority.issue(own, GUEST, days=30)
    foreign = authority.new_authority("spikeleak")
    yield "foreign authority", authority.issue(foreign, GUEST, days=30), good
    same_name = authority.new_authority(authority.read(own.certificate).name)
    yield "foreign authority of the same name", authority.issue(same_name, GUEST, days=30), good
    yield "self-signed", authority.new_authority(GUEST), good
    yield "the broker's own certificate", authority.issue(own, GUEST, days=30, hosts=["localhost"]), good
    yield "signed by a device", _signed_by_device(good), good
    now = authority._now()
    for name, shift in (("expired", timedelta(days=-40)), ("not valid yet", timedelta(days=3))):
        with mock.patch.object(authority, "_now", return_value=now + shift):
            yield name, authority.issue(own, GUEST, days=30), good


def _signed_by_device(device: Identity) -> Identity:
    """A certificate for the server, which a device signed as if it were an authority; the chain is sent along."""
    made = authority.issue(device, "server", days=10)
    return Identity(certificate=made.certificate + device.certificate, key=made.key)


def _context(folder: Path, ca: Path, identity: Identity) -> ssl.SSLContext:
    """As the product makes it, of an identity that no bundle holds."""
    folder.mkdir()
    (folder / "it.pem").write_bytes(identity.certificate)
    (folder / "it.key").write_bytes(identity.key)
    return TlsSettings(ca=ca, certificate=folder / "it.pem", key=folder / "it.key").context()


def _false_broker(broker: EnrolledBroker, folder: Path) -> int:
    """Brokers that a device must not trust: with another device's certificate, and with a foreign authority's."""
    foreign = authority.issue(authority.new_authority("spikeleak"), "broker", days=30, hosts=["localhost"])
    (folder / "foreign.pem").write_bytes(foreign.certificate)
    (folder / "foreign.key").write_bytes(foreign.key)
    stems = (broker.folder / "broker" / "broker", broker.folder / "devices" / "alpha" / "device", folder / "foreign")
    found = {}
    for number, stem in enumerate(stems):
        port, settings = free_port(), folder / f"false-{number}.conf"
        settings.write_text(
            f"user {ACCOUNT}\nlistener {port} {LOOPBACK}\ncafile {broker.folder}/ca/ca.pem\nallow_anonymous true\n"
            f"certfile {stem}.pem\nkeyfile {stem}.key\nrequire_certificate true\n"
        )
        with mosquitto(settings, port, folder / f"false-{number}.log"), warnings.catch_warnings():
            # paho leaves a socket whose handshake failed to be closed when it is collected
            warnings.simplefilter("ignore", ResourceWarning)
            link = Link(LinkSettings(host="localhost", port=port, tls=broker.tls(GUEST)), GUEST, on_message=_ignore)
            try:
                link.start(timeout_s=5.0 if stem.name == "broker" else 2.0)
                found[stem.name] = "trusted"
                link.stop()
            except EnvironmentFaultError as error:
                found[stem.name] = "refused" if "CERTIFICATE_VERIFY_FAILED" in str(error) else str(error)
    expected = {"broker": "trusted", "device": "refused", "foreign": "refused"}
    assert found == expected, f"brokers as a device sees them: {found}"
    return len(stems) - 1


def _ignore(_topic: str, _payload: bytes) -> None:
    return None
