"""A recorded power trace played back against the clock, as if its meter were attached now.

The file is CSV with the header ``time_s,power_w``. Lines that begin with ``#`` are comments; ``# scope: board``
says what the recording covered, ``# uncertainty_w: 0.05`` how far each row may be off (half width of 95 %). Times must
not decrease; two rows at one time are a step. Power between two rows is a straight line, so the energy of a window is
the trapezoidal sum, exact at both of its ends:

``E(t) = E_i + p_i (t − t_i) + (p_{i+1} − p_i) / (t_{i+1} − t_i) · (t − t_i)² / 2``  for ``t_i ≤ t ≤ t_{i+1}``.
"""

from __future__ import annotations

import csv
import math
import time
from typing import TYPE_CHECKING

import numpy as np

from hardware.energy import EnergyReading, unavailable
from hardware.errors import MeterError
from hardware.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

NAME = "replay"
HEADER = ["time_s", "power_w"]
CLOCK_ROUNDING_S = 1e-9
LARGEST_TIME_S = 1e11
"""Above any time of day in seconds, below one in milliseconds."""
LARGEST_POWER_W = 1e6


class PowerTrace:
    """Power over time with its running integral.

    Args:
        time_s: Seconds, within ±10¹¹, not decreasing, at least two values that span some time.
        power_w: Watts, from 0 to 10⁶, as many as `time_s`.
        scope: What the recording covered.
        uncertainty_w: Half width of 95 % of each power; `None` where the recording does not say.

    Raises:
        MeterError: One of these does not hold.
    """

    def __init__(
        self,
        time_s: NDArray[np.float64],
        power_w: NDArray[np.float64],
        scope: str,
        uncertainty_w: float | None = None,
    ) -> None:
        if time_s.shape != power_w.shape or time_s.ndim != 1 or len(time_s) < 2:
            raise MeterError(f"trace of shapes {time_s.shape} and {power_w.shape}: expected two equal columns, 2+ rows")
        if not (np.abs(time_s) <= LARGEST_TIME_S).all():
            raise MeterError(f"trace has a time that is no number or beyond {LARGEST_TIME_S:g}: is it in seconds?")
        if not (power_w <= LARGEST_POWER_W).all():
            raise MeterError(f"trace has a power that is no number or above {LARGEST_POWER_W:g}: is it in watts?")
        if (np.diff(time_s) < 0).any() or time_s[-1] <= time_s[0]:
            raise MeterError("trace times must not decrease and must span some time")
        if (power_w < 0).any():
            raise MeterError(f"trace has {power_w.min()} W: power must not be negative, correct the meter's offset")
        if uncertainty_w is not None and not (math.isfinite(uncertainty_w) and uncertainty_w >= 0):
            raise MeterError(f"trace has uncertainty_w {uncertainty_w}: a number of watts from 0")
        self.uncertainty_w = uncertainty_w
        self.time_s = time_s - time_s[0]  # recordings often carry the time of day, too coarse for short windows
        self.power_w = power_w
        self.scope = scope
        steps_j = np.diff(time_s) * (power_w[1:] + power_w[:-1]) / 2
        self._energy_j = np.concatenate(([0.0], np.cumsum(steps_j)))

    @property
    def duration_s(self) -> float:
        """Length of the recording."""
        return float(self.time_s[-1])

    def energy_until_j(self, elapsed_s: float) -> float:
        """Joules from the beginning of the trace to `elapsed_s` after it (0 … `duration_s`)."""
        row = min(int(np.searchsorted(self.time_s, elapsed_s, side="right")) - 1, len(self.time_s) - 2)
        span_s = float(self.time_s[row + 1] - self.time_s[row])
        if span_s == 0.0:
            return float(self._energy_j[row])
        into_s = elapsed_s - float(self.time_s[row])
        rise_w = float(self.power_w[row + 1] - self.power_w[row])
        mean_w = float(self.power_w[row]) + rise_w * (into_s / span_s) / 2
        return float(self._energy_j[row]) + mean_w * into_s

    def rows_between(self, begin_s: float, end_s: float) -> int:
        """Rows that bear on the window, the ones that enclose it included."""
        first = int(np.searchsorted(self.time_s, begin_s, side="right")) - 1
        last = int(np.searchsorted(self.time_s, end_s, side="left"))
        return min(last, len(self.time_s) - 1) - first + 1


def _rows(lines: list[str], path: Path) -> list[tuple[float, float]]:
    table = list(csv.reader(line for line in lines if line.strip() and not line.lstrip().startswith("#")))
    if not table or [cell.strip() for cell in table[0]] != HEADER:
        found = table[0] if table else "nothing"
        raise MeterError(f"{path}: first row is {found}, expected the header {','.join(HEADER)} (seconds, watts)")
    rows = []
    for number, row in enumerate(table[1:], start=1):
        try:
            time_s, power_w = (float(cell) for cell in row)
        except ValueError as error:
            raise MeterError(f"{path}: data row {number} is {row}, expected two numbers (time_s, power_w)") from error
        rows.append((time_s, power_w))
    return rows


def _said(lines: list[str], key: str) -> str:
    """What the first comment ``# key: value`` says; empty without one."""
    found = [line.partition(":")[2].strip() for line in lines if line.replace(" ", "").startswith(f"#{key}:")]
    return found[0] if found else ""


def _number(text: str) -> float | None:
    try:
        return float(text) if text else None
    except ValueError as error:
        raise MeterError(f"uncertainty_w is {text!r}: a number of watts from 0") from error


def load_trace(path: Path) -> PowerTrace:
    """Read a trace.

    Raises:
        MeterError: The file cannot be read, or is not a trace as described at the top of this module.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise MeterError(f"cannot read the power trace {path}: {error}") from error
    try:
        rows = _rows(lines, path)
    except csv.Error as error:
        raise MeterError(f"{path} is not CSV: {error}") from error
    if len(rows) < 2:
        raise MeterError(f"{path} has {len(rows)} data rows: a trace needs at least 2")
    columns = np.array(rows, dtype=np.float64)
    try:
        uncertainty_w = _number(_said(lines, "uncertainty_w"))
        return PowerTrace(columns[:, 0].copy(), columns[:, 1].copy(), _said(lines, "scope") or "trace", uncertainty_w)
    except MeterError as error:
        raise MeterError(f"{path}: {error}") from error


class ReplayMeter:
    """A recording instead of a meter: `start` is the trace's first row, nothing is said beyond its last.

    Args:
        path: CSV file.
        clock: Monotonic seconds.

    Raises:
        MeterError: The file is no trace.
    """

    name = NAME

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._trace = load_trace(path)
        self.scope = self._trace.scope
        self.source = f"{self.name}:{path.name}"
        self._clock = clock
        self._begin_s: float | None = None
        self._since_s = clock()
        self._closed = False

    def start(self) -> None:
        """Begin a window now; the first `start` also lays the beginning of the trace here."""
        self._since_s = self._clock()
        if self._begin_s is None:
            self._begin_s = self._since_s

    def read(self) -> EnergyReading:
        """Energy since `start` or the last `read`; the next window begins here."""
        since_s, now_s = self._since_s, self._clock()
        self._since_s = now_s
        duration_s = max(0.0, now_s - since_s)
        if self._begin_s is None or self._closed:
            reason = "the meter is closed" if self._closed else "read() before start()"
            return unavailable(self.source, self.scope, reason, duration_s=duration_s)
        return self._reading(since_s - self._begin_s, now_s - self._begin_s, duration_s)

    def close(self) -> None:
        """End measuring: readings after it are unavailable."""
        self._closed = True

    def _reading(self, begin_s: float, end_s: float, duration_s: float) -> EnergyReading:
        length_s = self._trace.duration_s
        if end_s > length_s + CLOCK_ROUNDING_S:
            reason = (
                f"the trace ends {length_s:.6g} s after start, the window at {end_s:.6g} s: nothing is extrapolated, "
                "give a longer recording"
            )
            return unavailable(self.source, self.scope, reason, duration_s=duration_s)
        begin_s, end_s = min(begin_s, length_s), min(end_s, length_s)
        energy_j = self._trace.energy_until_j(end_s) - self._trace.energy_until_j(begin_s)
        if energy_j <= 0.0:
            reason = f"the trace has no energy in this window of {duration_s:.6g} s: it is empty, or 0 W was recorded"
            return unavailable(self.source, self.scope, reason, duration_s=duration_s)
        return EnergyReading(
            energy_j=energy_j,
            duration_s=duration_s,
            source=self.source,
            scope=self.scope,
            provenance="measured",
            samples=self._trace.rows_between(begin_s, end_s),
            uncertainty_j=None if (off_w := self._trace.uncertainty_w) is None else off_w * duration_s,
        )


def find() -> Finding:
    """A replay is never found on a machine: the user names its file."""
    return Finding(meter=NAME, available=False, detail="needs a recorded trace: ask for replay:FILE.csv")
