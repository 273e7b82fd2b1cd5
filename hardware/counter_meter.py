"""A meter out of energy counters: what they moved by between the ends of a window, added up."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

from hardware.energy import EnergyReading, unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

CLOSED = "the meter is closed"


class CounterError(Exception):
    """A counter gave no figure; the message is the reason of the reading."""


class Counter(Protocol):
    """One counter of energy.

    Attributes:
        label: What it counts, a part of the reading's source.
    """

    @property
    def label(self) -> str:
        """See above."""

    def value(self) -> int:
        """What it shows now.

        Raises:
            CounterError: It cannot be read.
        """

    def advance(self, before: int, after: int, duration_s: float) -> int:
        """How far it moved in a window, above 0.

        Raises:
            CounterError: These two values do not tell: it stood still or was reset.
        """


class CounterMeter:
    """Implements `hardware.meter.Meter` over counters; a subclass names itself and its unit.

    A counter that cannot be read, or whose values tell nothing, makes the reading `unavailable`; nothing is raised, so
    that a device goes on without figures, and a sum is never one of fewer counters.

    Args:
        counters: All of them in every reading; none where `fault` says why.
        fault: Why there is no figure to be had; empty where there is.
        clock: Monotonic seconds.

    Attributes:
        name: Key in `hardware.meter.METERS`.
        scope: What a figure covers.
        unit_j: Joules of one unit of a counter.
        resolution_j: Smallest step of a counter.
    """

    name: str
    scope: str
    unit_j: float
    resolution_j: float

    def __init__(
        self, counters: Sequence[Counter], *, fault: str = "", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._counters, self._fault, self._clock = tuple(counters), fault, clock
        self._since_s = clock()
        self._before: tuple[int, ...] | CounterError = CounterError("read() before start()")

    @property
    def source(self) -> str:
        """The counters read, for example ``rapl:package-0+package-1``."""
        labels = "+".join(counter.label for counter in self._counters)
        return f"{self.name}:{labels}" if labels else self.name

    def uncertainty_j(self, energy_j: float, duration_s: float) -> float | None:
        """Half width of 95 % of a reading; `None` where it is not known."""
        raise NotImplementedError

    def start(self) -> None:
        """Begin a window now."""
        self._since_s, self._before = self._snapshot()

    def read(self) -> EnergyReading:
        """Energy since `start` or the last `read`; the next window begins here."""
        since_s, before = self._since_s, self._before
        self._since_s, self._before = now_s, after = self._snapshot()
        duration_s = max(0.0, now_s - since_s)
        try:
            energy_j = self._moved(before, after, duration_s) * self.unit_j
        except CounterError as fault:
            return unavailable(self.source, self.scope, str(fault), duration_s=duration_s)
        return EnergyReading(
            energy_j=energy_j,
            duration_s=duration_s,
            source=self.source,
            scope=self.scope,
            provenance="measured",
            resolution_j=self.resolution_j,
            samples=2 * len(self._counters),
            uncertainty_j=self.uncertainty_j(energy_j, duration_s),
        )

    def close(self) -> None:
        """End measuring: readings after it are unavailable."""
        self._fault = CLOSED

    def _snapshot(self) -> tuple[float, tuple[int, ...] | CounterError]:
        now_s = self._clock()
        if self._fault:
            return now_s, CounterError(self._fault)
        try:
            return now_s, tuple(counter.value() for counter in self._counters)
        except CounterError as fault:
            return now_s, fault

    def _moved(
        self, before: tuple[int, ...] | CounterError, after: tuple[int, ...] | CounterError, duration_s: float
    ) -> int:
        if isinstance(after, CounterError):
            raise after
        if isinstance(before, CounterError):
            raise before
        ends = zip(self._counters, before, after, strict=True)
        return sum(counter.advance(first, second, duration_s) for counter, first, second in ends)
