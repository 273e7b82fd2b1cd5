"""`spikeleak meter`: lists, live figures, traces and JSON."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from contract.errors import ConfigurationError, EnvironmentFaultError
from deploy import meter_console
from deploy.meter_console import MeterRequest, closing, run_meter, sparkline, table
from deploy.meter_live import Recorder, Tally, _link_settings
from hardware.energy import EnergyReading, unavailable
from hardware.finding import Finding
from hardware.meter import open_meter
from hardware.meters.replay import load_trace
from hardware.sampled_meter import SampledMeter


class Steady:
    """A source of 4 W."""

    name, source, scope, resolution_w, interval_s = "steady", "steady:1", "soc", 0.01, 0.001

    def power_w(self) -> float:
        return 4.0

    def close(self) -> None:
        return None


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "wave.csv"
    path.write_text("# scope: board\n# uncertainty_w: 0.05\ntime_s,power_w\n0,4\n0.1,4\n0.1,8\n600,8\n")
    return path


def said(monkeypatch: pytest.MonkeyPatch, request: MeterRequest, columns: int = 100) -> str:
    monkeypatch.setattr(
        meter_console, "find_meters", lambda: [Finding(meter="rapl", available=False, detail="run as root")]
    )
    text = io.StringIO()
    run_meter(Console(file=text, width=columns), request)
    return text.getvalue()


def window(power_w: float, seconds: float = 0.25, off_j: float | None = 0.01) -> EnergyReading:
    return EnergyReading(
        energy_j=power_w * seconds,
        duration_s=seconds,
        source="m:1",
        scope="soc",
        provenance="measured",
        uncertainty_j=off_j,
    )


def test_nothing_to_read_only_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    text = said(monkeypatch, MeterRequest())
    assert "rapl" in text
    assert "run as root" in text
    assert "W now" not in text


def test_live_and_recorded_and_played_again(monkeypatch: pytest.MonkeyPatch, trace: Path, tmp_path: Path) -> None:
    """Recorded joules are those that were shown, and playing the recording gives them once more."""
    record = tmp_path / "again.csv"
    text = said(monkeypatch, MeterRequest(spec=f"replay:{trace}", seconds=0.6, record=record))
    assert "replay:wave.csv (board): " in text
    assert "±" in text
    assert "█" in text
    again = load_trace(record)
    assert (again.scope, again.uncertainty_w) == ("board", pytest.approx(0.05))
    shown_j = float(text.split("(board): ")[1].split(" J")[0])
    assert again.energy_until_j(again.duration_s) == pytest.approx(shown_j, abs=1e-3)
    assert again.energy_until_j(again.duration_s) == pytest.approx(4 * 0.1 + 8 * (again.duration_s - 0.1), rel=1e-6)


def test_json_is_all_that_is_printed(monkeypatch: pytest.MonkeyPatch, trace: Path) -> None:
    told = json.loads(said(monkeypatch, MeterRequest(spec=f"replay:{trace}", seconds=0.3, as_json=True), columns=40))
    assert told["meters"] == [{"meter": "rapl", "available": False, "detail": "run as root"}]
    (live,) = told["live"]
    assert live["energy_j"] == pytest.approx(4 * 0.1 + 8 * (live["duration_s"] - 0.1), rel=1e-6)
    assert (live["source"], live["sampling"], live["windows_without_figure"]) == ("replay:wave.csv", None, 0)
    assert live["min_w"] <= live["mean_w"] <= live["max_w"]


def test_the_samplers_cost_is_shown() -> None:
    meter = SampledMeter(Steady(), interval_s=0.01)
    meter.start()
    tally = Tally(meter)
    for _ in range(3):
        tally.add(meter.read())
    meter.close()
    text = io.StringIO()
    Console(file=text, width=100).print(table([tally]))
    assert "4.000" in text.getvalue()
    assert "%" in text.getvalue()
    record = tally.record()["sampling"]
    assert record["samples"] >= 4
    assert record["cpu_s"] > 0


def test_two_meters_are_shown_side_by_side_with_difference_and_ratio() -> None:
    soc, wall = Tally(open_meter("none")), Tally(open_meter("none"))
    soc.add(window(4.0))
    wall.add(window(10.0))
    wall.add(unavailable("m", "wall", "none came"))
    lines = closing([soc, wall])
    assert "1.000 J ± 0.010 J" in lines[0]
    assert "1 windows without a figure, last: none came" in lines[1]
    assert "6.000 W, ratio 2.500" in lines[2]
    assert not any("14" in line or "3.500" in line for line in lines), "no sum of both"


def test_a_meter_asked_for_by_name_without_a_figure_is_the_machines_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EnvironmentFaultError, match=r"--meter none: no figure in 0.1 s: no meter was asked for"):
        said(monkeypatch, MeterRequest(spec="none", seconds=0.1))


def test_half_widths_add_up_and_one_unknown_hides_the_sum() -> None:
    tally = Tally(open_meter("none"))
    tally.add(window(2.0))
    tally.add(window(4.0))
    assert tally.uncertainty_j == pytest.approx(0.02)
    assert (tally.lowest_w, tally.mean_w, tally.highest_w) == (2.0, 3.0, 4.0)
    tally.add(window(4.0, off_j=None))
    assert tally.uncertainty_j is None


@pytest.mark.parametrize(
    ("request_", "word"),
    [
        (MeterRequest(spec="raple", seconds=1), "did you mean 'rapl'"),
        (MeterRequest(spec="rapl+tasmota:p", record=Path("x.csv")), "needs one meter"),
        (MeterRequest(seconds=0, record=Path("x.csv")), "--seconds above 0"),
    ],
)
def test_what_cannot_be_asked(monkeypatch: pytest.MonkeyPatch, request_: MeterRequest, word: str) -> None:
    with pytest.raises(ConfigurationError, match=word):
        said(monkeypatch, request_)


def test_a_recording_has_no_gaps_and_overwrites_nothing(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    recorder = Recorder(path)
    recorder.add(unavailable("m", "s", "warming up"))
    recorder.add(window(2.0))
    with pytest.raises(EnvironmentFaultError, match=r"ends after 0.25 s, since a trace has no gaps: bus error"):
        recorder.add(unavailable("m", "s", "bus error"))
    recorder.close()
    assert load_trace(path).energy_until_j(0.25) == pytest.approx(0.5)
    with pytest.raises(ConfigurationError, match="there already"):
        Recorder(path)
    with pytest.raises(EnvironmentFaultError, match="cannot be written"):
        Recorder(tmp_path / "no" / "t.csv")


def test_the_link_of_another_partys_settings(tmp_path: Path) -> None:
    path = tmp_path / "device.toml"
    path.write_text('run = "r"\nlink.host = "127.0.0.2"\nlink.port = 1884\n')
    assert (_link_settings(path).host, _link_settings(path).port) == ("127.0.0.2", 1884)
    assert _link_settings(None).host == "127.0.0.1"
    path.write_text('run = "r"\n')
    with pytest.raises(ConfigurationError, match=r"has no \[link\]"):
        _link_settings(path)


def test_sparkline() -> None:
    assert sparkline([0.0, 4.0, 8.0]) == "▁▅█"
    assert sparkline([0.0]) == "▁"
    assert sparkline([]) == ""
