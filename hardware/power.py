"""What tells instantaneous power: the floor under every meter that has no energy counter of its own."""

from __future__ import annotations

from typing import Protocol


class SampleError(Exception):
    """One sample could not be had; the message says why and what would help. Never a 0 W in its place."""


class PowerSource(Protocol):
    """Reads watts when asked; `hardware.sampling` turns its samples into the energy of windows.

    Attributes:
        name: The meter's key in `hardware.meter.METERS`.
        source: What gives the figure, for example ``ina3221:VDD_IN``.
        scope: What the figure covers, for example `soc`, `board`, `wall`.
        resolution_w: Smallest step of a sample; `None` where the source does not say.
        interval_s: Shortest interval at which new values appear; sampling faster repeats old ones.
    """

    name: str
    source: str
    scope: str
    resolution_w: float | None
    interval_s: float

    def power_w(self) -> float:
        """Power now, finite and not negative.

        Raises:
            SampleError: There is no figure now.
        """

    def close(self) -> None:
        """Release what it holds."""
