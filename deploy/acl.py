"""Who may write and read what on the broker: SPEC.md's topics as one table, and the ACL that follows from it.

Every party gets a `user` block of its own. There is no `pattern` line: a pattern holds for every identity, so it would
give the attacker whatever it gives a device.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from contract.topics import ROOT

Party = Literal["device", "server", "attacker", "operator"]

SERVER: Party = "server"
ATTACKER: Party = "attacker"
OPERATOR: Party = "operator"
"""Who looks how the boards are: `spikeleak deploy status`. It writes nothing."""
OWN: tuple[Party, ...] = (SERVER, ATTACKER, OPERATOR)
"""Parties that there is one of, called by their kind."""

RIGHTS: dict[str, tuple[Party, tuple[Party, ...]]] = {
    "node/{id}/state": ("device", ("server", "operator")),
    "server/state": ("server", ("device", "attacker", "operator")),
    "task/#": ("server", ("device", "attacker")),
    "model/#": ("server", ("device", "attacker")),
    "up/{id}/#": ("device", ("server",)),
    "ack/{id}": ("server", ("device",)),
    "mirror/#": ("server", ("attacker",)),
    "claim/#": ("attacker", ("server",)),
    "working/#": ("attacker", ("server",)),
    "recon/{id}/#": ("attacker", ("device", "server")),
    "score/{id}/#": ("device", ("server",)),
    "truth/{id}/#": ("device", ("server",)),
    "secure/{id}/#": ("device", ("server",)),
    "relay/{id}": ("server", ("device",)),
}
"""Below `spikeleak/v1/{run}/`: a topic, its only writer, its readers. A device's `{id}` is its own; the others' any."""

PLUG_SUFFIX = ".plug"
PLUG_TOPICS = ("tele/{id}/SENSOR", "tele/{id}/LWT", "{id}/events/rpc", "{id}/online")
"""Of the smart plug that a device hangs on, Tasmota's and Shelly's: the plug is called like the device, which reads
them, and the user NODE.plug writes them. Nobody else may do either."""


def grants(party: Party, node: str = "+") -> tuple[tuple[str, str], ...]:
    """What one party may do in any run.

    Args:
        party: Its kind.
        node: A device's name.

    Returns:
        Pairs of `read` or `write` and a topic filter.
    """
    found: list[tuple[str, str]] = []
    for topic, (writer, readers) in RIGHTS.items():
        place = f"{ROOT}/+/{topic.format(id=node if party == 'device' else '+')}"
        found += [("write", place)] * (party == writer) + [("read", place)] * (party in readers)
    if party == "device" and node != "+":
        found += [("read", topic.format(id=node)) for topic in PLUG_TOPICS]
    return tuple(found)


def _block(user: str, rights: Iterable[tuple[str, str]]) -> str:
    return "\n".join([f"user {user}", *(f"topic {access} {place}" for access, place in rights)]) + "\n"


def render(parties: Iterable[str]) -> str:
    """The ACL file of mosquitto.

    Args:
        parties: Common names of the certificates that are valid: `server`, `attacker`, `operator`, and any other is a
            device.
            One that is not listed may connect until its certificate is refused, and may do nothing.
    """
    blocks = ["# Written by `spikeleak enroll`, which overwrites it. What no line grants is denied.\n"]
    for name in sorted(parties):
        party: Party = next((own for own in OWN if own == name), "device")
        blocks.append(_block(name, grants(party, name)))
        if party == "device":
            blocks.append(_block(name + PLUG_SUFFIX, [("write", topic.format(id=name)) for topic in PLUG_TOPICS]))
    return "\n".join(blocks)
