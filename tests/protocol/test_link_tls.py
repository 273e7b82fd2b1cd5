"""TLS against a real mosquitto with certificates made here: who connects, who does not, and what is said about it."""

from __future__ import annotations

import contextlib
import json
import logging
import queue
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from attack.app import run_attack
from attack.settings import AttackSettings
from contract.configuration import decode_tables
from contract.errors import ConfigurationError, EnvironmentFaultError
from contract.link import Link, LinkSettings, TlsSettings
from contract.link_settings import is_loopback
from deploy.board import LinkProfile
from deploy.broker import BrokerSection, serve
from deploy.study import Study, load_study, to_toml
from edge_client.app import main as client_main
from edge_client.settings import ClientSettings
from server.ledger import FILE_NAME, Ledger
from server.settings import ServerSettings
from tests.conftest import spikeleak
from tests.mosquitto import Authority, Mosquitto, mosquitto

BEYOND = ("192.0.2.7", "broker.local", "2001:db8::1", "0.0.0.0", "::", "127.0.0.1.example.org", "localhost.example.org")
LOOPBACK = ("127.0.0.1", "127.8.9.10", "::1", "localhost", "LOCALHOST", "::ffff:127.0.0.1")


def ignore(_topic: str, _payload: bytes) -> None:
    return None


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


@pytest.fixture
def secured(tmp_path: Path, authority: Authority) -> Iterator[Mosquitto]:
    own = authority.issue("broker", "localhost", "127.0.0.1")
    with mosquitto(tmp_path / "broker", *authority.listener(own)) as running:
        yield running


def attempt(settings: LinkSettings, *, timeout_s: float = 4.0) -> tuple[str, float]:
    """What a link says that does not come to stand, and after how many seconds."""
    began_s = time.monotonic()
    with pytest.raises(EnvironmentFaultError) as caught:
        Link(settings, "stranger", on_message=ignore).start(timeout_s=timeout_s)
    return str(caught.value), time.monotonic() - began_s


# --- who may speak in the clear -------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", BEYOND)
def test_a_host_beyond_loopback_needs_tls_or_a_word(host: str) -> None:
    assert not is_loopback(host)
    with pytest.raises(ConfigurationError, match="insecure = true") as caught:
        LinkSettings(host=host)
    assert repr(host) in str(caught.value)
    assert "[link.tls]" in str(caught.value)
    assert LinkSettings(host=host, insecure=True).tls is None
    tls = TlsSettings(ca=Path("a"), certificate=Path("b"), key=Path("c"))
    assert LinkSettings(host=host, tls=tls).tls is tls


@pytest.mark.parametrize("host", LOOPBACK)
def test_loopback_speaks_in_the_clear(host: str) -> None:
    assert is_loopback(host)
    assert LinkSettings(host=host).tls is None


@pytest.mark.parametrize(
    ("kind", "tables"),
    [
        (ClientSettings, {"run": "r", "node": "n", "directory": "d", "shard": 0, "shards": 1}),
        (ServerSettings, {"run": "r", "directory": "d"}),
        (AttackSettings, {"run": "r", "directory": "d"}),
    ],
)
def test_no_party_speaks_in_the_clear_beyond_loopback(kind: type[msgspec.Struct], tables: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match=r"file\.toml: key 'link'.*'192\.0\.2\.7' is not a loopback address"):
        decode_tables({**tables, "link": {"host": "192.0.2.7"}}, kind, origin="file.toml")
    told = decode_tables({**tables, "link": {"host": "192.0.2.7", "insecure": True}}, kind, origin="file.toml")
    assert told.link.insecure


def test_the_commands_end_with_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "party.toml"
    link = '[link]\nhost = "192.0.2.7"\n'
    config.write_text(f'run = "r"\nnode = "n"\ndirectory = "{tmp_path}"\nshard = 0\nshards = 1\n{link}')
    assert client_main([str(config)]) == 2
    assert "192.0.2.7" in capsys.readouterr().err
    config.write_text(f'run = "r"\ndirectory = "{tmp_path}"\n{link}')
    for command in ("server", "attack"):
        done = spikeleak(command, str(config))
        assert done.returncode == 2, done.stderr
        assert "insecure = true" in done.stderr


def test_an_external_broker_of_a_study_is_held_to_the_same(tmp_path: Path) -> None:
    study = tmp_path / "study.toml"
    base = 'name = "x"\n[[schedule]]\nkind = "train"\n[broker]\n'
    study.write_text(base + 'kind = "external"\nhost = "192.0.2.7"\nport = 1883\n')
    with pytest.raises(ConfigurationError, match=r"study\.toml: key 'broker'.*'192\.0\.2\.7'.*insecure = true"):
        load_study(study)
    study.write_text(base + 'kind = "external"\nhost = "192.0.2.7"\nport = 1883\ninsecure = true\n')
    assert load_study(study).broker.external().insecure
    study.write_text(base + 'kind = "mosquitto"\ninsecure = true\n')
    with pytest.raises(ConfigurationError, match="kind = 'external'"):
        load_study(study)


# --- with TLS -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_a_party_with_its_certificate_connects_and_its_common_name_is_its_identity(
    secured: Mosquitto, authority: Authority, protocol: str
) -> None:
    inbox: queue.Queue[bytes] = queue.Queue()
    tls = authority.issue("device-7")
    settings = LinkSettings(host="localhost", port=secured.port, tls=tls, protocol=protocol)
    link = Link(settings, "some-client", on_message=lambda _topic, payload: inbox.put(payload))
    link.subscribe("t")
    link.start()
    assert link.publish("t", bytes(300_000))
    assert inbox.get(timeout=10) == bytes(300_000)
    client = link._client
    assert client is not None
    sock = client.socket()
    assert isinstance(sock, ssl.SSLSocket)
    assert sock.version() == "TLSv1.3"
    del client, sock
    link.stop()
    assert "u'device-7'" in secured.log.read_text()


def test_a_broker_of_a_foreign_authority_is_refused(secured: Mosquitto, authority: Authority, tmp_path: Path) -> None:
    own, foreign = authority.issue("device-7"), Authority(tmp_path / "foreign")
    tls = TlsSettings(ca=foreign.path, certificate=own.certificate, key=own.key)
    said, _ = attempt(LinkSettings(host="localhost", port=secured.port, tls=tls))
    assert "over TLS" in said
    assert "certificate verify failed" in said


def test_a_party_of_a_foreign_authority_is_refused(secured: Mosquitto, authority: Authority, tmp_path: Path) -> None:
    foreign = Authority(tmp_path / "foreign").issue("device-7")
    tls = TlsSettings(ca=authority.path, certificate=foreign.certificate, key=foreign.key)
    said, _ = attempt(LinkSettings(host="localhost", port=secured.port, tls=tls))
    assert "over TLS" in said
    assert "certificate" in said
    assert "as some-client" not in secured.log.read_text()


def test_an_expired_party_is_refused(secured: Mosquitto, authority: Authority) -> None:
    tls = authority.issue("device-7", days=-1)
    said, _ = attempt(LinkSettings(host="localhost", port=secured.port, tls=tls))
    assert "over TLS" in said
    assert "certificate" in said


def test_an_expired_broker_is_refused(tmp_path: Path, authority: Authority) -> None:
    own = authority.issue("broker", "localhost", days=-1)
    with mosquitto(tmp_path / "expired", *authority.listener(own)) as running:
        said, _ = attempt(LinkSettings(host="localhost", port=running.port, tls=authority.issue("device-7")))
    assert "over TLS" in said
    assert "expired" in said


def test_a_broker_of_another_name_is_refused(tmp_path: Path, authority: Authority) -> None:
    own = authority.issue("broker", "elsewhere.example.org")
    with mosquitto(tmp_path / "other", *authority.listener(own)) as running:
        said, _ = attempt(LinkSettings(host="localhost", port=running.port, tls=authority.issue("device-7")))
    assert "over TLS" in said
    assert "Hostname mismatch" in said


def test_a_broker_that_speaks_older_tls_alone_is_refused(authority: Authority) -> None:
    own = authority.issue("broker", "localhost")
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    old.load_cert_chain(own.certificate, own.key)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    served: list[str] = []

    def serve_all(listener: socket.socket) -> None:
        with contextlib.suppress(TimeoutError):
            while True:
                connection, _ = listener.accept()
                with connection, contextlib.suppress(OSError), old.wrap_socket(connection, server_side=True) as spoken:
                    served.append(str(spoken.version()))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(5.0)
        serving = threading.Thread(target=serve_all, args=(listener,))
        serving.start()
        port = listener.getsockname()[1]
        said, _ = attempt(LinkSettings(host="localhost", port=port, tls=authority.issue("device-7")), timeout_s=2.0)
        serving.join()
    assert "over TLS" in said
    assert "protocol version" in said.lower().replace("_", " "), said
    assert not served


def test_plain_speech_on_the_tls_port_is_a_clear_error_in_time(secured: Mosquitto) -> None:
    said, seconds = attempt(LinkSettings(host="localhost", port=secured.port), timeout_s=3.0)
    assert "[link.tls]" in said, said
    assert seconds < 6


def test_tls_on_the_plain_port_is_a_clear_error_in_time(tmp_path: Path, authority: Authority) -> None:
    with mosquitto(tmp_path / "plain") as running:
        said, seconds = attempt(
            LinkSettings(host="localhost", port=running.port, tls=authority.issue("device-7")), timeout_s=3.0
        )
    assert "over TLS" in said, said
    assert seconds < 10


def test_a_key_that_others_can_read_is_warned_of(authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    tls = authority.issue("device-7")
    with caplog.at_level(logging.WARNING):
        tls.context()
    assert not caplog.records
    tls.key.chmod(0o640)
    with caplog.at_level(logging.WARNING):
        tls.context()
    assert "mode 640" in caplog.text
    assert str(tls.key) in caplog.text


@pytest.mark.parametrize("missing", ["ca", "certificate", "key"])
def test_files_that_cannot_be_used_are_named(authority: Authority, missing: str, tmp_path: Path) -> None:
    files = msgspec.structs.asdict(authority.issue("device-7")) | {missing: tmp_path / "nowhere.pem"}
    with pytest.raises(ConfigurationError, match=r"nowhere\.pem"):
        Link(LinkSettings(tls=TlsSettings(**files)), "x", on_message=ignore)


def test_a_key_of_another_certificate_is_refused(authority: Authority) -> None:
    one, other = authority.issue("device-7"), authority.issue("device-8")
    with pytest.raises(ConfigurationError, match=r"link\.tls"):
        TlsSettings(ca=one.ca, certificate=one.certificate, key=other.key).context()


def test_a_study_reaches_an_external_broker_over_tls(
    secured: Mosquitto, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls = authority.issue("study")
    monkeypatch.chdir(authority.folder)
    relative = TlsSettings(ca=Path("ca.pem"), certificate=Path("study.pem"), key=Path("study.key"))
    section = BrokerSection(kind="external", host="localhost", port=secured.port, tls=relative)
    with serve(section, tmp_path) as running:
        assert running.link.tls == tls
        written = to_toml(AttackSettings(run="r", directory=tmp_path, link=running.link))
    assert str(tls.key) in written
    study = Study(name="x", schedule=(), broker=section)
    assert "study.key" in to_toml(study)


def test_an_attacker_over_tls_is_told_what_is_wrong(secured: Mosquitto, authority: Authority, tmp_path: Path) -> None:
    foreign = Authority(tmp_path / "foreign").issue("attacker")
    tls = TlsSettings(ca=authority.path, certificate=foreign.certificate, key=foreign.key)
    settings = AttackSettings(
        run="r", directory=tmp_path / "attack", link=LinkSettings(host="localhost", port=secured.port, tls=tls)
    )
    with pytest.raises(EnvironmentFaultError, match="over TLS"):
        run_attack(settings)


def test_another_host_s_certificate_passes_only_by_its_own_name(authority: Authority, tmp_path: Path) -> None:
    own, tls = authority.issue("broker", "broker.lab"), authority.issue("device-7")
    with mosquitto(tmp_path / "broker", *authority.listener(own)) as running:
        named = msgspec.structs.replace(tls, server_name="broker.lab")
        link = Link(LinkSettings(port=running.port, tls=named), "device-7", on_message=ignore)
        link.start()
        link.stop()
        for other in (tls, msgspec.structs.replace(tls, server_name="other.lab")):
            said, _ = attempt(LinkSettings(port=running.port, tls=other), timeout_s=0.5)
            assert "certificate is not valid for" in said, said


def test_a_whole_study_runs_over_tls_and_a_shaped_link_takes_the_time_that_is_calculated(
    authority: Authority, tmp_path: Path
) -> None:
    """The broker's certificate names localhost alone; the shaped device connects to 127.0.0.1, before it."""
    with mosquitto(tmp_path / "broker", *authority.listener(authority.issue("broker", "localhost"))) as secured:
        _whole_study(secured, authority.issue("study"), tmp_path)
    with Ledger.open_read(tmp_path / "out" / FILE_NAME) as ledger:
        sql = "SELECT duration_s FROM energy WHERE phase = 'transmit' AND source LIKE 'model:%' AND node = ?"
        shaped_s, free_s = (ledger.value(sql, f"device-00{i}") for i in (0, 1))
        nbytes = ledger.value("SELECT bytes FROM updates WHERE node = 'device-000'")
    records = -(-nbytes // _RECORD_BYTES)
    calculated_s = LinkProfile(rate_kbit_s=100.0, latency_ms=200.0).transmit_s(nbytes + records * _RECORD_MORE)
    assert calculated_s > 4
    assert shaped_s == pytest.approx(calculated_s, rel=0.1)
    assert free_s < calculated_s / 2


_RECORD_BYTES, _RECORD_MORE = 2**14, 22
"""Of TLS 1.3: plaintext of a record at most, and its header, type and tag (RFC 8446, 5.1 and 5.2)."""


def _whole_study(secured: Mosquitto, tls: TlsSettings, tmp_path: Path) -> None:
    study = tmp_path / "study.toml"
    study.write_text(
        f"""name = "secured"
clients = 2

[task.encoding]
kind = "direct"
steps = 2

[task.model]
hidden = [16]

[attack]
budget_s = 1.0
attacks = ["rank1"]

[devices]
engine = "torch"
[[devices.group]]
count = 1
rate_kbit_s = 100.0
latency_ms = 200.0

[server]
export = false
drain_s = 10.0

[broker]
kind = "external"
host = "localhost"
port = {secured.port}

[broker.tls]
ca = "{tls.ca}"
certificate = "{tls.certificate}"
key = "{tls.key}"

[[schedule]]
kind = "train"
batch_size = 8
deadline_s = 120.0
"""
    )
    done = spikeleak("run", str(study), "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["broker"] == f"external localhost:{secured.port}"
    said = secured.log.read_text()
    for party in ("server-", "-device-000", "-device-001", "-attack"):
        (line, *_) = [line for line in said.splitlines() if "New client connected" in line and party in line]
        assert "u'study'" in line
