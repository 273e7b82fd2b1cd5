"""Budgets in work: findings that hang on nothing but the update, the budget and the attack."""

from __future__ import annotations

import time

import msgspec
import numpy as np
import pytest
import torch

from attack import clock
from attack.clock import OVERRUN, SPARE_S, TICK_S, now_s, running, spend, working
from attack.costs import operators, product, program, singular
from attack.counting import Repeated, counted
from attack.ladder import attempt, climb
from attack.methods import KNOWN, METHODS
from attack.settings import AttackSettings
from contract.datasets import load
from deploy.study import AttackSection
from tests.attack_updates import audit_plan, observe, task_of, worker


class Odd:
    """A processor whose clock runs five times as fast, and not evenly."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(3)
        self._real, self._last, self._read = time.process_time, time.process_time(), 0.0

    def __call__(self) -> float:
        now = self._real()
        self._read += (now - self._last) * self._rng.uniform(1.0, 9.0) + self._rng.exponential(1e-4)
        self._last = now
        return self._read


@pytest.fixture(autouse=True)
def one_thread():
    """As an attack process runs by default."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# --- the clock --------------------------------------------------------------------------------------------------


def test_time_is_the_processors_unless_work_is_counted(monkeypatch):
    monkeypatch.setattr(time, "process_time", lambda: 12.5)
    spend(3.0)
    assert (now_s(), working()) == (12.5, False)
    with running("processor", 1.0) as spent_s:
        spend(3.0)
        assert (now_s(), spent_s(), working()) == (12.5, 0.0, False)


def test_work_is_what_was_spent_and_a_tick_for_each_look():
    with running("work", 1.0) as spent_s:
        assert working()
        began = now_s()
        spend(0.25)
        assert now_s() - began == pytest.approx(0.25 + TICK_S, abs=1e-12)
        assert spent_s() == pytest.approx(0.25 + 2 * TICK_S, abs=1e-12)
    assert not working()


def test_a_loop_that_counts_nothing_ends_all_the_same():
    with running("work", 1e-3):
        end, looks = now_s() + 1e-3, 0
        while now_s() < end:
            looks += 1
    assert 0 < looks <= 1e-3 / TICK_S


def test_work_that_takes_far_too_long_is_a_failure_and_says_so(monkeypatch):
    """Never another result in silence: what was found by then would hang on the machine."""

    class Slow(msgspec.Struct, frozen=True):
        name: str = "slow"
        requires: frozenset = frozenset()

        def applies(self, _observation):
            return None

        def run(self, _observation, budget_s, _rng):
            end = now_s() + budget_s
            while now_s() < end:
                read[0] += 1.0
            raise AssertionError("it should have been given up")

    read = [0.0]
    monkeypatch.setattr(time, "process_time", lambda: read[0])
    (rung,) = climb(DIRECT(), {"slow": Slow()}, budget_s=2.0, clock="work")
    assert rung.finding.verdict == "failed"
    assert "given up" in rung.finding.reason
    assert f"{OVERRUN * 2.0 + SPARE_S:g} s of processor time" in rung.finding.reason
    assert OVERRUN * 2.0 + SPARE_S < rung.seconds < OVERRUN * 2.0 + SPARE_S + 2.0
    assert not working()


def test_a_climb_within_a_climb_gives_the_clock_back():
    with running("work", 1.0) as outer_s:
        spend(0.5)
        with running("work", 1.0) as inner_s:
            spend(0.125)
        spend(0.25)
    assert (outer_s(), inner_s()) == (0.75, 0.125)


# --- costs ------------------------------------------------------------------------------------------------------


def test_costs_grow_with_the_problem_and_are_never_nothing():
    assert 0 < product(4, 4, 4) < product(40, 40, 40)
    assert 0 < singular(10, 20) < singular(10, 20, full=True)
    assert 0 < program(10, 100, 0) < program(10, 100, 30)


def test_what_is_repeated_is_counted_once_and_cheaply_for_ever_after():
    def run():
        with cost.once_more():
            (torch.ones(30, 40) @ torch.ones(40, 50)).sum()

    cost, spent = Repeated(), []
    with running("work", 1.0) as spent_s:
        for _ in range(4):
            run()
            spent.append(spent_s())
        with counted():
            (torch.ones(30, 40) @ torch.ones(40, 50)).sum()
        alone = spent_s() - spent[-1]
    assert spent[0] == 0.0
    assert spent[1] == pytest.approx(2 * alone)
    assert spent[3] == pytest.approx(4 * alone)
    assert alone >= operators(4) + product(30, 40, 50) * 0.5


def test_nothing_is_counted_on_the_processors_clock():
    cost = Repeated()
    for _ in range(3):
        with cost.once_more(), counted():
            torch.ones(3).sum()
    with running("work", 1.0) as spent_s, cost.once_more():
        torch.ones(3).sum()
    assert spent_s() == 0.0


# --- the whole ladder ---------------------------------------------------------------------------------------------


def _observed(count=1, codec="fp32", **task):
    def made():
        data = load("digits")
        spec = task_of(**{"steps": 4, "hidden": (24,), "weight_bits": None} | task)
        return observe(spec, np.array(data.x[:count]), np.array(data.y[:count]), audit_plan(count, codec))

    return made


def _convolution(spec_of, **model):
    def made():
        data = load("digits")
        spec = task_of(steps=4, hidden=(), weight_bits=None)
        spec = msgspec.structs.replace(spec, model=msgspec.structs.replace(spec.model, kind="conv", kernel=3, **model))
        return observe(spec_of(spec), np.array(data.x[:1]), np.array(data.y[:1]))

    return made


DIRECT = _observed(2)
UPDATES = {
    "direct": DIRECT,
    "direct, int8": _observed(3, "int8"),
    "rate": _observed(2, kind="rate", hidden=(40,)),
    "rate, int8": _observed(1, "int8", kind="rate", steps=8),
    "latency": _observed(kind="latency", steps=8),
    "convolution": _convolution(lambda spec: spec, channels=(4,)),
    "two convolutions": _convolution(lambda spec: spec, channels=(4, 4), stride=1),
}
BUDGET_S = 0.12


def told(rungs):
    """All that a ladder says, but the time that it took."""
    return [
        tuple(
            value.tobytes() if isinstance(value, np.ndarray) else value
            for value in (rung.attack, *msgspec.structs.astuple(rung.finding))
        )
        for rung in rungs
    ]


def climbed(updates, methods=METHODS, budget_s=BUDGET_S, **options):
    return {
        name: told(climb(made(), methods, budget_s=budget_s, exhaustive=True, **options))
        for name, made in updates.items()
    }


def test_the_whole_ladder_finds_the_same_on_an_odd_machine_and_after_other_work(monkeypatch):
    """Budgets that cut most searches off; the second time in another order, so that nothing hangs on what is cached."""
    first = climbed(UPDATES, KNOWN, clock="work")
    monkeypatch.setattr(time, "process_time", Odd())
    again = climbed(dict(reversed(UPDATES.items())), KNOWN, clock="work")
    assert {name for rungs in first.values() for name, verdict, *_ in rungs if verdict != "refused"} >= set(METHODS) - {
        "row_space_membership", "coarse_rank1",  # samples of the attacker's own; a coarser codec
    }  # fmt: skip
    for name, rungs in first.items():
        for one, other in zip(rungs, again[name], strict=True):
            assert one == other, (name, one[0], one[1:3], other[1:3])


def test_processor_time_does_not(monkeypatch):
    """The same ladder, the same comparison: what the clock of work mends."""
    some = {"direct": UPDATES["direct"]}
    matching = {name: METHODS[name] for name in ("dlg_faint", "cosine", "grnn")}
    first = climbed(some, matching, clock="processor", budget_s=0.9)
    monkeypatch.setattr(time, "process_time", Odd())
    assert first != climbed(some, matching, clock="processor", budget_s=0.9)


def test_a_larger_budget_is_more_work():
    """Work is counted where a search spends it: a search cut off says less than one that was not."""
    seen = UPDATES["direct"]()
    reached = []
    for budget_s in (0.05, 0.5):
        with running("work", budget_s) as spent_s:
            reached.append(attempt(METHODS["dlg_faint"], seen, budget_s).objective)
        assert 0.05 < spent_s() < 1.2 * budget_s
    assert reached[1] < reached[0]


# --- settings -----------------------------------------------------------------------------------------------------


def test_the_clock_is_a_setting_and_processor_time_the_default(tmp_path):
    assert AttackSection().clock == AttackSettings(run="r", directory=tmp_path).clock == "processor"
    assert worker({}).clock == "processor"
    assert msgspec.convert({"clock": "work"}, AttackSection).clock == "work"
    with pytest.raises(msgspec.ValidationError, match=r"Invalid enum value 'wall' - at `\$.clock`"):
        msgspec.convert({"clock": "wall"}, AttackSection)


def test_the_worker_climbs_by_its_clock():
    seen = UPDATES["direct"]()
    reads = []

    class Reads(msgspec.Struct, frozen=True):
        name: str = "reads"
        requires: frozenset = frozenset()

        def applies(self, _observation):
            return None

        def run(self, *_):
            reads.append(clock.working())

    for kind in ("work", "processor"):
        worker({"reads": Reads()}, clock=kind)._climb(seen, exhaustive=True)
    assert reads == [True, False]
