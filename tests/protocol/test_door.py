"""The door of a run's broker: attackers come in with the run's own certificate, and get the mirror, not the truth."""

from __future__ import annotations

import queue
import socket
import time
from contextlib import contextmanager

import msgspec
import pytest

from contract import topics
from contract.errors import ConfigurationError, EnvironmentFaultError
from contract.link import Link, TlsSettings
from deploy import broker, door

RUN, NODE, UID = "r", "device-000", "0" * 32
OTHERS = (topics.truth(RUN, NODE, 1), topics.score(RUN, NODE, 1), topics.update_chunk(RUN, NODE, 1, UID, 0))


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    folder = tmp_path_factory.mktemp("door")
    assert broker.mosquitto_path() is not None, "mosquitto is not on PATH"
    opened = door.make(broker.LOOPBACK, folder / "door")
    with broker.serve(broker.BrokerSection(kind="mosquitto"), folder, opened) as found:
        yield found


@contextmanager
def joined(link, name, *filters):
    """A party with its inbox."""
    inbox = queue.SimpleQueue()
    party = Link(link, name, on_message=lambda topic, payload: inbox.put((topic, payload)))
    party.subscribe(*filters)
    party.start(timeout_s=5.0)
    try:
        yield party, inbox
    finally:
        party.stop()


def heard(inbox, topic):
    """All that came before a last word."""
    found = []
    while True:
        got = inbox.get(timeout=5.0)
        if got[0] == topic:
            return found
        found.append(got[0])


def test_an_attacker_reads_the_mirror_and_neither_truth_nor_scores_nor_updates(running):
    mirrored, last = topics.mirror_chunk(RUN, 1, NODE, UID, 0), topics.server_state(RUN)
    with (
        joined(running.link, "server", "spikeleak/#") as (server, at_server),
        joined(running.door, "attack", "spikeleak/#", topics.first_chunks(RUN, "attack"), *OTHERS) as (attacker, inbox),
    ):
        for topic in (*OTHERS, mirrored, last):
            assert server.publish(topic, b"x")
        assert set(heard(inbox, last)) == {mirrored}
        for topic in (*OTHERS, mirrored, topics.recon_chunk(RUN, NODE, 1, 0), topics.claim(RUN, 1, NODE, UID)):
            assert attacker.publish(topic, b"from the attacker")
        time.sleep(0.3)
        written = []
        while not at_server.empty():
            topic, payload = at_server.get()
            written += [topic] * (payload == b"from the attacker")
        assert written == [topics.recon_chunk(RUN, NODE, 1, 0), topics.claim(RUN, 1, NODE, UID)]


def test_two_jobs_of_one_identity_share_the_mirror(running):
    share = topics.first_chunks(RUN, "attack")
    with (
        joined(running.link, "server") as (server, _),
        joined(running.door, "attack-0", share) as (first, one),
        joined(running.door, "attack-1", share) as (second, two),
    ):
        assert first.shares
        assert second.shares
        for number in range(6):
            server.publish(topics.mirror_chunk(RUN, 1, NODE, f"{number:032x}", 0), b"x")
        time.sleep(0.5)
        assert (one.qsize(), two.qsize()) == (3, 3)


def test_nobody_comes_in_without_a_certificate_of_this_run(running, tmp_path):
    link, other = running.door, door.make(broker.LOOPBACK, tmp_path / "other").link
    strangers = TlsSettings(ca=link.tls.ca, certificate=other.tls.certificate, key=other.tls.key)
    for wrong in (msgspec.structs.replace(link, tls=None), msgspec.structs.replace(link, tls=strangers)):
        party = Link(wrong, "stranger", on_message=lambda _topic, _payload: None)
        with pytest.raises(EnvironmentFaultError):
            party.start(timeout_s=0.5)


def test_a_door_is_on_one_address_of_this_machine(running, tmp_path):
    for host in ("0.0.0.0", "::", "", "a-name"):
        with pytest.raises(ConfigurationError, match="one interface"):
            door.make(host, tmp_path)
    with pytest.raises(EnvironmentFaultError, match=r"cannot listen on 192\.0\.2\.1"):
        door.make("192.0.2.1", tmp_path)
    with pytest.raises(OSError), socket.create_connection(("127.0.0.2", running.door.port), 0.5):
        pass


def test_amqtt_has_no_door(tmp_path):
    opened = door.make(broker.LOOPBACK, tmp_path / "door")
    with (
        pytest.raises(ConfigurationError, match="install mosquitto"),
        broker.serve(broker.BrokerSection(kind="amqtt"), tmp_path, opened),
    ):
        pass
