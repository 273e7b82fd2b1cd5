"""The replay meter against integrals known in closed form, and against traces that are none."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hardware.energy import EnergyReading
from hardware.errors import MeterError
from hardware.meters.replay import PowerTrace, ReplayMeter, load_trace


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now_s = 5000.0

    def __call__(self) -> float:
        return self.now_s


def write(path: Path, rows: list[tuple[float, float]], head: str = "time_s,power_w\n") -> Path:
    path.write_text(head + "".join(f"{time_s!r},{power_w!r}\n" for time_s, power_w in rows))
    return path


def window(meter: ReplayMeter, clock: Clock, seconds: float) -> EnergyReading:
    clock.now_s += seconds
    return meter.read()


def unavailable(reading: EnergyReading) -> str:
    assert reading.provenance == "unavailable"
    assert reading.energy_j is None
    return reading.reason


def test_square_wave_within_half_a_percent(tmp_path: Path) -> None:
    """10 W for half a second, 2 W for half a second, sampled at 1 kHz: 6 W on average, 60 J in 10 s."""
    times = np.arange(0, 20_001) / 1000
    rows = [(float(t), 10.0 if (t % 1.0) < 0.5 else 2.0) for t in times]
    clock = Clock()
    meter = ReplayMeter(write(tmp_path / "wave.csv", rows), clock=clock)
    meter.start()
    reading = window(meter, clock, 10.0)
    assert reading.energy_j == pytest.approx(60.0, rel=0.005)
    assert (reading.provenance, reading.source) == ("measured", "replay:wave.csv")
    assert reading.samples == 10_001
    high = window(meter, clock, 0.499)
    assert high.energy_j == pytest.approx(4.99, rel=0.005)


def test_square_wave_with_steps_is_exact(tmp_path: Path) -> None:
    """Two rows at one time are a step: the integral has no error at all."""
    rows = [(0.0, 10.0), (0.5, 10.0), (0.5, 2.0), (1.0, 2.0), (1.0, 10.0), (1.5, 10.0), (1.5, 2.0), (2.0, 2.0)]
    clock = Clock()
    meter = ReplayMeter(write(tmp_path / "wave.csv", rows), clock=clock)
    meter.start()
    expected = [2.5, 2.5 + 0.5, 2.5, 2.5 + 0.5]  # windows 0–.25, .25–.75, .75–1.125 (.5 + 1.25), …
    expected[2] = 0.25 * 2 + 0.125 * 10
    expected[3] = 0.375 * 10 + 0.5 * 2
    got = [window(meter, clock, seconds).energy_j for seconds in (0.25, 0.5, 0.375, 0.875)]
    assert got == pytest.approx(expected, rel=1e-9)


def test_ramp_is_cut_inside_a_row(tmp_path: Path) -> None:
    """p = 3 t W from 0 to 4 s: the integral from 1 to 3 s is 1.5 (9 − 1) = 12 J, between the rows at 0 and 4."""
    clock = Clock()
    meter = ReplayMeter(write(tmp_path / "ramp.csv", [(0.0, 0.0), (4.0, 12.0)]), clock=clock)
    meter.start()
    assert window(meter, clock, 1.0).energy_j == pytest.approx(1.5)
    assert window(meter, clock, 2.0).energy_j == pytest.approx(12.0)
    assert window(meter, clock, 1.0).energy_j == pytest.approx(1.5 * (16 - 9))


def test_time_of_day_does_not_coarsen_short_windows(tmp_path: Path) -> None:
    clock = Clock()
    clock.now_s = 0.0
    path = write(tmp_path / "unix.csv", [(1_795_000_000.0, 5.0), (1_795_000_010.0, 5.0)])
    meter = ReplayMeter(path, clock=clock)
    meter.start()
    assert window(meter, clock, 1e-6).energy_j == pytest.approx(5e-6, rel=1e-6)


def test_the_end_is_not_extrapolated(tmp_path: Path) -> None:
    clock = Clock()
    meter = ReplayMeter(write(tmp_path / "t.csv", [(10.0, 4.0), (12.0, 4.0)]), clock=clock)
    meter.start()
    assert window(meter, clock, 2.0).energy_j == pytest.approx(8.0)
    assert "nothing is extrapolated" in unavailable(window(meter, clock, 0.5))
    assert "nothing is extrapolated" in unavailable(window(meter, clock, 0.5))


def test_a_window_across_the_end_is_not_shortened(tmp_path: Path) -> None:
    clock = Clock()
    meter = ReplayMeter(write(tmp_path / "t.csv", [(0.0, 4.0), (2.0, 4.0)]), clock=clock)
    meter.start()
    reading = window(meter, clock, 2.5)
    assert "ends 2 s after start" in unavailable(reading)
    assert reading.duration_s == pytest.approx(2.5)


def test_before_start_after_close_and_empty_window(tmp_path: Path) -> None:
    clock = Clock()
    meter = ReplayMeter(write(tmp_path / "t.csv", [(0.0, 4.0), (2.0, 4.0)]), clock=clock)
    assert "before start" in unavailable(meter.read())
    meter.start()
    assert "empty" in unavailable(meter.read())
    meter.close()
    assert "closed" in unavailable(window(meter, clock, 1.0))


def test_a_second_start_drops_a_window_but_goes_on_in_the_trace(tmp_path: Path) -> None:
    clock = Clock()
    meter = ReplayMeter(write(tmp_path / "t.csv", [(0.0, 1.0), (1.0, 1.0), (1.0, 7.0), (3.0, 7.0)]), clock=clock)
    meter.start()
    clock.now_s += 1.0
    meter.start()
    assert window(meter, clock, 1.0).energy_j == pytest.approx(7.0)


def test_a_recording_of_nothing_is_no_zero(tmp_path: Path) -> None:
    clock = Clock()
    meter = ReplayMeter(write(tmp_path / "t.csv", [(0.0, 0.0), (2.0, 0.0)]), clock=clock)
    meter.start()
    assert "0 W" in unavailable(window(meter, clock, 1.0))


def test_scope_comes_from_the_file(tmp_path: Path) -> None:
    head = "# recorded with a shunt\n# scope: board\ntime_s,power_w\n"
    assert ReplayMeter(write(tmp_path / "a.csv", [(0.0, 1.0), (1.0, 1.0)], head)).scope == "board"
    assert ReplayMeter(write(tmp_path / "b.csv", [(0.0, 1.0), (1.0, 1.0)])).scope == "trace"


def test_uncertainty_comes_from_the_file_or_is_not_known(tmp_path: Path) -> None:
    clock = Clock()
    head = "# uncertainty_w: 0.05\ntime_s,power_w\n"
    meter = ReplayMeter(write(tmp_path / "a.csv", [(0.0, 1.0), (9.0, 1.0)], head), clock=clock)
    meter.start()
    assert window(meter, clock, 4.0).uncertainty_j == pytest.approx(0.2)
    meter = ReplayMeter(write(tmp_path / "b.csv", [(0.0, 1.0), (9.0, 1.0)]), clock=clock)
    meter.start()
    assert window(meter, clock, 4.0).uncertainty_j is None


def test_nearly_vertical_flanks(tmp_path: Path) -> None:
    """A flank of one denormal second neither divides by zero nor gives a NaN."""
    clock = Clock()
    meter = ReplayMeter(write(tmp_path / "t.csv", [(0.0, 1.0), (5e-324, 9.0), (1.0, 9.0)]), clock=clock)
    meter.start()
    assert window(meter, clock, 0.5).energy_j == pytest.approx(4.5)


def test_runs_against_the_real_clock(tmp_path: Path) -> None:
    meter = ReplayMeter(write(tmp_path / "t.csv", [(0.0, 8.0), (60.0, 8.0)]))
    meter.start()
    time.sleep(0.02)
    reading = meter.read()
    assert reading.duration_s >= 0.02
    assert reading.energy_j == pytest.approx(8.0 * reading.duration_s, rel=1e-6)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "header"),
        ("power_w,time_s\n1,2\n", "header"),
        ("time_ms,power_w\n0,1\n1,1\n", "header"),
        ("time_s,power_mw\n0,1\n1,1\n", "header"),
        ("time_s,power_w\n", "0 data rows"),
        ("time_s,power_w\n0,1\n", "1 data rows"),
        ("time_s,power_w\n0,1\n1\n", "data row 2"),
        ("time_s,power_w\n0,1\n1,2,3\n", "data row 2"),
        ("time_s,power_w\n0,1\n1,\n", "data row 2"),
        ("time_s,power_w\n0,1\nx,2\n", "data row 2"),
        ("time_s,power_w\n0,1\n1,nan\n", "watts"),
        ("time_s,power_w\n0,1\ninf,1\n", "seconds"),
        ("time_s,power_w\n1795000000000,1\n1795000000001,1\n", "seconds"),
        ("time_s,power_w\n1,1\n0,1\n", "decrease"),
        ("time_s,power_w\n1,1\n1,1\n", "span"),
        ("time_s,power_w\n0,1\n1,-1\n", "offset"),
        ("time_s,power_w\n0,2500000\n1,2500000\n", "watts"),
        ("# uncertainty_w: much\ntime_s,power_w\n0,1\n1,1\n", "number of watts"),
        ("# uncertainty_w: -1\ntime_s,power_w\n0,1\n1,1\n", "from 0"),
    ],
)
def test_what_is_no_trace_is_refused(tmp_path: Path, text: str, word: str) -> None:
    path = tmp_path / "broken.csv"
    path.write_text(text)
    with pytest.raises(MeterError, match=word) as caught:
        load_trace(path)
    assert "broken.csv" in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.csv", tmp_path, Path("nul\0byte.csv")):
        with pytest.raises(MeterError, match="cannot read"):
            load_trace(path)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.binary(max_size=200),
        st.text(max_size=200).map(lambda text: ("time_s,power_w\n" + text).encode("utf-8", "surrogatepass")),
        st.lists(st.tuples(st.floats(), st.floats()), max_size=6).map(
            lambda rows: ("time_s,power_w\n" + "".join(f"{t!r},{p!r}\n" for t, p in rows)).encode()
        ),
    )
)
def test_damaged_files_never_give_zero(tmp_path: Path, content: bytes) -> None:
    """A file is refused, or its readings are above 0 J or carry a reason."""
    path = tmp_path / "trace.csv"
    path.write_bytes(content)
    clock = Clock()
    try:
        meter = ReplayMeter(path, clock=clock)
    except MeterError:
        return
    meter.start()
    for seconds in (0.0, 1e-3, 1.0, 1e6):
        reading = window(meter, clock, seconds)
        assert reading.reason if reading.energy_j is None else reading.energy_j > 0


@given(
    steps=st.lists(st.tuples(st.floats(0.01, 5.0), st.floats(0.1, 50.0)), min_size=2, max_size=20),
    cuts=st.lists(st.floats(0.0, 1.0), max_size=5),
)
def test_windows_add_up_to_numpy_trapezoid(steps: list[tuple[float, float]], cuts: list[float]) -> None:
    """However a trace is cut, its windows sum to the integral that numpy gives."""
    time_s = np.concatenate(([0.0], np.cumsum([step for step, _ in steps])))
    power_w = np.array([1.0, *(power for _, power in steps)])
    trace = PowerTrace(time_s, power_w, "board")
    edges = sorted([0.0, *(cut * trace.duration_s for cut in cuts), trace.duration_s])
    sums = [trace.energy_until_j(b) - trace.energy_until_j(a) for a, b in pairwise(edges)]
    dense = np.sum(np.diff(time_s) * (power_w[1:] + power_w[:-1]) / 2)
    assert sum(sums) == pytest.approx(float(dense), rel=1e-9)
    middle = 0.37 * trace.duration_s
    fine = np.unique(np.concatenate((time_s[time_s < middle], [middle])))
    at = np.interp(fine, time_s, power_w)
    assert trace.energy_until_j(middle) == pytest.approx(
        float(np.sum(np.diff(fine) * (at[1:] + at[:-1]) / 2)), rel=1e-9
    )
