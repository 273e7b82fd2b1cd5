"""Meters in whole runs: a study with a replayed trace, a plug on a real broker, a device that reads its plug."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from contract.link import Link, LinkSettings
from contract.messages import EnergyReport
from deploy.meter_live import opened, watch
from edge_client.app import run_client
from edge_client.sleep import SleepSettings
from hardware.energy import PHASES
from server.ledger import Ledger
from tests.conftest import spikeleak
from tests.mosquitto import mosquitto
from tests.unit.edge_client_world import MemoryLink, MemoryServer, settings

STUDY = """
name = "measured"
clients = 2

[task]
dataset = "digits"
[task.encoding]
kind = "direct"
steps = 3
[task.model]
hidden = [16]

[devices]
meter = "replay:{trace}"
baseline_s = 0.3

[attack]
attacks = ["ratio"]

[[schedule]]
kind = "train"
rounds = 2
local_steps = 3
batch_size = 8
learning_rate = 0.2
"""

WAVE_W = (0.010, 0.002)
"""So little that measured and modelled joules are of one magnitude: a sum of both would show."""


def wave(path: Path, seconds: int = 600) -> Path:
    edges = [(half / 2, WAVE_W[half % 2]) for half in range(2 * seconds)]
    rows = "".join(f"{t},{p}\n{t + 0.5},{p}\n" for t, p in edges)
    path.write_text(f"# scope: board\n# uncertainty_w: 0.0001\ntime_s,power_w\n{rows}")
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("measured")
    study, out = folder / "study.toml", folder / "out"
    study.write_text(STUDY.format(trace=wave(folder / "wave.csv")))
    done = spikeleak("run", str(study), "--out", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    assert " measured" in done.stdout
    return out


def energy(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "summary.json").read_text())["energy_j"])


def test_the_ledger_has_every_phase_of_every_update_measured_beside_modelled(run: Path) -> None:
    with Ledger.open_read(run / "ledger.sqlite") as ledger:
        rows = ledger.rows("SELECT * FROM energy")
        idle = ledger.rows("SELECT * FROM baselines")
    updates = {row["update_uid"] for row in rows}
    assert len(updates) == 4
    assert {(row["update_uid"], row["phase"]) for row in rows} == {(uid, phase) for uid in updates for phase in PHASES}
    origins = {(row["provenance"], row["source"].partition(":")[0]) for row in rows if row["energy_j"] is not None}
    assert origins == {("measured", "replay"), ("modelled", "model")}
    assert all(row["reason"] for row in rows if row["energy_j"] is None)
    measured = [row for row in rows if row["provenance"] == "measured"]
    assert {row["phase"] for row in measured} == set(PHASES) - {"sleep"}
    for row in measured:
        assert WAVE_W[1] * 0.99 < row["energy_j"] / row["duration_s"] < WAVE_W[0] * 1.01
        assert row["uncertainty_j"] == pytest.approx(1e-4 * row["duration_s"])
    assert len(idle) == 4
    assert all(WAVE_W[1] * 0.99 < row["power_w"] < WAVE_W[0] * 1.01 and row["windows"] == 10 for row in idle)


def numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        for item in value.values():
            yield from numbers(item)
    elif isinstance(value, list):
        for item in value:
            yield from numbers(item)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield float(value)


def test_the_summary_is_measured_and_no_number_is_of_both(run: Path) -> None:
    found = energy(run)
    with Ledger.open_read(run / "ledger.sqlite") as ledger:
        measured_j, modelled_j = (
            ledger.value("SELECT SUM(energy_j) FROM energy WHERE provenance = ? AND phase != 'idle'", provenance)
            for provenance in ("measured", "modelled")
        )
    assert (found["provenance"], found["value"]) == ("measured", pytest.approx(measured_j))
    assert found["by_provenance"] == {"measured": pytest.approx(measured_j), "modelled": pytest.approx(modelled_j)}
    assert 0.001 < modelled_j / measured_j < 1000, "of one magnitude, or the next line proves nothing"
    both_j = measured_j + modelled_j
    assert not [number for number in numbers(found) if number == pytest.approx(both_j, rel=1e-6)]
    (meter,) = found["meters"]
    assert (meter["scope"], meter["without_baseline"]) == ("board", 0)
    assert meter["dynamic"]["value"] + meter["baseline"]["value"] == pytest.approx(meter["total"]["value"])
    assert meter["dynamic"]["uncertainty"] > meter["total"]["uncertainty"] == found["uncertainty"]
    assert found["reconciled"] == []


def test_the_report_names_the_trace(run: Path) -> None:
    page = (run / "report.html").read_text()
    assert "replay:wave.csv" in page
    assert "measured" in page


# --- plugs ----------------------------------------------------------------------------------------------------------


def sensor(power_w: float) -> bytes:
    return b'{"Time":"2026-01-01T00:00:00","ENERGY":{"Total":1.000,"Power":%.2f}}' % power_w


def test_a_plug_on_a_real_broker(tmp_path: Path) -> None:
    """Twenty reports a second of 5 W, read as `spikeleak meter` reads."""
    with mosquitto(tmp_path) as broker:
        where = LinkSettings(port=broker.port)
        told = tmp_path / "link.toml"
        told.write_text(f"[link]\nport = {broker.port}\n")
        plug, stop = Link(where, "plug", on_message=lambda _topic, _payload: None), threading.Event()
        plug.start()

        def speak() -> None:
            while not stop.wait(0.05):
                plug.publish("tele/pi-1/SENSOR", sensor(5.0))

        speaker = threading.Thread(target=speak)
        speaker.start()
        try:
            with opened("tasmota:pi-1+shelly:pi-1", told) as meters:
                power, silent = watch(meters, 1.2, show=lambda _tallies: None)
        finally:
            stop.set()
            speaker.join()
            plug.stop()
    assert power.mean_w == pytest.approx(5.0)
    assert power.windows >= 2
    assert (silent.windows, silent.mean_w) == (0, None)
    assert "no report from shelly:pi-1" in silent.reason


def test_a_device_hears_its_plug_while_it_works(tmp_path: Path) -> None:
    """Reports reach the meter at once, on the link's own thread; and the device goes on when they are rubbish."""
    server = MemoryServer(rounds=2)
    links: list[MemoryLink] = []
    stop = threading.Event()

    def link(*arguments: Any, **named: Any) -> MemoryLink:
        links.append(MemoryLink(server, *arguments, **named))
        return links[-1]

    def speak() -> None:
        while not stop.wait(0.002):
            if links:
                links[0].deliver("tele/pi-1/SENSOR", sensor(5.0))
                links[0].deliver("tele/pi-1/LWT", b"\xff")

    speaker = threading.Thread(target=speak)
    speaker.start()
    try:
        assert run_client(settings(tmp_path, meter="tasmota:pi-1", baseline_s=0.5), link_type=link) == 0
    finally:
        stop.set()
        speaker.join()
    assert {"tele/pi-1/SENSOR", "tele/pi-1/LWT"} <= links[0].filters
    reports = [message for message, _ in server.objects.values() if isinstance(message, EnergyReport)]
    assert len(reports) == 2
    (idle,) = reports[0].baselines
    assert (idle.source, idle.scope, idle.reason) == ("tasmota:pi-1", "wall", "")
    assert idle.power_w == pytest.approx(5.0)


def test_a_device_sleeps_between_rounds(tmp_path: Path) -> None:
    class LateServer(MemoryServer):
        """Opens its second round a second after the first."""

        def open(self, round_: int) -> None:
            if round_ == 2:
                threading.Timer(1.0, super().open, (round_,)).start()
            else:
                super().open(round_)

    server = LateServer(rounds=2)
    trace = wave(tmp_path / "wave.csv")
    changes = {"meter": f"replay:{trace}", "baseline_s": 0, "sleep": SleepSettings(seconds=0.2, after_s=0.1)}
    began_s = time.monotonic()
    assert run_client(settings(tmp_path, **changes), link_type=lambda *a, **k: MemoryLink(server, *a, **k)) == 0
    assert time.monotonic() - began_s > 1.0
    reports = [message for message, _ in server.objects.values() if isinstance(message, EnergyReport)]
    slept = {report.round: {p.phase: p.readings[0] for p in report.phases}["sleep"] for report in reports}
    assert slept[2].duration_s >= 0.2
    assert slept[2].energy_j is not None
    assert slept[2].energy_j > 0
    assert reports[0].baselines == ()
