"""What a board takes when it does nothing: measured once, before any work, to tell work from mere existence."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from itertools import dropwhile

import msgspec

from hardware.energy import EnergyReading
from hardware.uncertainty import student_95

WINDOWS = 10
"""Windows into which the stretch of idle is cut, to see how much they differ."""
LEAST_WINDOWS = 5
"""A meter may take its time to begin; so many windows at the end must have a figure, without one missing."""


class Baseline(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Idle power by one meter.

    Attributes:
        source: As of the readings that it is taken from.
        scope: As of these.
        power_w: Mean over the stretch; `None` exactly when there is a reason.
        stdev_w: Standard deviation between its windows.
        uncertainty_w: Half width of the interval that holds, in 95 % of cases, the idle power of one more such window.
        duration_s: Length of the stretch.
        windows: Number of windows in it.
        reason: Why there is no figure; empty otherwise.

    Raises:
        ValueError: A missing figure without a reason, or a figure that is negative or not finite.
    """

    source: str
    scope: str
    power_w: float | None
    stdev_w: float | None = None
    uncertainty_w: float | None = None
    duration_s: float = 0.0
    windows: int = 0
    reason: str = ""

    def __post_init__(self) -> None:
        if (self.power_w is None) != bool(self.reason):
            raise ValueError(
                f"baseline of {self.source!r}: power_w={self.power_w} with reason={self.reason!r}: say one"
            )
        for name in ("power_w", "stdev_w", "uncertainty_w", "duration_s"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"baseline of {self.source!r}: {name}={value} must be finite and not negative")


def of_windows(readings: Sequence[EnergyReading]) -> Baseline:
    """The baseline of consecutive windows of one meter, from the first one with a figure.

    There is none when a later window is without a figure. With powers p of n windows: the mean by time, the standard
    deviation s, and ``t · s · sqrt(1 + 1/n)`` with Student's t of n − 1 degrees of freedom, to which the largest ± of a
    window's own power is added.

    Args:
        readings: At least one.
    """
    first, begun = readings[0], list(dropwhile(lambda reading: reading.energy_j is None, readings))
    faults = [reading.reason for reading in begun if reading.energy_j is None]
    if faults or len(begun) < LEAST_WINDOWS:
        late = (
            f"fewer than {LEAST_WINDOWS} windows with a figure in {sum(r.duration_s for r in readings):.3g} s of idle"
        )
        reason = next(iter(faults or [reading.reason for reading in readings if reading.energy_j is None]), late)
        return Baseline(source=first.source, scope=first.scope, power_w=None, reason=reason)
    readings, duration_s = begun, sum(reading.duration_s for reading in begun)
    powers_w = [(reading.energy_j or 0.0) / reading.duration_s for reading in readings]
    stdev_w = statistics.stdev(powers_w)
    own = [reading.uncertainty_j / reading.duration_s for reading in readings if reading.uncertainty_j is not None]
    count = len(readings)
    return Baseline(
        source=first.source,
        scope=first.scope,
        power_w=sum(reading.energy_j or 0.0 for reading in readings) / duration_s,
        stdev_w=stdev_w,
        uncertainty_w=student_95(count - 1) * stdev_w * math.sqrt(1 + 1 / count) + max(own, default=0.0),
        duration_s=duration_s,
        windows=count,
    )


def measure(
    read: Callable[[], tuple[EnergyReading, ...]], seconds: float, wait: Callable[[float], object]
) -> tuple[Baseline, ...]:
    """Idle power by all meters, from a stretch in which the caller does nothing but wait.

    Args:
        read: Ends a window of every meter and begins the next.
        seconds: Length of the stretch, above 0.
        wait: Sleeps; what it returns ends the stretch early when it is true.

    Returns:
        One for each meter, in their order. When it is too late for every one of them, the rest is not waited for.
    """
    read()
    windows: list[tuple[EnergyReading, ...]] = []
    while len(windows) < WINDOWS:
        stopped = wait(seconds / WINDOWS)
        windows.append(read())
        late = len(windows) > WINDOWS - LEAST_WINDOWS
        if stopped or (late and all(reading.energy_j is None for row in windows for reading in row)):
            break
    return tuple(of_windows(readings) for readings in zip(*windows, strict=True))
