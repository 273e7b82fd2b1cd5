"""A meter out of a `PowerSource`: a thread takes samples, `hardware.sampling` makes windows of them.

All samples are taken by that one thread, those at the ends of windows too: a driver need not be thread-safe, and one
that hangs holds up nothing for longer than `ANSWER_S`. The spacing of samples is drawn anew each time, so that a load
in step with the sampler is not seen at one and the same place of its period for ever.

Windows are cut where a phase begins, and power changes with it: the straight line from the sample at the cut to the
next one, h later, would give ``d h / 2`` too little to a window that begins with a rise of d watts, and as much too
much to one that begins with a fall. So the next sample comes as soon as the source has a new value, at the earliest
after `SOON_S`. What edges at other times do to a window is in `hardware.sampling`.
"""

from __future__ import annotations

import random
import resource
import threading
import time
from collections.abc import Callable

import msgspec

from hardware.energy import EnergyReading, unavailable
from hardware.power import PowerSource, SampleError
from hardware.sampling import BEFORE_START, Integrator, WindowFigures

INTERVAL_S = 0.05
"""Spacing of samples where the source has new values as often as that."""
JITTER = 0.25
"""The spacing is drawn from this part below to this part above."""
SOON_S = 0.005
"""Spacing of the first two samples of a window, where the source has new values as often."""
ANSWER_S = 2.0
"""Longest wait for the sample at the end of a window."""
CLOSED = "the meter is closed"


_NOTHING = WindowFigures(energy_j=None, reason=BEFORE_START, duration_s=0.0, samples=0)


class SamplingCost(msgspec.Struct, frozen=True, kw_only=True):
    """What a sampler took since it was started.

    Attributes:
        cpu_s: Processor seconds of its thread, and of processes that the source ran.
        busy_s: Seconds in which a sample was under way, waiting for the hardware included.
        span_s: Seconds since the start.
        samples: Samples tried.
    """

    cpu_s: float = 0.0
    busy_s: float = 0.0
    span_s: float = 0.0
    samples: int = 0

    @property
    def cpu_share(self) -> float:
        """Part of one core; 0 before any time has passed."""
        return self.cpu_s / self.span_s if self.span_s > 0 else 0.0


def _children_s() -> float:
    """Processor seconds of all processes that ended under this one: a source may run a program for each sample."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class SampledMeter:
    """Implements `hardware.meter.Meter` over a source of instantaneous power.

    Args:
        source: Read by one thread only. Whatever it raises is the reason of a reading.
        clock: Monotonic seconds.
        interval_s: Wished spacing of samples; never less than the source's own.
        background: Whether a thread takes samples between the ends of windows. Without it the caller does, by
            `sample()`.
        seed: Of the spacing's jitter.
    """

    def __init__(
        self,
        source: PowerSource,
        *,
        clock: Callable[[], float] = time.monotonic,
        interval_s: float = INTERVAL_S,
        background: bool = True,
        seed: int = 0,
    ) -> None:
        self.name, self.scope, self.source = source.name, source.scope, source.source
        self._power, self._clock, self._background = source, clock, background
        self.interval_s = max(interval_s, source.interval_s)
        self._jitter = random.Random(seed)  # noqa: S311 - spacing of samples, no secret
        self._integrator = Integrator(
            interval_s=self.interval_s * (1 + JITTER),
            source_interval_s=source.interval_s,
            resolution_w=source.resolution_w,
        )
        self._turn = threading.Condition()
        self._asked = self._answered = self._given_up = 0
        self._answer: tuple[WindowFigures, float] | None = None
        self._restart = self._stop = False
        self._thread: threading.Thread | None = None
        self._cpu_s = self._cpu_at_cut_s = self._busy_s = 0.0
        self._samples = 0
        self._thread_mark_s: float | None = None
        self._began_s = self._since_s = clock()

    @property
    def cost(self) -> SamplingCost:
        """What sampling took so far."""
        span_s = max(0.0, self._clock() - self._began_s)
        return SamplingCost(cpu_s=self._cpu_s, busy_s=self._busy_s, span_s=span_s, samples=self._samples)

    def start(self) -> None:
        """Begin a window now, with a sample of its own."""
        if self._stop:
            return
        if self._background and self._thread is None:
            self._began_s = self._clock()
            self._thread = threading.Thread(target=self._run, name=f"meter-{self.name}", daemon=True)
            self._thread.start()
        self._since_s = self._clock()
        self._ask(restart=True)

    def read(self) -> EnergyReading:
        """Energy since `start` or the last `read`; the next window begins here."""
        since_s, self._since_s = self._since_s, self._clock()
        if self._stop or (self._background and self._thread is None):
            return self._missing(CLOSED if self._stop else BEFORE_START, max(0.0, self._since_s - since_s))
        answer = self._ask(restart=False)
        if answer is None:
            reason = f"the meter has not answered for {ANSWER_S:g} s"
            return self._missing(reason, max(0.0, self._clock() - since_s))
        figures, overhead_s = answer
        if figures.energy_j is None:
            return self._missing(figures.reason, figures.duration_s)
        step_w = self._power.resolution_w
        return EnergyReading(
            energy_j=figures.energy_j,
            duration_s=figures.duration_s,
            source=self.source,
            scope=self.scope,
            provenance="measured",
            resolution_j=None if step_w is None else step_w * figures.duration_s,
            samples=figures.samples,
            uncertainty_j=figures.uncertainty_j,
            overhead_s=overhead_s,
        )

    def close(self) -> None:
        """Ends the thread and releases the source; a source that hangs is left to itself."""
        with self._turn:
            if self._stop:
                return
            self._stop = True
            self._turn.notify_all()
        if self._thread is not None:
            self._thread.join(ANSWER_S)
            if self._thread.is_alive():
                return
        self._power.close()

    def sample(self) -> float:
        """Takes a sample now; for a caller that has no thread do it.

        Returns:
            The time that it is of: halfway through the asking.
        """
        began_s, children_s = self._clock(), _children_s()
        thread_s = time.thread_time() if self._thread_mark_s is None else self._thread_mark_s
        power_w = self._power_or_reason()
        ended_s = self._clock()
        time_s = (began_s + ended_s) / 2
        if isinstance(power_w, str):
            self._integrator.fail(power_w)
        else:
            self._integrator.add(time_s, power_w)
        now_s = time.thread_time()
        self._thread_mark_s = now_s if self._background else None
        self._cpu_s += max(0.0, now_s - thread_s) + max(0.0, _children_s() - children_s)
        self._busy_s += max(0.0, ended_s - began_s)
        self._samples += 1
        return time_s

    def _power_or_reason(self) -> float | str:
        try:
            return self._power.power_w()
        except SampleError as error:
            return str(error)
        except Exception as error:  # noqa: BLE001 - a fault of a driver is data here, not a failure
            return f"{type(error).__name__}: {error}"

    def _missing(self, reason: str, duration_s: float) -> EnergyReading:
        return unavailable(self.source, self.scope, reason, duration_s=duration_s)

    def _ask(self, *, restart: bool) -> tuple[WindowFigures, float] | None:
        """A sample at the end of the window, and the window; `None` when the source does not answer."""
        if not self._background:
            return self._window(restart=restart)
        with self._turn:
            self._asked += 1
            ticket, self._restart = self._asked, restart
            self._turn.notify_all()
            wait_s = 0.0 if self._given_up > self._answered else ANSWER_S
            if self._turn.wait_for(lambda: self._answered >= ticket or self._stop, wait_s):
                return self._answer
            self._given_up = ticket
            return None

    def _window(self, *, restart: bool) -> tuple[WindowFigures, float]:
        time_s = self.sample()
        overhead_s, self._cpu_at_cut_s = self._cpu_s - self._cpu_at_cut_s, self._cpu_s
        if restart:
            self._integrator.start(time_s)
            return _NOTHING, overhead_s
        return self._integrator.cut(time_s), overhead_s

    def _run(self) -> None:
        self._thread_mark_s = time.thread_time()
        due_s = 0.0
        while True:
            with self._turn:
                wait_s = max(0.0, due_s - time.monotonic())
                asked = self._turn.wait_for(lambda: self._stop or self._asked > self._answered, wait_s)
                if self._stop:
                    return
                ticket, restart = self._asked, self._restart
            due_s = time.monotonic() + self._spacing_s(after_cut=asked)
            if asked:
                self._reply(self._window(restart=restart), ticket)
            else:
                self.sample()

    def _spacing_s(self, *, after_cut: bool) -> float:
        if after_cut:
            return min(self.interval_s, max(self._power.interval_s, SOON_S))
        return self.interval_s * self._jitter.uniform(1 - JITTER, 1 + JITTER)

    def _reply(self, answer: tuple[WindowFigures, float], ticket: int) -> None:
        with self._turn:
            self._answer, self._answered = answer, ticket
            if ticket <= self._given_up:
                self._integrator.lose("the meter hung when this window should have begun")
            self._turn.notify_all()
