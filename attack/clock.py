"""The clock of all budgets: processor time of this process, or work.

Processor time says what an attack reaches on this machine within its budget. It differs from run to run by some per
cent even for the same work, and by more on a busy machine, so that searches end at another iteration and findings at
another figure. *Work* is counted in its place: each search says what it does, in nominal seconds (`attack.costs`), and
the same update under the same budget gives the same finding, bit for bit, on a busy machine and on an idle one. A
nominal second is about a second of a core that was measured once; which core runs the attack does not matter.

The clock belongs to the thread that climbs, within `running`; elsewhere processor time counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

Clock = Literal["processor", "work"]
"""What a budget counts: processor seconds of this process, or nominal seconds of work."""

OVERRUN = 10.0
"""Processor seconds that a nominal second may take at most, on the whole of a climb."""
SPARE_S = 30.0
"""Processor seconds granted beside these: a small budget says nothing of what is done once."""
TICK_S = 2e-6
"""Nominal seconds of one look at the clock: no loop that looks at it goes on for ever, whatever it forgot to count."""


class OverrunError(Exception):
    """Work took far more processor time than it stands for; what was found by then depends on the machine."""


class _Work:
    """The work of one climb."""

    def __init__(self, budget_s: float) -> None:
        self.spent_s = 0.0
        self.budget_s = budget_s
        self.end_s = processor_s() + OVERRUN * budget_s + SPARE_S

    def look(self) -> float:
        """What has been spent.

        Raises:
            OverrunError: The processor time granted has passed.
        """
        self.spent_s += TICK_S
        if processor_s() > self.end_s:
            raise OverrunError(
                f"given up, no result of the attack's: {self.budget_s:g} nominal seconds took this machine more than "
                f"{OVERRUN * self.budget_s + SPARE_S:g} s of processor time; take a quicker one or a smaller budget_s"
            )
        return self.spent_s


_work: ContextVar[_Work | None] = ContextVar("work", default=None)


def processor_s() -> float:
    """Processor seconds of this process so far, whatever budgets count."""
    return time.process_time()


def now_s() -> float:
    """The time that budgets are spent in; only differences mean anything.

    Raises:
        OverrunError: Work is counted, and took far more processor time than it stands for.
    """
    work = _work.get()
    return processor_s() if work is None else work.look()


def working() -> bool:
    """Whether work is counted."""
    return _work.get() is not None


def spend(seconds: float) -> None:
    """Counts work that was done, or is about to be.

    Args:
        seconds: Nominal, at least 0; from `attack.costs`.
    """
    work = _work.get()
    if work is not None:
        work.spent_s += seconds


@contextmanager
def running(clock: Clock, budget_s: float) -> Iterator[Callable[[], float]]:
    """The clock of one climb, in this thread.

    Args:
        clock: What is counted.
        budget_s: What may be spent; work is given up where it takes `OVERRUN` times as long and `SPARE_S`.

    Yields:
        A look at what has been spent since, which raises nothing.
    """
    if clock == "processor":
        began_s = processor_s()
        yield lambda: processor_s() - began_s
        return
    work = _Work(budget_s)
    token = _work.set(work)
    try:
        yield lambda: work.spent_s
    finally:
        _work.reset(token)
