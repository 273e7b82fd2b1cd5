"""What was said on the wire: a stranger hears every acknowledgement and every chunk of an update, and writes it down.

It connects before any party does. While a broker is down it hears nothing, so that what it has is a part of the truth.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from contract import frames, messages, topics
from contract.link import Link, LinkSettings
from contract.messages import Ack


class Heard(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the log.

    Attributes:
        node: The device that spoke (`sent`) or was spoken to.
        said: `sent`, or the status of an acknowledgement.
        detail: SHA-256 of the object that was sent, or the reason.
    """

    node: str
    said: str
    uid: str
    detail: str = ""


@contextlib.contextmanager
def witness(link: LinkSettings, run: str, log: Path) -> Iterator[None]:
    """Listens for the time of a `with` block."""
    with log.open("ab", buffering=0) as file:

        def hear(topic_text: str, payload: bytes) -> None:
            topic = topics.parse(topic_text)
            if topic.kind == "ack":
                ack = messages.decode(payload, Ack)
                heard = Heard(node=topic.node, said=ack.status, uid=ack.uid, detail=ack.reason)
            elif topic.index == 0:
                frame = frames.parse(payload)
                heard = Heard(node=topic.node, said="sent", uid=frame.uid, detail=frame.sha256.hex())
            else:
                return
            file.write(msgspec.json.encode(heard) + b"\n")

        listening = Link(link, f"witness-{run}", on_message=hear)
        listening.subscribe(f"{topics.ROOT}/{run}/ack/+", f"{topics.ROOT}/{run}/up/+/+/+/+")
        listening.start()
        try:
            yield
        finally:
            listening.stop()


def read(log: Path) -> tuple[Heard, ...]:
    """What was heard."""
    return tuple(msgspec.json.decode(line, type=Heard) for line in log.read_bytes().splitlines())
