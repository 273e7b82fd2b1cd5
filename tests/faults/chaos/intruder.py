"""Row `intruder`: who is not let in, and that whoever is in writes and reads no more than SPEC.md gives it.

Everyone subscribes to everything. Then everyone writes on every topic, retained; afterwards each topic's own writer
does. What nobody may write nobody may ever receive, not even who comes later; what is written rightly must reach
exactly its readers. So each denial stands beside a message that did arrive on the same topic, over the same
connections.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

from contract.link import Link, LinkSettings
from deploy import authority
from deploy.authority import Identity
from tests.enrolled_broker import EnrolledBroker, enrolled_broker
from tests.faults.chaos import Outcome
from tests.faults.chaos.intruder_door import cases, knock

ROOT = "spikeleak/v1/trial"
UID = "0" * 32
EVERYTHING = ("#", "$SYS/#", "$share/thieves/#", "spikeleak/#", "+/+/+/+/+/+/+/+")
DEVICES = ("alpha", "beta")
REVOKED, STRANGER = "gamma", "stranger"
FORGED, GOOD = b"forged by ", b"written by "
LEFT = f"{ROOT}/score/{REVOKED}/2"
"""Where the revoked device left a retained message while it was in."""
_PATIENCE_S = 10.0

Rights = dict[str, tuple[str, set[str]]]


def rights() -> Rights:
    """SPEC.md's writers and readers of each topic, written out: it shares nothing with the ACL's own table."""
    everyone = {*DEVICES, "attacker"}
    found: Rights = {
        "server/state": ("server", everyone | {"operator"}),
        "task/manifest": ("server", everyone),
        "task/training/0": ("server", everyone),
        "model/1/0": ("server", everyone),
        f"mirror/1/alpha/{UID}/0": ("server", {"attacker"}),
    }
    for node in (*DEVICES, REVOKED):
        writer = node if node in DEVICES else ""
        found[f"node/{node}/state"] = (writer, {"server", "operator"})
        for suffix in (f"up/{{}}/1/{UID}/0", "score/{}/1", "truth/{}/1"):
            found[suffix.format(node)] = (writer, {"server"})
        found[f"ack/{node}"] = ("server", {node} & set(DEVICES))
        found[f"recon/{node}/1/0"] = ("attacker", {node, "server"} - {REVOKED})
    placed = {f"{ROOT}/{suffix}": right for suffix, right in found.items()}
    none = ("$SYS/broker/version", "plain", "spikeleak/v2/trial/server/state", f"{ROOT}/node/alpha/state/more")
    return placed | {topic: ("", set()) for topic in none}


class Member:
    """A connection that listens to everything and remembers it all."""

    def __init__(self, name: str, settings: LinkSettings) -> None:
        self.name, self.heard, self.ups = name, list[tuple[str, bytes]](), 0
        self.link = Link(settings, f"{name}-link", on_message=self._hear, on_up=self._up)
        self.link.subscribe(*EVERYTHING)
        self.link.start()

    def _hear(self, topic: str, payload: bytes) -> None:
        self.heard.append((topic, payload))

    def _up(self) -> None:
        self.ups += 1

    def write(self, topic: str, said: bytes) -> bytes:
        """Publishes, retained, and waits until the broker has taken it."""
        client = self.link._client
        assert client is not None, f"{self.name} lost its connection"
        payload = said + self.name.encode()
        client.publish(topic, payload, qos=1, retain=True).wait_for_publish(_PATIENCE_S)
        return payload

    def has(self, topic: str, payload: bytes) -> bool:
        return (topic, payload) in self.heard


def run(count: int, folder: Path) -> Outcome:
    """Tries every case at least once, and all of them again until `count` is reached."""
    doors = writes = reads = 0
    for protocol in ("5", "3.1.1") * max(1, count):
        place = folder / f"broker-{protocol}-{doors}"
        with enrolled_broker(place, *DEVICES, REVOKED, "delta") as broker:
            doors += cases(broker, _empty(folder / f"door-{protocol}-{doors}"))
            members = _assemble(broker, protocol, _empty(folder / f"key-{protocol}-{doors}"))
            try:
                _no_takeover(broker, members["server"])
                doors += 1 + _revoke(broker, members)
                denied = _matrix(members)
                writes, reads = writes + denied[0], reads + denied[1]
                writes += _wills(broker, members)
                reads += _late_comers(broker, protocol, members)
                reads += _system_topics(broker, members)
            finally:
                for member in members.values():
                    member.link.stop()
        if protocol == "3.1.1" and doors + writes + reads >= count:
            break
    return Outcome(
        injected=doors + writes + reads,
        figures=f"denied: {doors} connections, {writes} writes, {reads} reads; every control was served",
    )


def _empty(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def _assemble(broker: EnrolledBroker, protocol: str, keys: Path) -> dict[str, Member]:
    """All parties, one that will be revoked, and one with a certificate of the authority that was never enrolled."""
    names = ("server", "attacker", "operator", *DEVICES, REVOKED)
    settings = {name: broker.link(name) for name in names}
    ca = broker.folder / "ca"
    own = Identity(certificate=(ca / "ca.pem").read_bytes(), key=(ca / "ca.key").read_bytes())
    made = authority.issue(own, STRANGER, days=1)
    (keys / "it.pem").write_bytes(made.certificate)
    (keys / "it.key").write_bytes(made.key)
    tls = type(broker.tls("server"))(ca=ca / "ca.pem", certificate=keys / "it.pem", key=keys / "it.key")
    settings[STRANGER] = LinkSettings(host="localhost", port=broker.port, tls=tls)
    members: dict[str, Member] = {}
    for name, link in settings.items():
        # Whatever they call themselves, they are who their certificate says.
        told = {"username": "server", "password": "server"} if name != "server" else {}
        members[name] = Member(name, _replace(link, protocol=protocol, **told))
    return members


def _replace(link: LinkSettings, **changes: object) -> LinkSettings:
    return LinkSettings(**{name: getattr(link, name) for name in link.__struct_fields__} | changes)  # type: ignore[arg-type]


def _no_takeover(broker: EnrolledBroker, server: Member) -> None:
    """A device that connects under the server's client identifier leaves the server's connection alone."""
    for name in ("server", "server-link"):
        assert knock(broker.port, broker.tls("delta").context(), name=name), f"delta as {name!r} was not let in at all"
    time.sleep(0.2)
    assert (server.link.connected, server.ups) == (True, 1), f"the server was thrown out: {server.ups} connections"


def _revoke(broker: EnrolledBroker, members: dict[str, Member]) -> int:
    """A device that worked is revoked: its connection is worth nothing any more, and it gets no other."""
    gamma, topic = members[REVOKED], LEFT
    payload = gamma.write(topic, GOOD)
    _await((members["server"], topic, payload) for _ in "1")
    broker.command("revoke", REVOKED)
    broker.reload()
    context = broker.tls(REVOKED).context()
    assert not knock(broker.port, context), "a revoked device was let in"
    assert knock(broker.port, broker.tls("delta").context()), "after the reload nobody is let in"
    assert gamma.link.connected, "the open connection ended: nothing would be shown by its silence"
    gamma.heard.clear()
    return 1


def _matrix(members: dict[str, Member]) -> tuple[int, int]:
    """Everyone writes everywhere; then the right ones do. Denied writes and reads."""
    table = rights()
    forged = [
        member.write(topic, FORGED)
        for topic, (writer, _) in table.items()
        for member in members.values()
        if member.name != writer
    ]
    written = {topic: members[writer].write(topic, GOOD) for topic, (writer, _) in table.items() if writer}
    _await((members[name], topic, payload) for topic, payload in written.items() for name in table[topic][1])
    reads = 0
    for topic, payload in written.items():
        strangers = [member for member in members.values() if member.name not in table[topic][1]]
        took = [member.name for member in strangers if member.has(topic, payload)]
        assert not took, f"{topic}: read by {took}"
        reads += len(strangers)
    _nothing_forged(members.values())
    return len(forged), reads


def _await(expected: Iterable[tuple[Member, str, bytes]]) -> None:
    end_s = time.monotonic() + _PATIENCE_S
    for member, topic, payload in expected:
        while not member.has(topic, payload):
            assert time.monotonic() < end_s, f"{topic}: {payload!r} never reached {member.name}, who may read it"
            time.sleep(0.01)


def _nothing_forged(members: Iterable[Member]) -> None:
    for member in members:
        found = [(topic, payload) for topic, payload in member.heard if FORGED in payload]
        assert not found, f"{member.name} received what nobody may write: {found[:3]}"


def _wills(broker: EnrolledBroker, members: dict[str, Member]) -> int:
    """Last wills are writes too: on another's topic nobody hears it, on one's own the server does."""
    foreign, own, context = list(rights()), f"{ROOT}/node/delta/state", broker.tls("delta").context()
    for topic in foreign:
        knock(broker.port, context, will=(topic, FORGED))  # let in or not: nobody may hear it
    assert knock(broker.port, context, will=(own, GOOD)), "delta was not let in with a will on its own topic"
    _await([(members["server"], own, GOOD)])
    _nothing_forged(members.values())
    return len(foreign)


def _late_comers(broker: EnrolledBroker, protocol: str, members: dict[str, Member]) -> int:
    """Who connects afterwards finds retained what was written rightly, and nothing else."""
    table, reads = rights(), 0
    for name in ("server", "attacker", "beta"):
        members[name].link.stop()
        late = members[name] = Member(name, _replace(broker.link(name), protocol=protocol))
        right = {topic: writer for topic, (writer, readers) in table.items() if writer and name in readers}
        mine = {topic: GOOD + writer.encode() for topic, writer in right.items()}
        _await((late, topic, payload) for topic, payload in mine.items())
        others = [topic for topic, _ in late.heard if topic in {*table, LEFT} and topic not in mine]
        assert not others, f"{name}, who came late, found retained {others}"
        reads += len(table) + 1 - len(mine)
    _nothing_forged(members.values())
    return reads


def _system_topics(broker: EnrolledBroker, members: dict[str, Member]) -> int:
    """Nobody reads the broker's own topics; with one line more in the ACL the server would: they are there."""
    read = [member.name for member in members.values() if any(topic.startswith("$SYS") for topic, _ in member.heard)]
    assert not read, f"$SYS read by {read}"
    rules = broker.folder / "broker" / "acl"
    shipped = rules.read_text()
    rules.write_text(f"{shipped}\nuser server\ntopic read $SYS/#\n")
    broker.reload()
    server = members["server"]
    server.link.unsubscribe("$SYS/#")
    server.link.subscribe("$SYS/broker/version")
    end_s = time.monotonic() + _PATIENCE_S
    while not any(topic.startswith("$SYS") for topic, _ in server.heard):
        assert time.monotonic() < end_s, "the control for $SYS: nothing arrived with the right to read it"
        time.sleep(0.02)
    rules.write_text(shipped)
    return len(members)
