"""A listener at the broker that no party knows of."""

from __future__ import annotations

import contextlib
import time

from contract import frames, topics
from contract.errors import WireError
from contract.link import Link, LinkSettings
from contract.messages import Ack, ServerState, decode

RUN = "chaos"
"""Name of every federation's run; each has a broker of its own."""


class Witness:
    """Listens at the broker itself: which updates were sent, and which verdicts were given."""

    def __init__(self, link: LinkSettings) -> None:
        self.sent: dict[str, str] = {}
        self.verdicts: dict[str, set[str]] = {}
        self.state: ServerState | None = None
        self.rounds: dict[tuple[int, int], float] = {}
        self._link = Link(link, "witness", on_message=self._heard)
        self._link.subscribe(topics.server_state(RUN), f"{topics.ROOT}/{RUN}/up/#", f"{topics.ROOT}/{RUN}/ack/+")
        self._link.start()

    def _heard(self, topic_text: str, payload: bytes) -> None:
        topic = topics.parse(topic_text)
        if topic.kind == "server" and payload:
            self.state = decode(payload, ServerState)
            self.rounds.setdefault((self.state.round, self.state.attempt), time.monotonic())
        elif topic.kind == "ack":
            ack = decode(payload, Ack)
            self.verdicts.setdefault(ack.uid, set()).add(ack.status)
        elif topic.kind == "up":
            with contextlib.suppress(WireError):
                self.sent.setdefault(frames.parse(payload).uid, topic.node)

    @property
    def round(self) -> int:
        """The newest round that was announced."""
        return 0 if self.state is None else self.state.round

    def stop(self) -> None:
        """Leaves."""
        self._link.stop()
