"""Samples of power against integrals known in closed form; gaps; and how often the ± holds the truth."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardware import sampled_meter
from hardware.energy import EnergyReading
from hardware.power import SampleError
from hardware.sampled_meter import INTERVAL_S, JITTER, SampledMeter
from hardware.sampling import GAP_INTERVALS, Integrator
from hardware.uncertainty import added, student_95


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now_s = 3000.0

    def __call__(self) -> float:
        return self.now_s


class Source:
    """Power as a function of seconds since it was made."""

    name, source, scope = "wave", "wave:1", "board"

    def __init__(
        self,
        power: Callable[[float], float],
        clock: Callable[[], float],
        *,
        resolution_w: float | None = None,
        interval_s: float = 1e-4,
    ) -> None:
        self.power, self._clock, self._since_s = power, clock, clock()
        self.resolution_w, self.interval_s = resolution_w, interval_s
        self.closed = 0

    def power_w(self) -> float:
        return self.power(self._clock() - self._since_s)

    def close(self) -> None:
        self.closed += 1


def square(elapsed_s: float, period_s: float = 1.0) -> float:
    return 10.0 if elapsed_s % period_s < period_s / 2 else 2.0


def stepped(meter: SampledMeter, clock: Clock, seconds: float, *, spacing_s: float, rng: np.random.Generator) -> None:
    """Lets time pass as the sampling thread would see it."""
    end_s = clock.now_s + seconds
    while (due_s := clock.now_s + spacing_s * rng.uniform(0.75, 1.25)) < end_s:
        clock.now_s = due_s
        meter.sample()
    clock.now_s = end_s


def unavailable(reading: EnergyReading) -> str:
    assert (reading.provenance, reading.energy_j) == ("unavailable", None)
    return reading.reason


def test_square_wave_within_half_a_percent() -> None:
    """10 W for half a second, 2 W for half a second, 100 samples a second: 60 J in 10 s."""
    clock = Clock()
    meter = SampledMeter(Source(square, clock), clock=clock, interval_s=0.01, background=False)
    meter.start()
    stepped(meter, clock, 10.0, spacing_s=0.01, rng=np.random.default_rng(0))
    reading = meter.read()
    assert reading.energy_j == pytest.approx(60.0, rel=0.005)
    assert reading.uncertainty_j is not None
    assert abs(reading.energy_j - 60.0) < reading.uncertainty_j < 1.0
    assert (reading.provenance, reading.source, reading.scope) == ("measured", "wave:1", "board")
    assert reading.samples > 900


def test_a_square_wave_at_the_default_interval_is_off_by_what_its_edges_do_and_by_nothing_on_average() -> None:
    """20 edges of 8 W in 10 s, 50 ms apart: 0.53 J of 60 J at random, as `hardware.sampling` says, within the ±."""
    errors_j, stated_j = [], []
    for seed in range(160):
        rng, clock = np.random.default_rng(seed), Clock()
        phase_s = rng.uniform(0, 1)
        source = Source(lambda s, phase_s=phase_s: square(s + phase_s), clock)
        meter = SampledMeter(source, clock=clock, background=False)
        meter.start()
        stepped(meter, clock, 10.0, spacing_s=INTERVAL_S, rng=rng)
        reading = meter.read()
        assert reading.energy_j is not None
        assert reading.uncertainty_j is not None
        errors_j.append(reading.energy_j - 60.0)
        stated_j.append(reading.uncertainty_j)
    expected_j = 8.0 * INTERVAL_S * math.sqrt(20 * (1 + JITTER**2) / 12)
    assert abs(np.mean(errors_j)) < 3 * expected_j / math.sqrt(len(errors_j)), "no bias"
    assert np.std(errors_j) == pytest.approx(expected_j, rel=0.2)
    held = np.abs(errors_j) <= np.array(stated_j)
    assert held.mean() >= 0.95
    assert max(stated_j) < 8 * expected_j, "the ± says something"


def test_power_that_rises_when_a_window_begins_is_in_it() -> None:
    """Phases of 10 W between rests of 2 W: nothing of a phase is drawn into the line up to its first sample."""
    source = Source(lambda _: 10.0 if busy.is_set() else 2.0, time.monotonic, interval_s=1e-3)
    busy, meter = threading.Event(), SampledMeter(source)
    meter.start()
    errors_j: dict[float, list[float]] = {10.0: [], 2.0: []}
    for _ in range(8):
        for power_w, found_j in errors_j.items():
            (busy.set if power_w > 5 else busy.clear)()
            time.sleep(0.08)
            reading = meter.read()
            assert reading.energy_j is not None
            found_j.append(reading.energy_j - power_w * reading.duration_s)
    meter.close()
    bound_j = 8.0 * INTERVAL_S / 2 / 2
    assert abs(np.median(errors_j[10.0])) < bound_j, "half of what a whole interval would miss"
    assert abs(np.median(errors_j[2.0])) < bound_j


def test_square_wave_through_a_real_thread() -> None:
    meter = SampledMeter(Source(lambda s: square(s, 0.25), time.monotonic), interval_s=0.002)
    meter.start()
    time.sleep(1.5)
    reading = meter.read()
    meter.close()
    assert reading.energy_j is not None
    assert reading.uncertainty_j is not None
    assert abs(reading.energy_j - 6.0 * reading.duration_s) < reading.uncertainty_j + 1.0 * 0.25, (
        "whole periods but one"
    )
    assert reading.samples > 100


def test_both_ends_have_a_sample_of_their_own() -> None:
    """p = 3 t W; the windows 0–1 and 1–2 s have no sample in between, and are exact: 1.5 and 4.5 J."""
    clock = Clock()
    meter = SampledMeter(Source(lambda s: 3 * s, clock, interval_s=1.0), clock=clock, background=False)
    meter.start()
    clock.now_s += 1
    assert meter.read().energy_j == pytest.approx(1.5)
    clock.now_s += 1
    second = meter.read()
    assert (second.energy_j, second.samples) == (pytest.approx(4.5), 2)


@settings(max_examples=60, deadline=None)
@given(
    powers=st.lists(st.floats(0.1, 50.0), min_size=4, max_size=30),
    cuts=st.sets(st.integers(1, 28), max_size=5),
)
def test_windows_add_up_to_the_long_one_and_to_numpy(powers: list[float], cuts: set[int]) -> None:
    times = np.arange(len(powers)) * 0.05
    long, cut = (Integrator(interval_s=0.05, source_interval_s=0.05, resolution_w=None) for _ in range(2))
    total_j = 0.0
    for index, (time_s, power_w) in enumerate(zip(times, powers, strict=True)):
        for integrator in (long, cut):
            integrator.add(float(time_s), power_w)
            if index == 0:
                integrator.start(float(time_s))
        if index in cuts and index < len(powers) - 1:
            total_j += cut.cut(float(time_s)).energy_j or 0.0
    total_j += cut.cut(float(times[-1])).energy_j or 0.0
    whole = long.cut(float(times[-1]))
    assert total_j == pytest.approx(whole.energy_j, rel=1e-12)
    assert whole.energy_j == pytest.approx(float(np.trapezoid(powers, times)), rel=1e-12)


# --- gaps -----------------------------------------------------------------------------------------------------------


def failing(times: Callable[[float], bool]) -> Callable[[float], float]:
    def power(elapsed_s: float) -> float:
        if times(elapsed_s):
            raise SampleError("the rail is gone")
        return 4.0

    return power


def lived(power: Callable[[float], float], seconds: int) -> list[EnergyReading]:
    """One reading a second, ten samples in each, 0.1 s apart."""
    clock = Clock()
    source = Source(power, clock, interval_s=0.1)
    meter = SampledMeter(source, clock=clock, interval_s=0.1, background=False)
    meter.start()
    found = []
    for _ in range(seconds):
        for _ in range(9):
            clock.now_s += 0.1
            meter.sample()
        clock.now_s += 0.1
        found.append(meter.read())
    return found


def test_one_sample_that_fails_is_bridged() -> None:
    (reading,) = lived(failing(lambda s: 0.35 < s < 0.45), 1)
    assert reading.energy_j == pytest.approx(4.0)


def test_a_longer_gap_is_not_bridged_and_the_next_window_is_whole() -> None:
    first, second = lived(failing(lambda s: 0.15 < s < 0.95), 2)
    assert "the rail is gone" in unavailable(first)
    assert "more than the" in unavailable(first)
    assert second.energy_j == pytest.approx(4.0)


def test_an_end_without_a_sample_spoils_both_windows_and_no_third() -> None:
    first, second, third = lived(failing(lambda s: 0.95 < s < 1.05), 3)
    assert unavailable(first) == unavailable(second) == "the rail is gone"
    assert third.energy_j == pytest.approx(4.0)


def test_a_rail_that_vanishes_for_good_leaves_reasons_only() -> None:
    found = lived(failing(lambda s: s > 1.5), 4)
    assert found[0].energy_j == pytest.approx(4.0)
    assert all("the rail is gone" in unavailable(reading) for reading in found[1:])


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.001])
def test_a_power_that_is_none_is_a_reason(value: float) -> None:
    assert "power is a number from 0" in unavailable(lived(lambda s: value if s > 0.95 else 4.0, 1)[0])


def test_nothing_on_the_meter_is_no_zero() -> None:
    assert "0 W throughout" in unavailable(lived(lambda _: 0.0, 1)[0])


def test_a_driver_that_breaks_is_a_reason() -> None:
    def broken(_: float) -> float:
        raise RuntimeError("unplugged")

    assert unavailable(lived(broken, 1)[0]) == "RuntimeError: unplugged"


def test_a_starved_sampler_says_so() -> None:
    clock = Clock()
    meter = SampledMeter(Source(lambda _: 4.0, clock), clock=clock, interval_s=0.1, background=False)
    meter.start()
    clock.now_s += 0.1 * (GAP_INTERVALS + 2)
    assert "no processor time" in unavailable(meter.read())


def test_before_start_after_close_and_no_length() -> None:
    clock = Clock()
    source = Source(lambda _: 4.0, clock)
    meter = SampledMeter(source, clock=clock, background=False)
    assert "before start" in unavailable(meter.read())
    meter.start()
    assert "no length" in unavailable(meter.read())
    meter.close()
    meter.close()
    assert source.closed == 1
    assert "closed" in unavailable(meter.read())


# --- uncertainty ----------------------------------------------------------------------------------------------------


def test_the_resolution_is_half_a_step_over_the_window() -> None:
    clock = Clock()
    source = Source(lambda _: 4.0, clock, resolution_w=0.5)
    meter = SampledMeter(source, clock=clock, interval_s=0.1, background=False)
    meter.start()
    stepped(meter, clock, 8.0, spacing_s=0.1, rng=np.random.default_rng(1))
    reading = meter.read()
    assert reading.uncertainty_j == pytest.approx(0.25 * 8.0)
    assert reading.resolution_j == pytest.approx(4.0)


def noise(rng: np.random.Generator) -> Callable[[float], float]:
    return lambda _: float(rng.uniform(1.0, 9.0))


def edges(rng: np.random.Generator) -> Callable[[float], float]:
    phase_s, period_s = rng.uniform(0, 1), rng.uniform(0.3, 2.0)
    return lambda s: square(s + phase_s, period_s)


@pytest.mark.parametrize("make", [noise, edges], ids=lambda make: make.__name__)
@pytest.mark.parametrize("seconds", [0.3, 4.0])
def test_the_interval_holds_the_truth_in_95_of_100_cases(
    make: Callable[[np.random.Generator], Callable[[float], float]], seconds: float
) -> None:
    """Loads that jump faster than they are sampled, and steep edges at unknown times; 20 samples a second."""
    held = 0
    for seed in range(120):
        rng, clock = np.random.default_rng(seed), Clock()
        power = make(rng)
        meter = SampledMeter(Source(power, clock, interval_s=0.01), clock=clock, interval_s=0.05, background=False)
        meter.start()
        stepped(meter, clock, 4.0 - seconds, spacing_s=0.05, rng=rng)
        begin_s = clock.now_s - 3000.0
        meter.read()
        stepped(meter, clock, seconds, spacing_s=0.05, rng=rng)
        reading = meter.read()
        true_w = 5.0 if make is noise else float(np.mean([power(s) for s in np.linspace(begin_s, 4.0, 4001)]))
        assert reading.energy_j is not None
        assert reading.uncertainty_j is not None
        held += abs(reading.energy_j - true_w * seconds) <= reading.uncertainty_j
    assert held >= 109, "95 % of 120, less two standard deviations"


def test_a_slow_source_says_how_little_it_knows_of_a_short_window() -> None:
    """Values a second old: half a second of training at 10 W after idle at 2 W is told within its ±."""
    clock = Clock()
    source = Source(lambda s: 10.0 if math.floor(s) in {3, 7} else 2.0, clock, interval_s=1.0)
    meter = SampledMeter(source, clock=clock, background=False)
    meter.start()
    rng = np.random.default_rng(2)
    stepped(meter, clock, 7.9, spacing_s=0.25, rng=rng)
    meter.read()
    stepped(meter, clock, 0.5, spacing_s=0.25, rng=rng)
    reading = meter.read()
    assert reading.energy_j is not None
    assert reading.uncertainty_j is not None
    assert abs(reading.energy_j - 5.0) <= reading.uncertainty_j


def test_before_two_values_the_uncertainty_is_not_known() -> None:
    clock = Clock()
    meter = SampledMeter(Source(lambda _: 4.0, clock, interval_s=1.0), clock=clock, background=False)
    meter.start()
    clock.now_s += 0.5
    reading = meter.read()
    assert (reading.energy_j, reading.uncertainty_j) == (pytest.approx(2.0), None)


def test_student_and_sums() -> None:
    from scipy.special import stdtrit

    for degrees in (1, 2, 5, 20, 21, 40, 1000):
        assert -0.0005 < student_95(degrees) - float(stdtrit(degrees, 0.975)) < 0.006
    with pytest.raises(ValueError, match="one value alone"):
        student_95(0)
    assert added([0.5, 0.25]) == 0.75
    assert added([0.5, None]) is None
    assert added([]) is None


# --- the thread -----------------------------------------------------------------------------------------------------


def test_the_sampler_tells_what_it_costs_and_leaves_nothing_behind() -> None:
    before = threading.active_count()
    source = Source(lambda _: 5.0, time.monotonic)
    meter = SampledMeter(source, interval_s=0.005)
    meter.start()
    time.sleep(0.4)
    first = meter.read()
    time.sleep(0.05)
    second = meter.read()
    cost = meter.cost
    meter.close()
    assert first.energy_j == pytest.approx(5.0 * first.duration_s, rel=1e-9)
    assert second.energy_j == pytest.approx(5.0 * second.duration_s, rel=1e-9)
    assert first.overhead_s is not None
    assert second.overhead_s is not None
    assert 0 < first.overhead_s + second.overhead_s <= cost.cpu_s + 1e-9
    assert 0 < cost.cpu_share < 0.5
    assert cost.samples >= first.samples + second.samples - 2 > 20
    assert source.closed == 1
    assert threading.active_count() == before
    assert "closed" in unavailable(meter.read())


def test_a_program_run_for_each_sample_is_part_of_the_cost() -> None:
    import subprocess
    import sys

    def power(_: float) -> float:
        subprocess.run([sys.executable, "-S", "-c", "sum(range(300_000))"], check=True)
        return 1.0

    clock = Clock()
    meter = SampledMeter(Source(power, clock), clock=clock, background=False)
    meter.start()
    clock.now_s += 0.1
    reading = meter.read()
    assert reading.overhead_s is not None
    assert reading.overhead_s > 0.002


def test_a_source_that_hangs_holds_up_nobody_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampled_meter, "ANSWER_S", 0.2)
    let_go, hang = threading.Event(), threading.Event()

    def power(_: float) -> float:
        if hang.is_set():
            let_go.wait(10)
        return 3.0

    meter = SampledMeter(Source(power, time.monotonic), interval_s=0.01)
    meter.start()
    time.sleep(0.05)
    assert meter.read().energy_j is not None
    hang.set()
    began_s = time.monotonic()
    assert "not answered" in unavailable(meter.read())
    assert "not answered" in unavailable(meter.read())
    assert time.monotonic() - began_s < 1.0, "only the first of them waits"
    hang.clear()
    let_go.set()
    time.sleep(0.1)
    assert "hung" in unavailable(meter.read()), "nobody knows where this window began"
    time.sleep(0.05)
    assert meter.read().energy_j is not None
    meter.close()
