"""What smart plugs have in common: topics that a user names, and figures with as many digits as they are written."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Protocol, runtime_checkable

from hardware.errors import MeterError


@runtime_checkable
class Listener(Protocol):
    """A meter that lives on messages of a broker; whoever has a connection subscribes and hands them over."""

    @property
    def filters(self) -> tuple[str, ...]:
        """What to subscribe to."""

    def receive(self, topic: str, payload: bytes) -> bool:
        """Takes a message, on any thread, when it comes; whether it was for this meter."""


def check_topic(name: str, topic: str, example: str) -> str:
    """The topic, if one can be called so.

    Raises:
        MeterError: It is empty, begins or ends with a slash, or has a wildcard.
    """
    if not topic or topic != topic.strip("/ ") or set(topic) & {"+", "#", "\0"}:
        raise MeterError(f"meter {name!r} needs the topic of a plug, without wildcards: {example}; found {topic!r}")
    return topic


def figure(value: Any) -> tuple[float, float]:
    """A number of JSON, read with `parse_float=Decimal`, and the step of its last digit.

    Raises:
        ValueError: Not a number.
    """
    if isinstance(value, bool) or not isinstance(value, (int, Decimal)):
        raise ValueError(f"{value!r} is no number")  # noqa: TRY004 - of a message, not of a program
    exponent = Decimal(value).as_tuple().exponent
    if not isinstance(exponent, int):
        raise ValueError(f"{value!r} is no number")  # noqa: TRY004 - as above
    return float(value), 10.0 ** min(0, exponent)
