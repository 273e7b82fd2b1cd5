"""Joules in `summary.json`: ± of sums, idle apart from work, two meters side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from contract.messages import EnergyReport, Operations, PhaseEnergy, pack
from hardware.baseline import Baseline
from hardware.energy import EnergyReading, unavailable
from server.progress import read_progress
from server.report import quantities, write_report
from server.settings import ScheduleEntry
from server.summary import summarise
from tests.unit.server_world import MODELLED, World, name_of, settings

IDLE = Baseline(
    source="ina3221:VDD_IN", scope="soc", power_w=2.0, stdev_w=0.1, uncertainty_w=0.25, duration_s=5.0, windows=10
)


def soc(energy_j: float, seconds: float, off_j: float | None = 0.5) -> EnergyReading:
    return EnergyReading(
        energy_j=energy_j,
        duration_s=seconds,
        source="ina3221:VDD_IN",
        scope="soc",
        provenance="measured",
        samples=9,
        uncertainty_j=off_j,
        overhead_s=0.01,
    )


def wall(energy_j: float, seconds: float) -> EnergyReading:
    return EnergyReading(
        energy_j=energy_j,
        duration_s=seconds,
        source="tasmota:plug",
        scope="wall",
        provenance="measured",
        samples=2,
        uncertainty_j=1.0,
    )


def run(folder: Path, phases: dict[str, tuple[EnergyReading, ...]], *baselines: Baseline) -> dict[str, Any]:
    """Two devices with one update each, all of whose phases cost the same; the summary's `energy_j`."""
    world = World(settings(folder, ScheduleEntry(batch_size=4), clients=2))
    for node in ("a", "b"):
        world.node(node)
    for node in ("a", "b"):
        update, uid = world.update(node), name_of(node, "energy")
        report = EnergyReport(
            uid=uid,
            update_uid=update,
            node=node,
            round=1,
            operations=Operations(),
            payload_bytes=1,
            phases=tuple(PhaseEnergy(phase=phase, readings=readings) for phase, readings in phases.items()),
            baselines=baselines,
        )
        world.send("score", node, 1, uid, pack(report))
    world.ledger.close()
    return dict(summarise(folder)["energy_j"])


ONE_METER = {
    "idle": (soc(30.0, 15.0), unavailable("model", "operations", "no figure")),
    "sleep": (soc(1.0, 10.0), unavailable("model", "operations", "no figure")),
    "train": (soc(12.0, 4.0), MODELLED),
    "compress": (soc(2.0, 1.0), unavailable("model", "operations", "no figure")),
}


def test_idle_dynamic_and_total_are_told_apart(tmp_path: Path) -> None:
    found = run(tmp_path, ONE_METER, IDLE)
    assert (found["value"], found["provenance"]) == (pytest.approx(2 * 14.0), "measured")
    assert found["uncertainty"] == pytest.approx(4 * 0.5), "half widths are added up"
    (meter,) = found["meters"]
    assert (meter["source"], meter["scope"], meter["updates"]) == ("ina3221:VDD_IN", "soc", 2)
    assert meter["total"] == {"value": 28.0, "uncertainty": 2.0, "duration_s": 10.0, "readings": 4}
    assert meter["waiting"]["value"] == pytest.approx(2 * 31.0)
    assert meter["baseline"] == {"value": pytest.approx(2.0 * 10.0), "uncertainty": pytest.approx(0.25 * 10.0)}
    assert meter["dynamic"] == {"value": pytest.approx(28.0 - 20.0), "uncertainty": pytest.approx(2.0 + 2.5)}
    assert meter["idle_power_w"]["a"] == {"value": 2.0, "uncertainty": 0.25, "stdev": 0.1}
    assert meter["overhead_share"] == pytest.approx(8 * 0.01 / (2 * 30.0))
    assert found["by_provenance"]["measured"] == pytest.approx(28.0), "neither idle nor asleep"


def test_work_within_the_noise_of_idle_may_be_negative(tmp_path: Path) -> None:
    (meter,) = run(tmp_path, {"train": (soc(7.5, 4.0), MODELLED)}, IDLE)["meters"]
    assert meter["dynamic"]["value"] == pytest.approx(-1.0)
    assert meter["dynamic"]["uncertainty"] > 1.0


@pytest.mark.parametrize(
    "baselines", [(), (Baseline(source="ina3221:VDD_IN", scope="soc", power_w=None, reason="bus error"),)]
)
def test_without_an_idle_power_nothing_is_told_apart(tmp_path: Path, baselines: tuple[Baseline, ...]) -> None:
    (meter,) = run(tmp_path, ONE_METER, *baselines)["meters"]
    assert (meter["baseline"], meter["dynamic"], meter["without_baseline"]) == (None, None, 4)
    assert meter["total"]["value"] == 28.0
    assert meter["idle_power_w"] == {}


def test_one_unknown_half_width_makes_the_sum_unknown(tmp_path: Path) -> None:
    found = run(tmp_path, {"train": (soc(1.0, 1.0), MODELLED), "load": (soc(1.0, 1.0, None),)}, IDLE)
    assert found["uncertainty"] is None
    assert found["meters"][0]["total"]["uncertainty"] is found["meters"][0]["dynamic"]["uncertainty"] is None


def test_two_meters_stand_side_by_side(tmp_path: Path) -> None:
    phases = {
        "train": (soc(12.0, 4.0), wall(20.0, 4.0), MODELLED),
        "load": (soc(1.0, 0.5), unavailable("tasmota:plug", "wall", "none came"), unavailable("m", "o", "none")),
    }
    found = run(tmp_path, phases, IDLE)
    assert found["provenance"] == "modelled", "neither meter is taken for the run, and no sum is made of both"
    assert found["by_provenance"]["measured"] is None
    assert found["by_provenance"]["modelled"] == found["value"]
    assert [meter["total"]["value"] for meter in found["meters"]] == [26.0, 40.0]
    progress = read_progress(tmp_path)
    assert progress is not None
    assert {name: value for name, value in progress.energy_j.items() if name != "modelled"} == {
        "measured (soc)": 26.0,
        "measured (wall)": 40.0,
    }
    (pair,) = found["reconciled"]
    assert (pair["phase"], pair["updates"]) == ("train", 2)
    assert (pair["first"]["scope"], pair["first"]["value"]) == ("soc", 24.0)
    assert (pair["second"]["scope"], pair["second"]["value"]) == ("wall", 40.0)
    assert (pair["ratio"], pair["difference"]) == (pytest.approx(40 / 24), pytest.approx(16.0))
    assert pair["uncertainty"] == pytest.approx(2 * 0.5 + 2 * 1.0)


def test_two_readings_of_one_name_are_no_sum(tmp_path: Path) -> None:
    found = run(tmp_path, {"train": (soc(12.0, 4.0), soc(12.0, 4.0), MODELLED)}, IDLE, IDLE)
    assert found["provenance"] == "modelled"


def test_the_page_shows_measured_and_modelled_and_no_sum_of_both(tmp_path: Path) -> None:
    """14 J measured, 0.5 J modelled; and of two meters 24 and 40 J."""
    one, two = tmp_path / "one", tmp_path / "two"
    run(one, {"train": (soc(7.0, 4.0), MODELLED)}, IDLE)
    run(two, {"train": (soc(12.0, 4.0), wall(20.0, 4.0), MODELLED)}, IDLE)
    assert MODELLED.energy_j == 0.25
    for folder, shown, never in (
        (one, (14.0, 0.5), (14.5, 7.25)),
        (two, (24.0, 40.0, 0.5), (64.0, 64.5, 32.0, 32.25)),
    ):
        write_report(folder)
        page = (folder / "report.html").read_text()
        assert all(quantities.energy(value) in page for value in shown)
        assert not [value for value in never if quantities.energy(value) in page]
