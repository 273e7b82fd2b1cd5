"""What an energy reading may and may not say."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardware.energy import PHASES, EnergyReading, unavailable

GOOD = {"energy_j": 1.5, "duration_s": 2.0, "source": "rapl:package-0", "scope": "package", "provenance": "measured"}


def test_a_reading_with_a_figure() -> None:
    assert EnergyReading(**GOOD).energy_j == 1.5


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"energy_j": None}, "exactly when"),
        ({"provenance": "unavailable"}, "exactly when"),
        ({"provenance": "unavailable", "energy_j": None}, "without a reason"),
        ({"energy_j": -1e-9}, "negative"),
        ({"energy_j": math.nan}, "finite"),
        ({"energy_j": math.inf}, "finite"),
        ({"duration_s": -1.0}, "negative"),
        ({"duration_s": math.nan}, "finite"),
    ],
)
def test_what_a_reading_refuses(change: dict[str, object], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        EnergyReading(**(GOOD | change))


def test_readings_are_frozen() -> None:
    with pytest.raises(AttributeError):
        EnergyReading(**GOOD).energy_j = 0.0  # type: ignore[misc]


def test_unavailable_carries_its_reason_and_no_figure() -> None:
    reading = unavailable("rapl", "package", "no permission", duration_s=3.0)
    assert reading.energy_j is None
    assert (reading.provenance, reading.reason, reading.duration_s) == ("unavailable", "no permission", 3.0)
    with pytest.raises(ValueError, match="say why"):
        unavailable("rapl", "package", "")


@given(energy_j=st.floats(0, 1e12), duration_s=st.floats(0, 1e9))
def test_round_trip_through_messagepack(energy_j: float, duration_s: float) -> None:
    reading = EnergyReading(**(GOOD | {"energy_j": energy_j, "duration_s": duration_s}))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(reading), type=EnergyReading) == reading


@pytest.mark.parametrize("provenance", ["guessed", "", "Measured"])
def test_unknown_provenance_is_refused_on_the_wire(provenance: str) -> None:
    data = msgspec.msgpack.encode(GOOD | {"provenance": provenance})
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(data, type=EnergyReading)


def test_phases_are_named_once() -> None:
    assert len(set(PHASES)) == len(PHASES)
    assert {"idle", "train", "transmit"} <= set(PHASES)
