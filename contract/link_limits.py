"""How large a frame the broker takes: what it announces, and what it turns out not to survive. No I/O, no clock.

Brokers refuse a message that is too large for them in three ways:

- They announce a Maximum Packet Size (MQTT 5).
- They end the connection: all of them on 3.1.1, mosquitto's `message_size_limit` on 5. Whoever sends until it is
  acknowledged would repeat that for ever, so frames are halved when connections end in a row at large messages. Some
  acknowledge first (`message_size_limit` with `max_queued_messages 0` on 3.1.1): a PUBACK proves little.
- They acknowledge and drop it (`message_size_limit` on 3.1.1). The sender alone can notice that (`cut_smaller`).
"""

from __future__ import annotations

import msgspec

from contract.errors import EnvironmentFaultError

FLOOR_BYTES = 1024
"""Smallest frame that is of use."""
CAUTIOUS_FLOOR_BYTES = 4096
"""Smallest frame that silence leads to, or connections lost after an answer: below it, size is not what is wrong."""
TOPIC_SLACK_BYTES = 512
"""What a packet adds to a frame at most: topic, packet identifier, lengths."""
LARGEST_WINDOW = 64
"""Messages that may await their PUBACK, unless the broker announces less (Receive Maximum)."""
SOON_S = 2.0
"""A message survived when the connection lasted for so long after it."""
PATIENCE_S = 10.0
"""How long a message without a PUBACK is blamed for the end of its connection."""
STRIKES = 2
"""Connections in a row that end at an unanswered message, before frames are halved; twice as many at answered ones."""
LAST_STRIKES = 6
"""The same with the smallest frames, before the link gives up."""

_TELLING = frozenset({0x95, 0x99})
"""Reasons of a DISCONNECT that need no second connection: packet too large, payload format invalid."""
_SUSPICIOUS = frozenset({0x80, 0x81, 0x82, 0x83, *_TELLING})
"""Unspecified (so paho calls a connection that is simply closed), malformed, protocol and implementation errors."""


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """How a connection ended that this side would have kept.

    Attributes:
        reason: Of the MQTT 5 DISCONNECT, or paho's in its place; `None` when this side ended it after all.
        open_bytes: Largest message without a PUBACK, if it was larger than all with one; otherwise 0.
        recent_bytes: Largest message of the last `SOON_S`, answered or not.
        survived_bytes: Largest message that the connection outlived by more.
    """

    reason: int | None
    open_bytes: int = 0
    recent_bytes: int = 0
    survived_bytes: int = 0


class FrameLimit:
    """The frame size of one link.

    Args:
        largest_bytes: Where it starts.
        where: Host and port, for messages.
    """

    def __init__(self, largest_bytes: int, where: str) -> None:
        self._where = where
        self._learnt = largest_bytes
        self._announced: int | None = None
        self._evidence = 0
        self._poison = 0
        self._survived = 0

    @property
    def frame_bytes(self) -> int:
        """Largest frame, header included."""
        return self._learnt if self._announced is None else min(self._learnt, self._announced)

    def announced(self, packet_bytes: int | None) -> None:
        """A connection was accepted, with this Maximum Packet Size or none.

        Raises:
            EnvironmentFaultError: Too small to be of use.
        """
        self._announced = None if packet_bytes is None else packet_bytes - TOPIC_SLACK_BYTES
        if self._announced is not None and self._announced < FLOOR_BYTES:
            raise EnvironmentFaultError(
                f"broker {self._where} takes packets of at most {packet_bytes} bytes: too small, frames of "
                f"{FLOOR_BYTES} bytes need {FLOOR_BYTES + TOPIC_SLACK_BYTES}; raise its maximum packet size "
                "(max_packet_size of mosquitto)"
            )

    def absent(self) -> None:
        """The broker could not be reached: it went away, and no message was to blame."""
        self._evidence = self._poison = 0

    def ended(self, end: Ending) -> str:
        """A connection ended.

        Returns:
            What follows, for the log; empty when nothing does.

        Raises:
            EnvironmentFaultError: Not even the smallest frames pass.
        """
        self._survived = max(self._survived, end.survived_bytes)
        if end.survived_bytes >= max(1, self._poison):
            self.absent()
        if end.reason not in _SUSPICIOUS:
            return ""
        if end.open_bytes > FLOOR_BYTES // 2:
            return self._blame(end.open_bytes, FLOOR_BYTES, 2 * STRIKES if end.reason in _TELLING else 2)
        if end.recent_bytes > CAUTIOUS_FLOOR_BYTES:
            return self._blame(end.recent_bytes, CAUTIOUS_FLOOR_BYTES, 1)
        return ""

    def _blame(self, nbytes: int, floor_bytes: int, evidence: int) -> str:
        self._evidence += evidence
        self._poison = nbytes if self._poison == 0 else min(self._poison, nbytes)
        if self.frame_bytes > floor_bytes:
            if self._evidence < 2 * STRIKES:
                return ""
            self._learnt = max(floor_bytes, min(self.frame_bytes, nbytes) // 2)
            self.absent()
            return f"the connection ended at messages of {nbytes} bytes: frames of {self.frame_bytes} bytes now"
        if floor_bytes > FLOOR_BYTES or self._evidence < 2 * LAST_STRIKES:
            return ""
        raise EnvironmentFaultError(
            f"broker {self._where} ended the connection {self._evidence // 2} times in a row at a message of {nbytes} "
            f"bytes, with frames of {self.frame_bytes} bytes, the smallest (largest message that it took: "
            f"{self._survived} bytes); raise its limit (max_packet_size or message_size_limit of mosquitto) "
            f"above {max(nbytes, FLOOR_BYTES) + TOPIC_SLACK_BYTES}, or look into its log"
        )

    def cut_smaller(self) -> bool:
        """Nobody hears of an object though the connection stands: a quarter of the frame size, if that is of use."""
        if self.frame_bytes <= CAUTIOUS_FLOOR_BYTES:
            return False
        self._learnt = max(CAUTIOUS_FLOOR_BYTES, self.frame_bytes // 4)
        return True


def window(receive_maximum: int | None) -> int:
    """Messages that may await their PUBACK."""
    return min(LARGEST_WINDOW, receive_maximum or LARGEST_WINDOW)
