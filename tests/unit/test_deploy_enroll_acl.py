"""The ACL grants what SPEC.md's writer column and the parties' subscriptions say, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from paho.mqtt.client import topic_matches_sub

import contract
from contract import topics
from deploy import acl

SPEC = (Path(contract.__file__).parent / "SPEC.md").read_text(encoding="utf-8")
RUN, NODE, OTHER, UID = "run-7", "pi-1", "pi-2", "0" * 32
PARTIES = ("server", "attacker", "operator", NODE)


def rules(name: str, *, access: str) -> list[str]:
    """Filters of one party, out of the file that mosquitto reads."""
    text = acl.render(["server", "attacker", "operator", NODE, OTHER])
    (block,) = re.findall(rf"^user {name}\n((?:topic .*\n)*)", text, re.MULTILINE)
    found = [line.split() for line in block.splitlines()]
    assert all(word == "topic" and kind in {"read", "write"} for word, kind, _ in found)
    return [place for _, kind, place in found if kind == access]


def may(name: str, access: str, topic: str) -> bool:
    return any(topic_matches_sub(place, topic) for place in rules(name, access=access))


def spec_writers() -> dict[str, str]:
    """Topic form → writer, from SPEC.md's table."""
    rows = re.findall(r"^\| `([a-z]+/[^`]*)` \| [^|]* \| (device|server|attacker)[^|]* \|", SPEC, re.MULTILINE)
    assert len(rows) == sum(len(forms) for forms in topics._FORMS.values())
    return dict(rows)


def filled(form: str, node: str) -> str:
    values = {"id": node, "name": "training", "uid": UID, "round": "3", "version": "2", "i": "0"}
    return f"{topics.ROOT}/{RUN}/{form.format(**values)}"


@pytest.mark.parametrize("form", sorted(spec_writers()))
def test_only_specs_writer_writes(form: str) -> None:
    writer = spec_writers()[form]
    for node in (NODE, OTHER):
        topic = filled(form, node)
        assert topics.parse(topic).run == RUN
        allowed = {name for name in (*PARTIES, OTHER) if may(name, "write", topic)}
        own = {node} if "{id}" in form else {NODE, OTHER}
        assert allowed == (own if writer == "device" else {writer}), topic


def wanted(name: str) -> Iterator[str]:
    """Every filter that a party subscribes to."""
    party = {"server": "server", "attacker": "attack"}.get(name, "client")
    yield from topics.subscriptions(party, RUN, name)
    if party == "client":
        yield topics.model_filter(RUN, 2)
        yield topics.graph_filter(RUN, "training")


@pytest.mark.parametrize("name", ["server", "attacker", NODE])
def test_what_is_read_is_what_is_subscribed_to(name: str) -> None:
    filters = list(wanted(name))
    readable = {filled(form, node) for form in spec_writers() for node in (NODE, OTHER)}
    granted = {topic for topic in readable if may(name, "read", topic)}
    subscribed = {topic for topic in readable if any(topic_matches_sub(place, topic) for place in filters)}
    extra = granted - subscribed
    # SPEC.md lets the attacker read all of task/: the graphs too, which it makes no use of.
    assert extra == ({filled("task/{name}/{i}", NODE)} if name == "attacker" else set())
    assert subscribed <= granted


def test_the_attackers_sentence_of_the_spec() -> None:
    assert "may read `server/`, `task/`, `model/` and `mirror/`, and write `recon/`, `claim/` and `working/`" in SPEC
    kinds = {
        access: {place.split("/")[3] for place in rules("attacker", access=access)} for access in ("read", "write")
    }
    assert kinds == {"read": {"server", "task", "model", "mirror"}, "write": {"recon", "claim", "working"}}


def test_the_operators_sentence_of_the_spec() -> None:
    assert "An operator's may read `node/` and `server/`, and write nothing" in SPEC
    assert {place.split("/")[3] for place in rules("operator", access="read")} == {"node", "server"}
    assert rules("operator", access="write") == []
    assert all(may("operator", "read", filled("node/{id}/state", node)) for node in (NODE, OTHER))


def test_no_rule_reaches_beyond_this_protocol_and_none_is_a_pattern() -> None:
    text = acl.render(PARTIES)
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert {line.split()[0] for line in lines} == {"user", "topic"}
    plugs = {line.split()[2] for line in lines if not line.startswith("user")} & plug_topics(NODE)
    assert plugs == plug_topics(NODE)
    ours = [line for line in lines if line.startswith("topic") and line.split()[2] not in plugs]
    assert all(line.split()[2].startswith(f"{topics.ROOT}/+/") for line in ours)
    assert "%" not in text
    assert lines[0].startswith("user "), "a line before the first user would hold for anonymous clients"


def plug_topics(node: str) -> set[str]:
    return {f"tele/{node}/SENSOR", f"tele/{node}/LWT", f"{node}/events/rpc", f"{node}/online"}


def test_a_device_reads_its_own_plug_and_only_the_plug_writes_it() -> None:
    for topic in plug_topics(NODE):
        names = ("server", "attacker", "operator", NODE, OTHER, f"{NODE}.plug", f"{OTHER}.plug")
        assert {name for name in names if may(name, "read", topic)} == {NODE}
        assert {name for name in names if may(name, "write", topic)} == {f"{NODE}.plug"}
    assert set(rules(f"{NODE}.plug", access="write")) == plug_topics(NODE)


def test_the_matcher_of_this_test_is_not_blind() -> None:
    assert may("server", "read", filled("up/{id}/{round}/{uid}/{i}", OTHER))
    assert not may(NODE, "read", "$SYS/broker/version")
    assert not may(NODE, "write", filled("up/{id}/{round}/{uid}/{i}", NODE).replace("/v1/", "/v2/"))
