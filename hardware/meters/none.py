"""The meter that is not there: every reading says why there is no figure."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from hardware.energy import EnergyReading, unavailable

if TYPE_CHECKING:
    from collections.abc import Callable


class NoMeter:
    """Measures nothing and says so.

    Args:
        reason: Why there is no meter; it goes into every reading.
        name: The meter that was asked for.
        scope: What it would cover.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        reason: str,
        *,
        name: str = "none",
        scope: str = "none",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = self.source = name
        self.scope = scope
        self._reason = reason
        self._clock = clock
        self._since_s = clock()

    def start(self) -> None:
        """Begin a window."""
        self._since_s = self._clock()

    def read(self) -> EnergyReading:
        """The window's length, without a figure."""
        now_s = self._clock()
        duration_s = max(0.0, now_s - self._since_s)
        self._since_s = now_s
        return unavailable(self.name, self.scope, self._reason, duration_s=duration_s)

    def close(self) -> None:
        """Nothing to release."""
