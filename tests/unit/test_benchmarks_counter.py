"""The counter's benchmark: its turns see every order, its interval holds a known ratio, a case runs through."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tests.benchmarks import counter
from tests.benchmarks.counter import Interval, interval, turns


def test_an_interval_holds_the_ratio_and_knows_of_lives():
    """Lives differ by 1 %, turns by 2 %, and the ratio is 1.03: the interval is as wide as lives make it."""
    held, widths = 0, []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        lives = [1.03 * np.exp(rng.normal(0, 0.01) + rng.normal(0, 0.02, 60)) for _ in range(8)]
        found = interval(lives, resamples=60)
        held += found.low <= 0.03 <= found.high
        widths.append(found.high - found.low)
        assert found.low <= found.middle <= found.high
    assert held >= 15
    assert 0.008 < np.mean(widths) < 0.025
    assert str(Interval(0.031, 0.02, 0.0449)) == "+3.1% [+2.0%, +4.5%]"


def test_turns_go_through_all_orders_a_whole_number_of_times(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(counter, "TURN_S", 1e-9)
    called: list[int] = []
    taken = turns([lambda i=i: called.append(i) for i in range(3)], 0.0)  # type: ignore[misc]
    timed = called[3 + 3 :]  # each once, and the last three times more to see how long it takes
    orders = {tuple(timed[i : i + 6 : 2]) for i in range(0, len(timed), 6)}
    assert orders == set(itertools.permutations(range(3)))
    assert taken.shape == (6, 3)


@pytest.mark.parametrize("what", [counter.Step, counter.Training])
def test_a_case_is_measured(monkeypatch: pytest.MonkeyPatch, what: type[counter.Step | counter.Training]):
    monkeypatch.setattr(counter, "LIVES", 2)
    kind, encoding, steps, batch = counter.CASES["fc direct T=10 B=16"]
    line, cost = counter.measured(what, counter.task_of(kind, encoding, steps), batch, 0.02)
    assert cost.low <= cost.middle <= cost.high
    assert "alike" in line
    assert "turns" in line
