"""An enrolment folder on disk: the authority, the broker's files, and one bundle for each party.

DIR/               0700, or 0711 where mosquitto runs as another account
enrolment.toml     what `init` was told
ca/                0700: ca.key, ca.pem, crl.pem, issued/<name>.pem: the newest certificate of each party
broker/            all that mosquitto reads, its account's own: mosquitto.conf, acl, crl.pem, certificate and key, data/
server/ attacker/ operator/
                   bundles, 0700: ca.pem, <party>.pem, <party>.key, its TOML, SHA256SUMS
devices/<node>/    a bundle for each device; with all that a board installs where one asked for it
wheelhouse/        wheels for boards

A file is replaced in one step. A party is enrolled from the moment that its certificate stands in issued/; whatever an
interrupted command left undone, the same command (with --renew) does again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from string import Template

import msgspec

from contract.frames import CHUNK_BYTES
from deploy import acl, authority
from deploy.authority import Identity
from deploy.boards.payload import Payload
from deploy.bundle import Bundle, table, write_bundle, write_file

BROKER = "broker"
RESERVED = (*acl.OWN, BROKER)
"""Names that no device may have."""
SETTINGS = "enrolment.toml"

_TEMPLATE = Path(__file__).parent / "mosquitto" / "mosquitto.conf"
_TOPIC_BYTES = 32_768
_SNIPPETS = {acl.SERVER: "server.toml", acl.ATTACKER: "attack.toml", acl.OPERATOR: "operator.toml"}
_DEVICE_HEAD = """node = "{node}"
# Still to be set by hand:
# run = "…"         the server's run
# directory = "…"   folder of this device alone in this run
# shard = 0         which part of the training samples is this device's
# shards = 1        of how many

"""


class Enrolment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`enrolment.toml`: what `init` was told.

    Attributes:
        host: Name or address under which parties reach the broker.
        addresses: Further names and addresses in its certificate.
        port: Its port.
        user: Account that mosquitto runs as.
        broker_folder: Where the broker's files lie on its machine.
    """

    host: str
    addresses: tuple[str, ...] = ()
    port: int = 8883
    user: str
    broker_folder: str


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A party's newest certificate; `revoked` is when it was revoked, `None` while it is valid."""

    name: str
    not_after: datetime
    revoked: datetime | None = None


class Folder:
    """An enrolment folder.

    Args:
        path: Where it is now.
        final: Where it will be, while it is being made.
    """

    def __init__(self, path: Path, final: Path | None = None) -> None:
        self.path = path
        self.final = (final or path).resolve()

    def certificate_file(self, name: str) -> Path:
        """Holds a party's newest certificate, if it is enrolled."""
        return self.path / "ca" / "issued" / f"{name}.pem"

    def entries(self) -> list[Entry]:
        """Every party, by name."""
        found = (authority.read(path.read_bytes()) for path in (self.path / "ca" / "issued").glob("*.pem"))
        since = authority.revoked((self.path / "ca" / "crl.pem").read_bytes())
        made = [Entry(name=it.name, not_after=it.not_after, revoked=since.get(it.serial)) for it in found]
        return sorted(made, key=lambda entry: entry.name)

    def make_authority(self, name: str) -> None:
        """The authority of a new folder, with an empty list of revoked certificates."""
        made = authority.new_authority(name)
        write_file(self.path / "ca" / "ca.key", made.key, private=True)
        write_file(self.path / "ca" / "ca.pem", made.certificate)
        write_file(self.path / "ca" / "crl.pem", authority.revocation_list(made))

    def make_own(self, enrolment: Enrolment, days: int) -> None:
        """Certificates of broker, server, attacker and operator, and all that mosquitto reads."""
        hosts = tuple(dict.fromkeys((enrolment.host, *enrolment.addresses)))
        broker, files = self._issue(BROKER, days, hosts), self.path / "broker"
        write_file(files / "ca.pem", self._authority().certificate)
        write_file(files / "broker.pem", broker.certificate)
        write_file(files / "broker.key", broker.key, private=True)
        write_file(files / "mosquitto.conf", _configuration(enrolment).encode())
        for party, toml in _SNIPPETS.items():
            bundle = self._bundle(enrolment, self._issue(party, days), self.final / party, stem=party, toml=toml)
            write_bundle(self.path / party, bundle)
        write_file(self.path / SETTINGS, table("", msgspec.to_builtins(enrolment)).encode())
        self.write_rights()

    def make_device(
        self,
        enrolment: Enrolment,
        node: str,
        days: int,
        place: Path | None,
        *,
        payload: Payload | None = None,
        further: Mapping[str, bytes] | None = None,
    ) -> Path:
        """Certificate and bundle of one device; its rights come with `write_rights`.

        Returns:
            The bundle's folder.
        """
        folder = self.final / "devices" / node
        identity, head = self._issue(node, days), _DEVICE_HEAD.format(node=node)
        bundle = self._bundle(enrolment, identity, place or folder, stem="device", toml="device.toml", head=head)
        write_bundle(folder, msgspec.structs.replace(bundle, payload=payload, further=dict(further or {})))
        return folder

    def revoke(self, name: str) -> None:
        """Puts a party's newest certificate on the list; its rights go with `write_rights`."""
        serial = authority.read(self.certificate_file(name).read_bytes()).serial
        held = self.path / "ca" / "crl.pem"
        write_file(held, authority.revocation_list(self._authority(), earlier=held.read_bytes(), serials=[serial]))

    def write_rights(self) -> None:
        """The broker's list of revoked certificates and its ACL, from what is enrolled and valid now."""
        write_file(self.path / "broker" / "crl.pem", (self.path / "ca" / "crl.pem").read_bytes())
        parties = [entry.name for entry in self.entries() if entry.revoked is None and entry.name != BROKER]
        write_file(self.path / "broker" / "acl", acl.render(parties).encode(), private=True)

    def _authority(self) -> Identity:
        place = self.path / "ca"
        return Identity(certificate=(place / "ca.pem").read_bytes(), key=(place / "ca.key").read_bytes())

    def _issue(self, name: str, days: int, hosts: Sequence[str] = ()) -> Identity:
        """A party's newest certificate; the one before is revoked."""
        identity = authority.issue(self._authority(), name, days=days, hosts=hosts)
        if self.certificate_file(name).exists():
            self.revoke(name)
        write_file(self.certificate_file(name), identity.certificate)
        return identity

    def _bundle(
        self, enrolment: Enrolment, identity: Identity, place: Path, *, stem: str, toml: str, head: str = ""
    ) -> Bundle:
        return Bundle(
            stem=stem,
            toml=toml,
            head=head,
            identity=identity,
            authority=self._authority().certificate,
            host=enrolment.host,
            port=enrolment.port,
            place=place,
        )


def _configuration(enrolment: Enrolment) -> str:
    """The text of mosquitto.conf."""
    return Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        user=enrolment.user,
        port=enrolment.port,
        folder=enrolment.broker_folder,
        frame_bytes=CHUNK_BYTES,
        packet_bytes=CHUNK_BYTES + _TOPIC_BYTES,
    )
