"""A meter that speaks when it likes: reports of power, and of an energy counter, that come from elsewhere.

Smart plugs report every 10 to 300 seconds over MQTT, a Joulescope twenty times a second over USB. A report holds until
the next one comes. A window has a figure only when a report came in it: a plug that speaks every ten seconds knows
nothing of two seconds of training. The first report of all only says that the meter is there, since a broker may have
kept it from last week.

Two sums are kept, both without a gap between windows: power held from report to report, and the counter continued with
that power. A window takes the one that is less uncertain. Bounds of both (half width, at least 95 %):

- power: between two reports it may have changed at any time, ``Σ |d| h``; since the last one it may have changed by as
  much as the largest of the last `HISTORY` changes; and half a step of the power over the whole window;
- counter: one step of it at each end, and the largest change over the time since the report before each end.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable

import msgspec

from hardware.energy import EnergyReading, unavailable

HISTORY = 8
"""Changes of power behind the statement of how much it may have changed since the last report."""
STALE_INTERVALS = 2.5
"""A report holds for so many intervals between reports; after that the meter is taken to be gone."""


class _Report(msgspec.Struct, frozen=True):
    """What was last said, and the sums at that time."""

    time_s: float
    power_w: float
    counter_j: float | None


class _Mark(msgspec.Struct, frozen=True):
    """The sums at the beginning of a window."""

    time_s: float
    held_j: float | None
    counted_j: float | None
    counter_age_s: float


class PushedMeter:
    """Implements `hardware.meter.Meter`. `offer` may be called from any thread; it never blocks for long.

    Args:
        name: Key in `hardware.meter.METERS`.
        source: What gives the figure.
        scope: What it covers.
        interval_s: Time between reports until more is known; then the longest of the last sixteen.
        least_stale_s: Silence that is normal: a meter that reports what changed says nothing while nothing does.
        remedy: What to look at when no report comes.
        clock: Monotonic seconds; reports are dated when they come.
    """

    def __init__(
        self,
        *,
        name: str,
        source: str,
        scope: str,
        interval_s: float,
        least_stale_s: float,
        remedy: str,
        clock: Callable[[], float] = time.monotonic,
        release: Callable[[], None] = lambda: None,
    ) -> None:
        self.name, self.source, self.scope = name, source, scope
        self._default_s, self._remedy, self._clock, self._release = interval_s, remedy, clock, release
        self._least_stale_s = least_stale_s
        self._lock = threading.Lock()
        self._gaps_s: deque[float] = deque(maxlen=2 * HISTORY)
        self._changes_w: deque[float] = deque(maxlen=HISTORY)
        self._power_step_w = self._counter_step_j = math.inf
        self._last: _Report | None = None
        self._held_j = 0.0
        self._reports = 0
        self._bound_j = 0.0
        self._fault = ""
        self._mark = _Mark(clock(), None, None, 0.0)
        self._started = self._closed = False

    # --- what comes in ----------------------------------------------------------------------------------------------

    def offer(
        self,
        power_w: float | None,
        counter_j: float | None = None,
        *,
        power_step_w: float = math.inf,
        counter_step_j: float = math.inf,
    ) -> None:
        """A report, dated now.

        Args:
            power_w: Watts; `None` where the report leaves the power as it was.
            counter_j: Joules ever; `None` where the report leaves it out.
            power_step_w: Smallest step of the power as written here; the smallest seen so far counts.
            counter_step_j: The same of the counter.
        """
        with self._lock:
            now_s, last = self._clock(), self._last
            power_w = last.power_w if power_w is None and last is not None else power_w
            if power_w is None:
                return
            if not (math.isfinite(power_w) and power_w >= 0):
                self._fault = f"{self.source} said {power_w} W: power is a number from 0; turn the meter round"
                return
            if counter_j is not None and not (math.isfinite(counter_j) and counter_j >= 0):
                counter_j = None
            self._fault = ""
            self._power_step_w = min(self._power_step_w, power_step_w)
            self._counter_step_j = min(self._counter_step_j, counter_step_j)
            if last is not None:
                self._hold(last, now_s, abs(power_w - last.power_w))
            self._last = _Report(now_s, power_w, counter_j if counter_j is not None else self._counted(last, now_s))

    def lost(self, reason: str) -> None:
        """The meter says, or is said, to be gone; until the next report."""
        with self._lock:
            self._fault = reason

    def _hold(self, last: _Report, now_s: float, change_w: float) -> None:
        gap_s = now_s - last.time_s
        self._held_j += last.power_w * gap_s
        self._bound_j += change_w * (now_s - max(last.time_s, self._mark.time_s))
        if gap_s > self._stale_s:
            self._bound_j = math.inf  # silent for so long: nobody knows what it would have said
        else:
            self._gaps_s.append(gap_s)
        self._changes_w.append(change_w)
        self._reports += 1

    @staticmethod
    def _counted(last: _Report | None, now_s: float) -> float | None:
        """The counter as it would be now, continued with the last power."""
        if last is None or last.counter_j is None:
            return None
        return last.counter_j + last.power_w * (now_s - last.time_s)

    # --- windows ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin a window now."""
        with self._lock:
            self._started = True
            self._begin(self._clock())

    def read(self) -> EnergyReading:
        """Energy since `start` or the last `read`; the next window begins here."""
        with self._lock:
            now_s, mark = self._clock(), self._mark
            duration_s = max(0.0, now_s - mark.time_s)
            reason = self._why_not(mark, now_s, duration_s)
            best: tuple[float, float | None, float | None] = (0.0, None, None)
            best = best if reason else self._better(mark, now_s, duration_s)
            reports = self._reports
            self._begin(now_s)
        energy_j, uncertainty_j, resolution_j = best
        if uncertainty_j is not None and math.isinf(uncertainty_j):
            reason = f"{self.source} was silent for too long within this window of {duration_s:.3g} s: {self._remedy}"
        if not reason and energy_j <= 0:
            reason = f"{self.source} said 0 W throughout this window of {duration_s:.3g} s: is the board on it?"
        if reason:
            return unavailable(self.source, self.scope, reason, duration_s=duration_s)
        return EnergyReading(
            energy_j=energy_j,
            duration_s=duration_s,
            source=self.source,
            scope=self.scope,
            provenance="measured",
            resolution_j=resolution_j,
            samples=reports,
            uncertainty_j=uncertainty_j,
        )

    @property
    def reported(self) -> bool:
        """Whether a report that counts has come in the window under way."""
        return self._reports > 0

    def close(self) -> None:
        """End measuring: readings after it are unavailable."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._release()

    def _begin(self, now_s: float) -> None:
        last = self._last
        held_j = None if last is None else self._held_j + last.power_w * (now_s - last.time_s)
        age_s = 0.0 if last is None else now_s - last.time_s
        self._mark = _Mark(now_s, held_j, self._counted(last, now_s), age_s)
        self._reports, self._bound_j = 0, 0.0

    @property
    def _interval_s(self) -> float:
        return max(self._gaps_s, default=self._default_s)

    @property
    def _stale_s(self) -> float:
        return max(self._least_stale_s, STALE_INTERVALS * self._interval_s)

    def _why_not(self, mark: _Mark, now_s: float, duration_s: float) -> str:
        last = self._last
        if self._closed or not self._started:
            return "the meter is closed" if self._closed else "read() before start()"
        if self._fault:
            return self._fault
        if last is None:
            return f"no report from {self.source} so far: {self._remedy}"
        stale_s = self._stale_s
        if now_s - last.time_s > stale_s:
            return (
                f"no report from {self.source} for {now_s - last.time_s:.3g} s (limit {stale_s:.3g} s): {self._remedy}"
            )
        if not self._reports or mark.held_j is None:
            return (
                f"{self.source} reports about every {self._interval_s:.3g} s: none that counts came in this window of "
                f"{duration_s:.3g} s"
            )
        return ""

    def _better(self, mark: _Mark, now_s: float, duration_s: float) -> tuple[float, float, float | None]:
        """Joules, half width and resolution of the less uncertain sum."""
        last = self._last
        assert last is not None
        assert mark.held_j is not None
        change_w, age_s = max(self._changes_w, default=0.0), now_s - last.time_s
        step_w = self._power_step_w if math.isfinite(self._power_step_w) else 0.0
        held_j = self._held_j + last.power_w * age_s - mark.held_j
        by_power = (held_j, self._bound_j + change_w * age_s + step_w * duration_s / 2, step_w * duration_s or None)
        counted_j = self._counted(last, now_s)
        if counted_j is None or mark.counted_j is None or not math.isfinite(self._counter_step_j):
            return by_power
        off_j = 2 * self._counter_step_j + change_w * (age_s + mark.counter_age_s)
        by_counter = (counted_j - mark.counted_j, off_j, self._counter_step_j)
        return by_counter if off_j < by_power[1] and by_counter[0] > 0 else by_power
