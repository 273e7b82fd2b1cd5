"""Idle power: its mean, its spread, and when there is none."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest

from hardware.baseline import LEAST_WINDOWS, WINDOWS, Baseline, measure, of_windows
from hardware.energy import EnergyReading, unavailable


def reading(power_w: float, *, seconds: float = 0.5, off_w: float | None = None) -> EnergyReading:
    off_j = None if off_w is None else off_w * seconds
    energy_j = power_w * seconds
    return EnergyReading(
        energy_j=energy_j, duration_s=seconds, source="m:1", scope="soc", provenance="measured", uncertainty_j=off_j
    )


def test_mean_spread_and_prediction() -> None:
    """Powers 1, 1, 2, 3, 3 W: mean 2, deviation 1, t of four degrees 2.776: one more lies within 2.776 · sqrt(6/5)."""
    found = of_windows([reading(1.0), reading(1.0), reading(2.0), reading(3.0), reading(3.0, off_w=0.5)])
    assert (found.power_w, found.stdev_w, found.windows) == (pytest.approx(2.0), pytest.approx(1.0), 5)
    assert found.uncertainty_w == pytest.approx(2.776 * math.sqrt(6 / 5) + 0.5)
    assert (found.source, found.scope, found.duration_s) == ("m:1", "soc", 2.5)


def test_no_mean_over_the_survivors() -> None:
    fault = unavailable("m:1", "soc", "bus error", duration_s=0.5)
    found = of_windows([*[reading(1.0)] * 5, fault, *[reading(1.0)] * 5])
    assert (found.power_w, found.reason) == (None, "bus error")


def test_a_meter_may_take_its_time_to_begin() -> None:
    late = unavailable("m:1", "soc", "no report so far", duration_s=0.5)
    found = of_windows([late, late, *[reading(2.0)] * 5])
    assert (found.power_w, found.windows, found.duration_s) == (2.0, 5, 2.5)
    assert of_windows([late, late, *[reading(2.0)] * 4]).reason == "no report so far"


def source(*rows: tuple[EnergyReading, ...]) -> Iterator[tuple[EnergyReading, ...]]:
    yield rows[0]  # what lay before the stretch
    while True:
        yield from rows


def test_measuring_waits_and_reads_every_meter() -> None:
    waits: list[float] = []
    good, bad = reading(2.0), unavailable("plug", "wall", "none came", duration_s=0.5)
    readings = source((good, bad))
    one, two = measure(lambda: next(readings), 5.0, waits.append)
    assert waits == [5.0 / WINDOWS] * WINDOWS
    assert (one.power_w, one.windows, one.stdev_w) == (2.0, WINDOWS, 0.0)
    assert (two.power_w, two.reason) == (None, "none came")


def test_a_meter_that_says_nothing_is_not_waited_for() -> None:
    waits: list[float] = []
    readings = source((unavailable("m", "s", "no such file"),))
    (found,) = measure(lambda: next(readings), 5.0, waits.append)
    assert (len(waits), found.reason) == (WINDOWS - LEAST_WINDOWS + 1, "no such file")


def test_a_stretch_that_is_cut_short_has_no_figure() -> None:
    readings = source((reading(2.0),))
    (found,) = measure(lambda: next(readings), 5.0, lambda _: True)
    assert "fewer than 5 windows" in found.reason


def test_a_figure_or_a_reason() -> None:
    with pytest.raises(ValueError, match="say one"):
        Baseline(source="m", scope="s", power_w=None)
    with pytest.raises(ValueError, match="say one"):
        Baseline(source="m", scope="s", power_w=1.0, reason="why")
    with pytest.raises(ValueError, match="finite"):
        Baseline(source="m", scope="s", power_w=1.0, stdev_w=math.nan)
