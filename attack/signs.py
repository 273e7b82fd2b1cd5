"""Signs of life while an update is worked on: the server waits for scores as long as somebody is at work on one."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from attack.clock import processor_s
from contract.messages import Update

EVERY_S = 3.0
"""Seconds of wall time between two signs; a server mirrors again what is unscored after 5 s without news."""
_LEAST_SHARE = 0.001
"""Of a processor: who gets less is not at work."""


class Signs:
    """Gives a sign at intervals, from a thread of its own, as long as an update is worked on.

    An attack that hangs does not do so for ever: there is none after `limit_s` of processor time on one update, nor
    while hardly any passes.

    Args:
        give: Called with the update, on that thread.
        limit_s: Processor seconds of this process on one update.
        every_s: Seconds between two signs; the first comes after so many.
        clock: Processor seconds so far.
    """

    def __init__(
        self,
        give: Callable[[Update], object],
        limit_s: float,
        *,
        every_s: float = EVERY_S,
        clock: Callable[[], float] = processor_s,
    ) -> None:
        self._give, self._limit_s, self._every_s, self._clock = give, limit_s, every_s, clock
        self._change = threading.Condition()
        self._update: Update | None = None
        self._ended = False

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """While signs can be given."""
        thread = threading.Thread(target=self._run, name="signs", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._set(None, ended=True)
            thread.join()

    @contextlib.contextmanager
    def at_work(self, update: Update) -> Iterator[None]:
        """While an update is worked on."""
        self._set(update)
        try:
            yield
        finally:
            self._set(None)

    def _set(self, update: Update | None, *, ended: bool = False) -> None:
        with self._change:
            self._update, self._ended = update, ended
            self._change.notify_all()

    def _run(self) -> None:
        with self._change:
            while not self._ended:
                self._change.wait_for(lambda: self._ended or self._update is not None)
                if (update := self._update) is not None:
                    self._attend(update)

    def _attend(self, update: Update) -> None:
        """Until the work on an update is over; the condition is held, and let go while waiting."""
        began_s = last_s = self._clock()
        due_s = time.monotonic() + self._every_s
        while self._update is update:
            if not self._change.wait_for(lambda: self._update is not update, timeout=due_s - time.monotonic()):
                due_s = time.monotonic() + self._every_s
                spent_s = self._clock()
                if spent_s - last_s >= _LEAST_SHARE * self._every_s and spent_s - began_s < self._limit_s:
                    self._give(update)
                last_s = spent_s
