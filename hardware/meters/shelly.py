"""Smart plugs and relays of Shelly, second generation and later, over MQTT: ``shelly:PREFIX``.

A device publishes ``PREFIX/events/rpc``: JSON with ``method`` ``NotifyStatus`` (what changed) or ``NotifyFullStatus``
and, under ``params``, each component: ``switch:0`` or ``pm1:0`` with ``apower`` in watts and ``aenergy.total`` in
watt-hours. What did not change is left out; the counter comes once a minute. ``PREFIX/online`` is ``true``, or
``false`` as its last will. ``shelly:PREFIX@switch:1`` names another component than the first.

Source: https://shelly-api-docs.shelly.cloud/gen2/General/Notifications and /gen2/ComponentsAndServices/Switch.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from hardware.finding import Finding
from hardware.meters.plug import check_topic, figure
from hardware.pushed_meter import STALE_INTERVALS, PushedMeter

NAME = "shelly"
COUNTER_PERIOD_S = 60.0
JOULES_PER_WH = 3600.0
FINEST_POWER_W = 0.1
FINEST_COUNTER_WH = 0.001
_FIRST = ("switch:0", "pm1:0")
_METHODS = ("NotifyStatus", "NotifyFullStatus")

Figure = tuple[float, float]


def parse(payload: bytes, components: tuple[str, ...] = _FIRST) -> tuple[Figure | None, Figure | None] | None:
    """Power in watts and counter in joules, each with its step, as far as they are said; `None` without either.

    Raises:
        ValueError: Not a notification, or a figure that is none.
    """
    try:
        message = json.loads(payload, parse_float=Decimal)
        if message["method"] not in _METHODS:
            return None
        params = message["params"]
        status: dict[str, Any] = next((params[name] for name in components if name in params), {})
        power, total = status.get("apower"), status.get("aenergy", {}).get("total")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"no notification: {payload[:80]!r}") from error
    if power is None and total is None:
        return None
    watts = None if power is None else figure(power)
    hours = None if total is None else figure(total)
    return (
        None if watts is None else (watts[0], max(watts[1], FINEST_POWER_W)),
        None if hours is None else (hours[0] * JOULES_PER_WH, max(hours[1], FINEST_COUNTER_WH) * JOULES_PER_WH),
    )


class ShellyMeter(PushedMeter):
    """One component of a device, fed with its messages by whoever has a connection to the broker.

    Args:
        argument: The device's MQTT prefix, with ``@COMPONENT`` where it is not the first.
        clock: Monotonic seconds.

    Raises:
        MeterError: The prefix cannot be one.
    """

    def __init__(self, argument: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        prefix, _, component = argument.partition("@")
        check_topic(NAME, prefix, "shelly:PREFIX, for example shelly:shellyplusplugs-a8032ab1")
        self._components = (component,) if component else _FIRST
        self._events, self._online = f"{prefix}/events/rpc", f"{prefix}/online"
        self.filters = (self._events, self._online)
        super().__init__(
            name=NAME,
            source=f"{NAME}:{argument}",
            scope="wall",
            interval_s=COUNTER_PERIOD_S,
            least_stale_s=STALE_INTERVALS * COUNTER_PERIOD_S,
            remedy=(
                f"is it on this broker with 'RPC status notifications' enabled, may this party read {self._events}, "
                f"has it {' or '.join(self._components)}?"
            ),
            clock=clock,
        )

    def receive(self, topic: str, payload: bytes) -> bool:
        """Takes a message; whether it was one of this device's. What cannot be read makes it unavailable."""
        if topic == self._online:
            if payload == b"false":
                self.lost(f"{self.source} is offline by its last will")
        elif topic == self._events:
            self._report(payload)
        else:
            return False
        return True

    def _report(self, payload: bytes) -> None:
        try:
            said = parse(payload, self._components)
        except ValueError as error:
            self.lost(f"{self.source}: {error}")
            return
        if said is None:
            return
        (power_w, step_w), (counter_j, step_j) = (part or (None, float("inf")) for part in said)
        self.offer(power_w, counter_j, power_step_w=step_w, counter_step_j=step_j)


def find() -> Finding:
    """A plug is never found on a machine: the user names its prefix."""
    detail = "needs a Shelly (Gen2 or later) on the run's broker: ask for shelly:PREFIX"
    return Finding(meter=NAME, available=False, detail=detail)
