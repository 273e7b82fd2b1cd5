"""Signs of work: at intervals, from work that goes on, and of that update alone."""

from __future__ import annotations

import queue
import time

import pytest

from attack.signs import Signs
from tests.unit.test_attack_worker import job

EVERY_S = 0.02


class Processor:
    """A clock of processor time that gains so much at each look."""

    def __init__(self, gain_s: float) -> None:
        self.at_s, self.gain_s = 0.0, gain_s

    def __call__(self) -> float:
        self.at_s += self.gain_s
        return self.at_s


def signs_of(given: queue.SimpleQueue[str], *, gain_s: float, limit_s: float = 1e9) -> Signs:
    return Signs(lambda update: given.put(update.uid), limit_s, every_s=EVERY_S, clock=Processor(gain_s))


def test_work_is_told_of_while_it_lasts():
    given: queue.SimpleQueue[str] = queue.SimpleQueue()
    first, second = job(0).update, job(1).update
    signs = signs_of(given, gain_s=1.0)
    with signs.running():
        with signs.at_work(first):
            assert {given.get(timeout=10.0) for _ in range(3)} == {first.uid}
        while not given.empty():
            given.get()
        time.sleep(4 * EVERY_S)
        assert given.empty(), "nobody is at work"
        with signs.at_work(second):
            assert given.get(timeout=10.0) == second.uid


@pytest.mark.parametrize(("gain_s", "limit_s", "most"), [(0.0, 1e9, 0), (1.0, 4.0, 3)], ids=["asleep", "endless"])
def test_a_hung_attack_is_not_told_of_for_ever(gain_s, limit_s, most):
    given: queue.SimpleQueue[str] = queue.SimpleQueue()
    signs = signs_of(given, gain_s=gain_s, limit_s=limit_s)
    with signs.running(), signs.at_work(job(0).update):
        time.sleep(12 * EVERY_S)
    assert given.qsize() <= most


def test_work_that_ends_at_once_costs_no_wait():
    given: queue.SimpleQueue[str] = queue.SimpleQueue()
    signs = Signs(given.put, 60.0)
    update = job(0).update
    with signs.running():
        began_s = time.monotonic()
        for _ in range(100):
            with signs.at_work(update):
                pass
        assert time.monotonic() - began_s < 5.0
    assert given.empty()
