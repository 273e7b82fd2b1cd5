"""What a meter of this machine says for a board that the machine stands in for is emulated, never measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from contract.errors import ConfigurationError
from edge_client.session import labelled, open_settings_meters
from edge_client.settings import ClientSettings
from hardware.energy import EnergyReading, unavailable
from hardware.meters.emulated import EmulatedMeter

MEASURED = EnergyReading(
    energy_j=2.0, duration_s=1.0, source="rapl:package-0", scope="package", provenance="measured", samples=3
)


class Meter:
    name, source, scope = "rapl", "rapl:package-0", "package"

    def __init__(self, reading: EnergyReading) -> None:
        self.reading, self.started, self.closed = reading, 0, 0

    def start(self) -> None:
        self.started += 1

    def read(self) -> EnergyReading:
        return self.reading

    def close(self) -> None:
        self.closed += 1


def test_measured_becomes_emulated_and_names_the_board() -> None:
    inner = Meter(MEASURED)
    meter = EmulatedMeter(inner, "pi4")
    meter.start()
    reading = meter.read()
    meter.close()
    assert (inner.started, inner.closed, meter.name, meter.scope) == (1, 1, "rapl", "package")
    assert (reading.provenance, reading.energy_j, reading.samples) == ("emulated", 2.0, 3)
    assert "rapl:package-0" in reading.source
    assert "pi4" in reading.source


def test_what_was_not_measured_passes() -> None:
    missing = unavailable("rapl", "package", "no counter")
    assert EmulatedMeter(Meter(missing), "pi4").read() is missing


def test_a_device_that_emulates_never_measures(tmp_path: Path) -> None:
    settings = {"run": "r", "node": "n", "directory": tmp_path, "shard": 0, "shards": 1}
    meters = (Meter(MEASURED), Meter(MEASURED))
    own = labelled(meters, ClientSettings(**settings))
    assert [meter.read().provenance for meter in own] == ["measured", "measured"]
    others = labelled(meters, ClientSettings(**settings, emulates="pi4"))
    assert [meter.read().provenance for meter in others] == ["emulated", "emulated"]
    assert all("pi4" in meter.source for meter in others)


def test_a_meter_that_is_not_is_refused_by_name(tmp_path: Path) -> None:
    settings = ClientSettings(run="r", node="n", directory=tmp_path, shard=0, shards=1, meter="rapel", emulates="pi4")
    with pytest.raises(ConfigurationError, match="rapel"):
        open_settings_meters(settings)
