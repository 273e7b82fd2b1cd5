"""Smart plugs with Tasmota, over MQTT: ``tasmota:TOPIC``.

Every `TelePeriod` (10 to 3600 s, by default 300) a plug publishes ``tele/TOPIC/SENSOR``, JSON with ``ENERGY``:
``Power`` in watts and ``Total`` in kilowatt-hours, lists of both where it has several phases, with as many decimals as
`WattRes` and `EnergyRes` say. ``tele/TOPIC/LWT`` is ``Online``, or ``Offline`` as its last will. `FullTopic` may place
them elsewhere: ``tasmota:home/plug/tele/SENSOR`` names the whole topic.

Source: https://tasmota.github.io/docs/Power-Monitoring-Calibration/ and /docs/MQTT/; payloads as in issues 2785 and
20459 of arendst/Tasmota.
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

NAME = "tasmota"
TELE_PERIOD_S, LEAST_TELE_PERIOD_S = 300.0, 10.0
JOULES_PER_KWH = 3.6e6


def parse(payload: bytes) -> tuple[tuple[float, float], tuple[float, float] | None]:
    """Power in watts with its step; the counter in joules with its own, where the plug has one.

    Raises:
        ValueError: Not a SENSOR message with a power.
    """
    try:
        energy = json.loads(payload, parse_float=Decimal)["ENERGY"]
        power_w = _sum(energy["Power"])
        total = energy.get("Total")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"no ENERGY.Power in {payload[:80]!r}") from error
    if total is None:
        return power_w, None
    counter, step = _sum(total)
    return power_w, (counter * JOULES_PER_KWH, step * JOULES_PER_KWH)


def _sum(value: Any) -> tuple[float, float]:
    parts = [figure(part) for part in (value if isinstance(value, list) else [value])]
    if not parts:
        raise ValueError("no phases")
    return sum(part for part, _ in parts), sum(step for _, step in parts)


class TasmotaMeter(PushedMeter):
    """One plug, fed with its messages by whoever has a connection to the broker.

    Args:
        argument: The plug's topic, or the whole topic of its SENSOR messages.
        clock: Monotonic seconds.

    Raises:
        MeterError: The topic cannot be one.
    """

    def __init__(self, argument: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        topic = check_topic(NAME, argument, "tasmota:TOPIC, for example tasmota:plug-1")
        self._sensor = topic if topic.endswith("/SENSOR") else f"tele/{topic}/SENSOR"
        self._will = self._sensor.removesuffix("SENSOR") + "LWT"
        self.filters = (self._sensor, self._will)
        super().__init__(
            name=NAME,
            source=f"{NAME}:{topic}",
            scope="wall",
            interval_s=TELE_PERIOD_S,
            least_stale_s=STALE_INTERVALS * LEAST_TELE_PERIOD_S,
            remedy=f"is it on this broker, may this party read {self._sensor}, is 'TelePeriod 10' set on the plug?",
            clock=clock,
        )

    def receive(self, topic: str, payload: bytes) -> bool:
        """Takes a message; whether it was one of this plug's. What cannot be read makes the plug unavailable."""
        if topic == self._will:
            if payload == b"Offline":
                self.lost(f"{self.source} is offline by its last will")
        elif topic == self._sensor:
            try:
                (power_w, step_w), counter = parse(payload)
            except ValueError as error:
                self.lost(f"{self.source}: {error}")
            else:
                counter_j, step_j = counter or (None, float("inf"))
                self.offer(power_w, counter_j, power_step_w=step_w, counter_step_j=step_j)
        else:
            return False
        return True


def find() -> Finding:
    """A plug is never found on a machine: the user names its topic."""
    detail = "needs a plug on the run's broker: ask for tasmota:TOPIC, and set 'TelePeriod 10' on the plug"
    return Finding(meter=NAME, available=False, detail=detail)
