"""What the broker knows of boards: the states that devices and servers keep there, births and last wills.

They are read as `operator`, an identity of its own that may write nothing: a second connection with a device's or the
server's certificate would end the first.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from pathlib import Path

import msgspec

from contract import topics
from contract.errors import SpikeleakError, WireError
from contract.link import Link, LinkSettings, TlsSettings
from contract.messages import NodeState, ServerState, decode
from deploy.acl import OPERATOR
from deploy.enroll import recorded

log = logging.getLogger(__name__)

_REACH_S = 5.0
_QUIET_S = 0.5
"""What is retained comes in one go after the subscription; after so long without a word it was all."""
_LONGEST_S = 10.0


class Heard(msgspec.Struct, frozen=True, kw_only=True):
    """What the broker has told.

    Attributes:
        nodes: State of each device, by run and name.
        servers: State of each server, by run.
        unavailable: Why nothing is known; empty when the broker was heard.
    """

    nodes: dict[tuple[str, str], NodeState] = {}
    servers: dict[str, ServerState] = {}
    unavailable: str = ""

    def of(self, node: str, run: str = "") -> tuple[str, NodeState | None]:
        """A device's state and the run that it belongs to; `None` when the broker has none.

        Args:
            node: The device.
            run: The run that it says it is in; empty: the one in which it is online, or the only one.
        """
        found = {at: state for (at, name), state in self.nodes.items() if name == node and run in {"", at}}
        online = [at for at, state in found.items() if state.status == "online"]
        for at in (*online, *(found if len(found) == 1 else ())):
            return at, found[at]
        # Offline in several runs: which of them was the last, the broker does not know.
        return run, next(iter(found.values()), None)


def heard(enrolment: Path) -> Heard:
    """Asks the broker of an enrolment folder.

    Raises:
        ConfigurationError: Not an enrolment folder.
    """
    told, place = recorded(enrolment), enrolment / OPERATOR
    where = f"broker {told.host}:{told.port}"
    if not place.is_dir():
        return Heard(
            unavailable=f"{where} not asked: {enrolment} holds no operator's certificate, it is older than that: "
            f"spikeleak enroll init --renew --out {enrolment}, then restart all but the devices with what is new"
        )
    own, key = place / f"{OPERATOR}.pem", place / f"{OPERATOR}.key"
    tls = TlsSettings(ca=place / "ca.pem", certificate=own, key=key)
    try:
        return _listen(LinkSettings(host=told.host, port=told.port, tls=tls))
    except SpikeleakError as error:
        return Heard(unavailable=f"{where} unreachable: {str(error).removeprefix(f'{where} ')}")


def _listen(settings: LinkSettings) -> Heard:
    nodes: dict[tuple[str, str], NodeState] = {}
    servers: dict[str, ServerState] = {}
    came = threading.Event()

    def take(topic: str, payload: bytes) -> None:
        came.set()
        try:
            parsed = topics.parse(topic)
            if parsed.kind == "node" and payload:
                nodes[parsed.run, parsed.node] = decode(payload, NodeState)
            elif parsed.kind == "server" and payload:
                servers[parsed.run] = decode(payload, ServerState)
        except WireError as error:
            log.warning("message on %s dropped: %s", topic, error)

    link = Link(settings, f"spikeleak-{OPERATOR}-{os.getpid()}", on_message=take)
    link.subscribe(f"{topics.ROOT}/+/node/+/state", f"{topics.ROOT}/+/server/state")
    link.start(timeout_s=_REACH_S)
    with contextlib.ExitStack() as stack:
        stack.callback(link.stop)
        end_s = time.monotonic() + _LONGEST_S
        while came.wait(_QUIET_S) and time.monotonic() < end_s:
            came.clear()
    return Heard(nodes=dict(nodes), servers=dict(servers))
