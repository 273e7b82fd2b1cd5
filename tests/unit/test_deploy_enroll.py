"""Enrolment folders: what is made, what is refused, what is never destroyed."""

from __future__ import annotations

import hashlib
import os
import pwd
import ssl
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest import mock

import msgspec
import pytest
from cryptography import x509

from contract.configuration import decode_toml
from contract.errors import ConfigurationError, EnvironmentFaultError
from contract.link import LinkSettings
from deploy import authority, enroll
from deploy.enrolment import RESERVED, Enrolment, Folder
from tests.conftest import ROOT, spikeleak

ACCOUNT = pwd.getpwuid(os.geteuid()).pw_name


def made(out: Path, *devices: str) -> Path:
    enrolment = Enrolment(host="broker.lan", addresses=("10.0.0.7",), user=ACCOUNT, broker_folder=str(out / "broker"))
    enroll.create(out, enrolment, days=730)
    if devices:
        enroll.add_devices(out, devices, days=730, renewed=False)
    return out


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_keys_are_their_owners_alone_from_the_first_byte_on(tmp_path: Path) -> None:
    out = made(tmp_path / "lab", "pi-1")
    keys = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.key"))
    assert keys == [
        "attacker/attacker.key",
        "broker/broker.key",
        "ca/ca.key",
        "devices/pi-1/device.key",
        "operator/operator.key",
        "server/server.key",
    ]
    assert {mode(out / key) for key in keys} == {0o600}
    assert {mode(path) for path in (out, out / "ca", out / "server", out / "devices" / "pi-1")} == {0o700}
    assert [path for path in out.rglob("*") if path.name.endswith(".tmp")] == []
    handed = [path.name for path in (out / "devices" / "pi-1").iterdir()]
    assert sorted(handed) == ["SHA256SUMS", "ca.pem", "device.key", "device.pem", "device.toml"]


def test_certificates_say_who_for_what_and_how_long(tmp_path: Path) -> None:
    out = made(tmp_path / "lab", "pi-1")
    now = datetime.now(UTC)
    expected = {
        "ca/ca.pem": (3652 - 1, None),
        "broker/broker.pem": (730, x509.oid.ExtendedKeyUsageOID.SERVER_AUTH),
        "server/server.pem": (730, x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH),
        "devices/pi-1/device.pem": (730, x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH),
    }
    for name, (days, purpose) in expected.items():
        held = certificate(out / name)
        assert abs(held.not_valid_after_utc - now - timedelta(days=days)) < timedelta(minutes=5), name
        assert abs(now - held.not_valid_before_utc - timedelta(days=1)) < timedelta(minutes=5), name
        assert held.public_key().curve.name == "secp256r1", name
        constraints = held.extensions.get_extension_for_class(x509.BasicConstraints)
        assert (constraints.value.ca, constraints.critical) == (purpose is None, True), name
        if purpose is not None:
            assert list(held.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [purpose], name
    names = certificate(out / "broker" / "broker.pem").extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.value.get_values_for_type(x509.DNSName) == ["broker.lan"]
    assert [str(it) for it in names.value.get_values_for_type(x509.IPAddress)] == ["10.0.0.7"]
    assert authority.read((out / "devices" / "pi-1" / "device.pem").read_bytes()).name == "pi-1"


def test_bundles_pass_openssls_strict_rules_and_their_own_checksums(tmp_path: Path) -> None:
    out = made(tmp_path / "lab", "pi-1")
    for folder, stem, toml in (("server", "server", "server.toml"), ("devices/pi-1", "device", "device.toml")):
        bundle = out / folder
        checked = subprocess.run(
            ["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=bundle, capture_output=True, check=False
        )
        assert checked.returncode == 0, checked.stderr
        assert len((bundle / "SHA256SUMS").read_text().splitlines()) == 4

        class Whole(msgspec.Struct):
            link: LinkSettings

        tls = decode_toml(bundle / toml, Whole).link.tls
        assert tls is not None
        assert tls.key == bundle / f"{stem}.key"
        context = tls.context()
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        assert handshake(context, out) == "TLSv1.3"


def handshake(client: ssl.SSLContext, out: Path) -> str | None:
    """TLS in memory with the broker's certificate, which checks the client's and the list of revoked ones."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(out / "broker" / "broker.pem", out / "broker" / "broker.key")
    server.load_verify_locations(out / "broker" / "ca.pem")
    server.load_verify_locations(out / "broker" / "crl.pem")
    server.verify_mode = ssl.CERT_REQUIRED
    server.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF | ssl.VERIFY_X509_STRICT
    pipes = [ssl.MemoryBIO() for _ in range(4)]
    near = client.wrap_bio(pipes[0], pipes[1], server_hostname="broker.lan")
    far = server.wrap_bio(pipes[2], pipes[3], server_side=True)
    done = [False, False]
    for _ in range(10):
        for index, (side, out_pipe, in_pipe) in enumerate(((near, pipes[1], pipes[2]), (far, pipes[3], pipes[0]))):
            if not done[index]:
                try:
                    side.do_handshake()
                    done[index] = True
                except ssl.SSLWantReadError:
                    pass
            in_pipe.write(out_pipe.read())
        if all(done):
            return near.version()
    raise AssertionError("the handshake came to no end")


def test_a_revoked_device_is_on_the_list_and_out_of_the_acl_and_may_be_enrolled_anew(tmp_path: Path) -> None:
    out = made(tmp_path / "lab", "pi-1", "pi-2")
    context = decode_context(out, "pi-2")
    assert handshake(context, out) == "TLSv1.3"
    for _ in range(2):  # a second time does no harm
        enroll.revoke(out, "pi-2")
    rules = (out / "broker" / "acl").read_text()
    assert ("user pi-1" in rules, "pi-2" in rules) == (True, False)
    with pytest.raises(ssl.SSLCertVerificationError, match="revoked"):
        handshake(context, out)
    assert {entry.name: entry.revoked is not None for entry in enroll.listed(out)} == {
        "attacker": False,
        "broker": False,
        "operator": False,
        "pi-1": False,
        "pi-2": True,
        "server": False,
    }
    enroll.add_devices(out, ["pi-2"], days=730, renewed=True)
    assert "user pi-2" in (out / "broker" / "acl").read_text()
    assert handshake(decode_context(out, "pi-2"), out) == "TLSv1.3"
    with pytest.raises(ssl.SSLCertVerificationError, match="revoked"):
        handshake(context, out)


def decode_context(out: Path, node: str) -> ssl.SSLContext:
    place = out / "devices" / node
    context = ssl.create_default_context(cafile=place / "ca.pem")
    context.load_cert_chain(place / "device.pem", place / "device.key")
    return context


def test_init_twice_changes_nothing_and_renew_keeps_the_authority(tmp_path: Path) -> None:
    out = made(tmp_path / "lab", "pi-1")
    before = content(out)
    with pytest.raises(ConfigurationError, match="is an enrolment folder; --renew"):
        made(out)
    assert content(out) == before
    enroll.renew(out, enroll.recorded(out), days=30)
    after = content(out)
    changed = {name for name in before if before[name] != after[name]}
    assert {"ca/ca.key", "ca/ca.pem", "devices/pi-1/device.pem", "broker/acl", "enrolment.toml"}.isdisjoint(changed)
    assert {"broker/broker.key", "server/server.key", "attacker/attacker.key", "broker/crl.pem"} <= changed
    assert len(authority.revoked(after["broker/crl.pem"])) == 4
    assert all(entry.revoked is None for entry in enroll.listed(out))


def test_an_interrupted_init_leaves_nothing(tmp_path: Path) -> None:
    with mock.patch.object(Folder, "write_rights", side_effect=OSError(28, "No space left on device")):  # noqa: SIM117
        with pytest.raises(EnvironmentFaultError, match="No space left"):
            made(tmp_path / "lab")
    assert list(tmp_path.iterdir()) == []
    made(tmp_path / "lab")


def test_an_interrupted_enrolment_is_mended_by_the_same_command(tmp_path: Path) -> None:
    out = made(tmp_path / "lab")
    with mock.patch("deploy.enrolment.write_bundle", side_effect=OSError(28, "No space left on device")):  # noqa: SIM117
        with pytest.raises(EnvironmentFaultError, match="No space left"):
            enroll.add_devices(out, ["pi-1"], days=730, renewed=False)
    (folder,) = enroll.add_devices(out, ["pi-1"], days=730, renewed=True)
    assert handshake(decode_context(out, "pi-1"), out) == "TLSv1.3"
    assert folder == out / "devices" / "pi-1"


@pytest.mark.parametrize("node", ["", "-x", "a/b", "#", "+", "a b", "é", "..", "x" * 64, *RESERVED])
def test_names_that_no_device_may_have(tmp_path: Path, node: str) -> None:
    out = made(tmp_path / "lab")
    before = content(out)
    with pytest.raises(ConfigurationError, match="device "):
        enroll.add_devices(out, ["fine", node], days=730, renewed=True)
    assert {name: before[name] for name in before if "lock" not in name} == {
        name: text for name, text in content(out).items() if "lock" not in name
    }


def test_validity_never_outlives_the_authority(tmp_path: Path) -> None:
    out = made(tmp_path / "lab")
    with pytest.raises(ConfigurationError, match="longer than the authority itself is valid"):
        enroll.add_devices(out, ["pi-1"], days=3652, renewed=False)
    enroll.add_devices(out, ["pi-1"], days=3650, renewed=False)


def test_one_command_at_a_time(tmp_path: Path) -> None:
    out = made(tmp_path / "lab")
    with enroll._opened(out), pytest.raises(EnvironmentFaultError, match="another enroll command"):
        enroll.add_devices(out, ["pi-1"], days=730, renewed=False)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root hands files to another account")
def test_roots_folder_serves_the_account_that_mosquitto_becomes(tmp_path: Path) -> None:
    other = pwd.getpwnam("nobody")
    (tmp_path / "shut").mkdir(mode=0o700)
    with pytest.raises(ConfigurationError, match="may not enter"):
        enroll.create(tmp_path / "shut" / "lab", _for(tmp_path / "shut" / "lab", "nobody"), days=1)
    out = Path(f"/var/tmp/enrolled-{os.getpid()}")  # pytest's own folders are shut to others
    try:
        enroll.create(out, _for(out, "nobody"), days=1)
        enroll.add_devices(out, ["pi-1"], days=1, renewed=False)
        assert mode(out) == 0o711
        assert {path.stat().st_uid for path in (out / "broker").rglob("*")} == {other.pw_uid}
        assert {path.stat().st_uid for path in (out / "ca").rglob("*")} == {0}
    finally:
        subprocess.run(["rm", "-rf", str(out)], check=True)


def _for(out: Path, user: str) -> Enrolment:
    return Enrolment(host="broker.lan", user=user, broker_folder=str(out / "broker"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("init", "--out", "{out}"), "--host"),
        (("init", "--out", "{out}", "--host", "no host"), "neither a host name"),
        (("init", "--out", "{out}", "--host", "h", "--ip", "300.1.1.1/8"), "neither a host name"),
        (("init", "--out", "{out}", "--host", "h", "--user", "no-such-account"), "no such account"),
        (("init", "--out", "{out}", "--renew"), "no enrolment folder"),
        (("device", "pi-1", "--out", "{out}"), "no enrolment folder"),
        (("revoke", "pi-1", "--out", "{out}"), "no enrolment folder"),
        (("list", "--out", "{out}"), "no enrolment folder"),
        (("device", "server", "--out", "{lab}"), "kept for another party"),
        (("device", "a/b", "--out", "{lab}"), "1 to 63 letters"),
        (("device", "pi-1", "--out", "{lab}"), "is enrolled; --renew"),
        (("revoke", "pi-9", "--out", "{lab}"), "enrolled are: attacker, operator, pi-1, server"),
        (("revoke", "broker", "--out", "{lab}"), "no party asks"),
    ],
)
def test_faults_are_one_line_and_status_2(tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    lab = made(tmp_path / "lab", "pi-1")
    done = spikeleak("enroll", *(word.format(out=tmp_path / "none", lab=lab) for word in arguments))
    assert (done.returncode, done.stderr.count("\n"), done.stdout) == (2, 1, ""), done.stdout + done.stderr
    assert says in done.stderr
    assert not (tmp_path / "none").exists()


def test_without_the_library_the_extra_is_named(tmp_path: Path) -> None:
    block = (
        "import sys; sys.modules['cryptography'] = None; from deploy.cli import main; sys.argv[0] = 'spikeleak'; main()"
    )
    command = [sys.executable, "-c", block, "enroll", "list", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "pip install 'spikeleak[deploy]'" in done.stderr


def test_the_example_of_the_readme_is_what_the_commands_do(tmp_path: Path) -> None:
    out = str(tmp_path / "lab")
    for words in (("init", "--host", "broker.lan"), ("device", "pi-1", "pi-2"), ("revoke", "pi-2"), ("list",)):
        done = spikeleak("enroll", *words, "--out", out, *(("--user", ACCOUNT) if words[0] == "init" else ()))
        assert done.returncode == 0, done.stderr
    shown = {line.split()[0]: line.split()[2] for line in done.stdout.splitlines()[1:]}
    own = ("attacker", "broker", "operator", "pi-1", "server")
    assert shown == {**dict.fromkeys(own, "valid"), "pi-2": "revoked"}
    sums = (tmp_path / "lab" / "devices" / "pi-1" / "SHA256SUMS").read_text().splitlines()
    for line in sums:
        digest, name = line.split("  ")
        assert hashlib.sha256((tmp_path / "lab" / "devices" / "pi-1" / name).read_bytes()).hexdigest() == digest
