"""What the server says, held back until the ledger holds what it rests on: one commit for all that came together.

A commit waits for the disk, several milliseconds; fifty devices that answer at once would wait for fifty of them. So
what lies in the mailbox is taken in one transaction; acknowledgements, mirrored objects, models and states leave after
it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from server.ledger import Ledger


class Connected(Protocol):
    """What is needed of the connection; `contract.link.Link` is one."""

    @property
    def connected(self) -> bool:
        """Whether it stands."""
        ...

    @property
    def frame_bytes(self) -> int:
        """Largest frame that the broker takes now."""
        ...

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        """Hands a message to the network; `False` when offline."""
        ...


class Outgoing:
    """The server's wire.

    Args:
        link: The connection.
        ledger: What is said follows from it.
    """

    def __init__(self, link: Connected, ledger: Ledger) -> None:
        self._link, self._ledger = link, ledger
        self._held: list[tuple[str, bytes, bool]] | None = None

    @property
    def frame_bytes(self) -> int:
        """Largest frame that the broker takes now."""
        return self._link.frame_bytes

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        """Hands a message to the network, or keeps it for the end of `together`.

        Returns:
            `False` when offline. One that goes offline after a message was kept loses it as a broker may: devices ask
            again, what is retained is published anew with the next connection, and the mirror counts what is scored.
        """
        if self._held is None:
            return self._link.publish(topic, payload, retain=retain)
        if not self._link.connected:
            return False
        self._held.append((topic, payload, retain))
        return True

    @contextmanager
    def together(self) -> Iterator[None]:
        """Everything in the block is one transaction; what is said in it is said after its commit, or never."""
        held = self._held = []
        try:
            with self._ledger.transaction():
                yield
        finally:
            self._held = None
        self.say(held)

    def say(self, held: list[tuple[str, bytes, bool]]) -> None:
        """What was held is true now."""
        for topic, payload, retain in held:
            if not self._link.publish(topic, payload, retain=retain):
                return
