"""The certificate authority of one installation: keys, certificates and the list of those that are revoked.

ECDSA on P-256 with SHA-256 throughout. A party's certificate may only begin connections (extended key usage
clientAuth), the broker's only accept them (serverAuth): a device cannot pose as the broker. Everything is valid from a
day ago, for a device whose clock lags. Bytes in, bytes out: no file is touched here.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from contract.errors import ConfigurationError

AUTHORITY_DAYS = 3652
_SKEW = timedelta(days=1)
_PEM = serialization.Encoding.PEM


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """A certificate and its private key, PEM; the key is not encrypted."""

    certificate: bytes
    key: bytes


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """What a certificate says.

    Attributes:
        name: Its common name.
        serial: Its number, unique under its authority.
        not_after: When it expires, UTC.
    """

    name: str
    serial: int
    not_after: datetime


def read(certificate: bytes) -> Certificate:
    """The content of a certificate in PEM."""
    found = x509.load_pem_x509_certificate(certificate)
    name = found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
    return Certificate(name=str(name), serial=found.serial_number, not_after=found.not_valid_after_utc)


def new_authority(name: str) -> Identity:
    """A certificate authority, valid for ten years, that may sign parties but no further authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name(name)
    start = _now() - _SKEW
    builder = (
        _builder(subject, subject, key.public_key(), start, start + timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(_key_of(key.public_key()), critical=False)
    )
    return Identity(certificate=builder.sign(key, hashes.SHA256()).public_bytes(_PEM), key=_private(key))


def issue(authority: Identity, name: str, *, days: int, hosts: Sequence[str] = ()) -> Identity:
    """A certificate and a new key.

    Args:
        authority: Signs it.
        name: Common name: the identity that the broker sees.
        days: From now until it expires.
        hosts: Names and addresses under which the broker is reached; empty for every other party.

    Raises:
        ConfigurationError: It would outlive its authority.
    """
    issuer = x509.load_pem_x509_certificate(authority.certificate)
    end = _now() + timedelta(days=days)
    if end > issuer.not_valid_after_utc:
        raise ConfigurationError(
            f"--days {days}: longer than the authority itself is valid (until {issuer.not_valid_after_utc:%Y-%m-%d}); "
            "choose less, or make a new enrolment folder"
        )
    key = ec.generate_private_key(ec.SECP256R1())
    purpose = ExtendedKeyUsageOID.SERVER_AUTH if hosts else ExtendedKeyUsageOID.CLIENT_AUTH
    builder = (
        _builder(_name(name), issuer.subject, key.public_key(), _now() - _SKEW, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(_key_of(key.public_key()), critical=False)
        .add_extension(_issuer_key(issuer), critical=False)
    )
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName([_place(host) for host in hosts]), critical=False)
    signed = builder.sign(_signing_key(authority), hashes.SHA256())
    return Identity(certificate=signed.public_bytes(_PEM), key=_private(key))


def revocation_list(authority: Identity, *, earlier: bytes = b"", serials: Sequence[int] = ()) -> bytes:
    """The list of revoked certificates, PEM, valid as long as the authority: brokers refuse everyone on a stale one.

    Args:
        authority: Signs it.
        earlier: The list so far; its entries are kept.
        serials: Numbers of certificates to add; one that is there already stays as it is.
    """
    issuer = x509.load_pem_x509_certificate(authority.certificate)
    entries, number = list[x509.RevokedCertificate](), 0
    if earlier:
        before = x509.load_pem_x509_crl(earlier)
        entries = list(before)
        number = before.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    held = {entry.serial_number for entry in entries}
    added = (x509.RevokedCertificateBuilder().serial_number(it) for it in serials if it not in held)
    entries += [entry.revocation_date(_now()).build() for entry in added]
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.subject)
        .last_update(_now() - _SKEW)
        .next_update(issuer.not_valid_after_utc)
        .add_extension(x509.CRLNumber(number + 1), critical=False)
        .add_extension(_issuer_key(issuer), critical=False)
    )
    for entry in entries:
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(_signing_key(authority), hashes.SHA256()).public_bytes(_PEM)


def revoked(crl: bytes) -> dict[int, datetime]:
    """Numbers on a list of revoked certificates, and since when, UTC."""
    return {entry.serial_number: entry.revocation_date_utc for entry in x509.load_pem_x509_crl(crl)}


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, start: datetime, end: datetime
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    return builder.serial_number(x509.random_serial_number()).not_valid_before(start).not_valid_after(end)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _key_of(key: ec.EllipticCurvePublicKey) -> x509.SubjectKeyIdentifier:
    return x509.SubjectKeyIdentifier.from_public_key(key)


def _issuer_key(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    held = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(held)


def _place(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _signing_key(authority: Identity) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(authority.key, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigurationError("ca/ca.key: not an elliptic-curve key, so not one that `spikeleak enroll` made")
    return key
