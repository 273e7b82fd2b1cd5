"""How large a frame the broker takes: what it announces, and what it turns out not to survive. No I/O, no clock.

Brokers refuse a message that is too large for them in three ways. They announce a Maximum Packet Size (MQTT 5); they
end the connection (all of them on 3.1.1; mosquitto's `message_size_limit` on 5); or they acknowledge and drop it
(mosquitto's `message_size_limit` on 3.1.1). The second would be repeated for ever by whoever sends until it is
acknowledged: a connection that ends twice at a message larger than all that passed halves the frames. The third is
noticed by the sender alone (`cut_smaller`).
"""

from __future__ import annotations

from contract.errors import EnvironmentFaultError

FLOOR_BYTES = 1024
"""Smallest frame that is of use."""
SILENCE_FLOOR_BYTES = 4096
"""Smallest frame that silence alone leads to: below it, size is not what is wrong."""
TOPIC_SLACK_BYTES = 512
"""What a packet adds to a frame at most: topic, packet identifier, lengths."""
LARGEST_WINDOW = 64
"""Messages that may await their PUBACK, unless the broker announces less (Receive Maximum)."""
STRIKES = 2
"""Connections in a row that end at a message before frames are halved."""
LAST_STRIKES = 6
"""The same with the smallest frames before the link gives up."""
STRIKE_WITHIN_S = 10.0
"""How soon after the message the connection must have ended."""

PACKET_TOO_LARGE, PAYLOAD_INVALID = 0x95, 0x99
_TELLING = frozenset({PACKET_TOO_LARGE, PAYLOAD_INVALID})
"""Reasons of a DISCONNECT that need no second connection."""
_SUSPICIOUS = frozenset({0x80, 0x81, 0x82, 0x83, *_TELLING})
"""Unspecified (so paho calls a connection that is simply closed), malformed, protocol and implementation errors."""


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
        self._strikes = 0
        self._poison = 0
        self._passed = 0

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

    def passed(self, nbytes: int) -> None:
        """The broker answered a message of that size, and the connection went on."""
        self._passed = max(self._passed, nbytes)
        if nbytes >= self._poison:
            self._strikes, self._poison = 0, 0

    def ended(self, open_bytes: int, *, reason: int, after_s: float) -> str:
        """A connection was ended by the other side.

        Args:
            open_bytes: Largest message without an answer; 0 when there is none.
            reason: Of the MQTT 5 DISCONNECT, or paho's in its place.
            after_s: Seconds since that message.

        Returns:
            What follows, for the log; empty when size has nothing to do with it.

        Raises:
            EnvironmentFaultError: Not even the smallest frames pass.
        """
        if open_bytes <= FLOOR_BYTES // 2 or reason not in _SUSPICIOUS or after_s > STRIKE_WITHIN_S:
            return ""
        self._strikes += 1
        self._poison = open_bytes if self._poison == 0 else min(self._poison, open_bytes)
        if self.frame_bytes > FLOOR_BYTES:
            if self._strikes < STRIKES and reason not in _TELLING:
                return ""
            self._learnt = max(FLOOR_BYTES, min(self.frame_bytes, open_bytes) // 2)
            self._strikes, self._poison = 0, 0
            return f"the connection ended at a message of {open_bytes} bytes: frames of {self.frame_bytes} bytes now"
        if self._strikes < LAST_STRIKES:
            return ""
        raise EnvironmentFaultError(
            f"broker {self._where} ended the connection {self._strikes} times in a row at a message of {open_bytes} "
            f"bytes, with frames of {self.frame_bytes} bytes, the smallest (largest message that passed: "
            f"{self._passed} bytes); raise its limit (max_packet_size or message_size_limit of mosquitto) "
            f"above {max(open_bytes, FLOOR_BYTES) + TOPIC_SLACK_BYTES}, or look into its log"
        )

    def cut_smaller(self) -> bool:
        """Nobody hears of an object though the connection stands: a quarter of the frame size, if that is of use."""
        if self.frame_bytes <= SILENCE_FLOOR_BYTES:
            return False
        self._learnt = max(SILENCE_FLOOR_BYTES, self.frame_bytes // 4)
        return True


def window(receive_maximum: int | None) -> int:
    """Messages that may await their PUBACK."""
    return min(LARGEST_WINDOW, receive_maximum or LARGEST_WINDOW)
