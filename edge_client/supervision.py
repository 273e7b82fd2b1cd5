"""What a service manager is told: that the device is ready, what it is doing, and that its loop still turns.

The protocol of sd_notify(3): datagrams of `NAME=value` lines to the socket in `$NOTIFY_SOCKET`. Without that variable
(an emulated device, a terminal) nothing is sent. A device that hangs sends nothing either, and after `WatchdogSec=` of
its unit systemd ends it and starts it again: so it must be the main loop that calls `beat`, never a thread of its own.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.models.emissions import Emitted
from edge_client.engine import Engine, Frames, StepResult

log = logging.getLogger(__name__)

_BEATS = 4
"""Beats in the time after which systemd takes the process for hung."""
_SLOWEST_S = 10.0
"""Longest time between two beats; also how old a status line may be."""
_PATIENCE_S = 1.0


class Supervision:
    """The line to the service manager.

    Args:
        environment: Holds `NOTIFY_SOCKET` and `WATCHDOG_USEC` where there is a service manager.
        clock: Monotonic seconds.
    """

    def __init__(
        self, environment: Mapping[str, str] = os.environ, clock: Callable[[], float] = time.monotonic
    ) -> None:
        place = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + place[1:] if place.startswith("@") else place
        asked = environment.get("WATCHDOG_USEC", "")
        limit_s = int(asked) / 1e6 if asked.isdecimal() else float("inf")
        self._every_s = min(limit_s / _BEATS, _SLOWEST_S)
        self._clock, self._last_s, self._said = clock, -float("inf"), ""

    def ready(self) -> None:
        """The broker is reached: `systemctl start` returns."""
        self._send("READY=1")

    def beat(self, status: Callable[[], str] | None = None) -> None:
        """The loop turns; sent as seldom as the unit permits.

        Args:
            status: One line for `systemctl status`, asked for only when something is sent; `None` keeps the last one.
        """
        now_s = self._clock()
        if not self._address or now_s - self._last_s < self._every_s:
            return
        self._last_s = now_s
        self._said = self._said if status is None else status().replace("\n", " ")
        self._send(f"WATCHDOG=1\nSTATUS={self._said}")

    def stopping(self) -> None:
        """The device ends by its own will."""
        self._send("STOPPING=1")

    def patient(self, wait: Callable[[float], object], status: Callable[[], str]) -> Callable[[float], bool]:
        """The same wait, with signs of life while it lasts: a sleep, or a look at idle power, may outlast the watchdog.

        Args:
            wait: Does nothing for some seconds, or until the device is told to stop: then what it returns is true.
            status: As of `beat`; `resting=yes` is added to it.

        Returns:
            Takes seconds; returns whether the device is told to stop. With 0 s it is a sign of life alone.
        """

        def waited(seconds: float) -> bool:
            end_s = self._clock() + seconds
            while True:
                self.beat(lambda: f"{status()} resting=yes")
                left_s = max(0.0, end_s - self._clock())
                if not self._address or left_s <= self._every_s:
                    return bool(wait(left_s))
                if wait(self._every_s):
                    return True

        return waited

    def watched(self, engine: Engine) -> Engine:
        """The same engine; each of its gradients is a sign of life: training for a round may outlast the watchdog."""
        return _Watched(engine, self)

    def _send(self, text: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as line:
                line.settimeout(_PATIENCE_S)  # a manager that hangs must not hang the device
                line.connect(self._address)
                line.send(text.encode())
        except OSError as error:
            log.warning("NOTIFY_SOCKET = %r: service manager not told %r: %s", self._address, text, error)


class _Watched:
    """An engine whose gradients are told to the service manager."""

    def __init__(self, engine: Engine, supervision: Supervision) -> None:
        self.name = engine.name
        self._engine, self._supervision = engine, supervision

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)  # what else an engine can do, such as to classify on a chip

    def gradients(
        self, params: Mapping[str, NDArray[np.float32]], frames: Frames, labels: NDArray[np.int64]
    ) -> StepResult:
        self._supervision.beat()
        return self._engine.gradients(params, frames, labels)

    def emitted(self) -> tuple[Emitted, ...]:
        return self._engine.emitted()
