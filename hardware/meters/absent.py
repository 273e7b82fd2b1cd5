"""The power source of a sensor that is known but not there: every sample says why."""

from __future__ import annotations

from typing import NoReturn

from hardware.power import SampleError


class AbsentSource:
    """Gives no sample, ever.

    Args:
        name: The meter's key.
        reason: Why it is not there, with the remedy; it goes into every reading.
    """

    scope = "none"
    resolution_w: float | None = None
    interval_s = 1.0

    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        self.source = name
        self._reason = reason

    def power_w(self) -> NoReturn:
        """No power.

        Raises:
            SampleError: Always, with the reason.
        """
        raise SampleError(self._reason)

    def close(self) -> None:
        """Nothing to release."""
