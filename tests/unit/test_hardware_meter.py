"""The family of meters: found, opened and read by name."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from hardware import meter
from hardware.errors import MeterError
from hardware.finding import Finding
from hardware.meter import METERS, find_meters, open_meter, open_meters
from hardware.power import SampleError

ARGUMENTS = {"ppk2": ":5000", "tasmota": ":plug-1", "shelly": ":plug-1"}


def specification(name: str, folder: Path) -> str:
    if name != "replay":
        return name + ARGUMENTS.get(name, "")
    trace = folder / "trace.csv"
    trace.write_text("time_s,power_w\n0,5\n3600,5\n")
    return f"replay:{trace}"


def package(root: Path, energy_uj: int) -> Path:
    folder = root / "sys/class/powercap/intel-rapl:0"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "name").write_text("package-0\n")
    (folder / "max_energy_range_uj").write_text("262143328850\n")
    (folder / "energy_uj").write_text(f"{energy_uj}\n")
    return folder


def test_the_family_is_not_empty() -> None:
    assert {"none", "auto", "rapl", "replay"} <= set(METERS)


@pytest.mark.parametrize("name", METERS)
def test_every_meter_on_a_machine_without_any(name: str, tmp_path: Path) -> None:
    meter = open_meter(specification(name, tmp_path), tmp_path)
    assert meter.name in METERS
    assert meter.scope
    meter.start()
    first, second = meter.read(), meter.read()
    meter.close()
    for reading in (first, second, meter.read()):
        assert reading.scope == meter.scope
        assert reading.source.startswith(meter.name)
        if name != "replay":
            assert reading.provenance == "unavailable"
        assert reading.reason if reading.energy_j is None else reading.energy_j > 0


def test_auto_takes_what_is_there(tmp_path: Path) -> None:
    package(tmp_path, 1_000_000)
    assert open_meter("auto", tmp_path).name == "rapl"


def test_auto_says_why_there_is_nothing(tmp_path: Path) -> None:
    meter = open_meter("auto", tmp_path)
    meter.start()
    assert "looked for pi5-pmic, ina3221, ina238, ina2xx, rapl, nvml" in meter.read().reason


def test_find_meters_gives_each_a_verdict(tmp_path: Path) -> None:
    findings = {finding.meter: finding for finding in find_meters(tmp_path)}
    assert set(findings) == set(METERS) - {"none", "auto"}
    assert not any(finding.available for finding in findings.values())
    assert all(finding.detail for finding in findings.values())
    package(tmp_path, 1_000_000)
    assert {finding.meter for finding in find_meters(tmp_path) if finding.available} == {"rapl"}


@pytest.mark.parametrize(
    ("spec", "word"),
    [
        ("raple", "did you mean 'rapl'"),
        ("", "Known: none, auto, "),
        ("joulscope", "did you mean 'joulescope'"),
        ("rapl+tasmotta:plug", "did you mean 'tasmota'"),
        ("ppk2", "voltage"),
        ("ppk2:12000", "800 to 5000"),
        ("ppk2:/dev/ttyACM0", "voltage"),
        ("tasmota", "topic of a plug"),
        ("tasmota:tele/+/SENSOR", "without wildcards"),
        ("shelly:/plug/", "topic of a plug"),
        ("replay", "needs a file"),
        ("replay:", "needs a file"),
        ("replay:/no/such.csv", "/no/such.csv"),
        ("rapl:0", "takes nothing after a colon"),
        ("none:x", "takes nothing after a colon"),
        ("auto:x", "takes nothing after a colon"),
        ("RAPL", "no meter is called 'RAPL'"),
    ],
)
def test_specifications_that_cannot_be_used(spec: str, word: str) -> None:
    with pytest.raises(MeterError, match=word):
        open_meter(spec)


def test_several_side_by_side(tmp_path: Path) -> None:
    one, two = tmp_path / "one+two.csv", tmp_path / "two.csv"
    for trace in (one, two):
        trace.write_text("time_s,power_w\n0,5\n3600,5\n")
    meters = open_meters(f"rapl+tasmota:plug-1+replay:{one}+replay:{two}", tmp_path)
    assert [one.source for one in meters] == ["rapl", "tasmota:plug-1", "replay:one+two.csv", "replay:two.csv"]
    assert [one.name for one in open_meters("none")] == ["none"]
    for opened in meters:
        opened.close()


@pytest.mark.parametrize(
    ("specs", "word"),
    [
        ("rapl+none", "none of them 'none'"),
        ("rapl+rapl", "could not be told apart"),
        ("tasmota:a+tasmota:b+tasmota:c+tasmota:d+tasmota:e", "at most 4"),
        ("rapl+tasmota", "topic of a plug"),
        ("", "Known"),
    ],
)
def test_meters_that_cannot_stand_side_by_side(specs: str, word: str, tmp_path: Path) -> None:
    with pytest.raises(MeterError, match=word):
        open_meters(specs, tmp_path)


def test_a_board_reader_is_sampled_and_one_that_is_not_there_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a module of `meters/` needs to have, and what becomes of it."""

    class Reader:
        NAME = "board"
        there = True

        name, source, scope, resolution_w, interval_s = "board", "board:VDD", "soc", 0.001, 0.01

        def find(self, root: Path) -> Finding:
            return Finding(meter="board", available=self.there, detail=str(root))

        def open_source(self, argument: str, root: Path) -> Reader:
            if not self.there:
                raise SampleError(f"no such file {argument!r} under {root}")
            return self

        def power_w(self) -> float:
            return 4.0

        def close(self) -> None:
            return None

    reader = Reader()
    monkeypatch.setattr(meter, "BOARD_READERS", (reader,))
    monkeypatch.setitem(METERS, "board", partial(meter._open_sampled, reader))
    found = open_meter("auto", tmp_path)
    assert (found.name, found.source, found.scope) == ("board", "board:VDD", "soc")
    found.close()
    reader.there = False
    absent = open_meter("board", tmp_path)
    absent.start()
    reading = absent.read()
    assert (absent.name, reading.source) == ("board", "board")
    assert f"no such file '' under {tmp_path}" in reading.reason


def test_a_path_with_a_colon_is_a_path(tmp_path: Path) -> None:
    trace = tmp_path / "a:b.csv"
    trace.write_text("time_s,power_w\n0,5\n3600,5\n")
    assert open_meter(f"replay:{trace}").name == "replay"


def test_the_room_imports_nothing_above_it() -> None:
    """Only the standard library, numpy and msgspec: a board has nothing else."""
    code = (
        "import sys, hardware.meter, hardware.energy_model;"
        "print(sorted({m.partition('.')[0] for m in sys.modules} & "
        "{'contract', 'edge_client', 'server', 'attack', 'deploy', 'torch', 'scipy', 'pandas', 'paho', 'onnxruntime'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
