"""The energy model by hand, and the files of constants."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardware.energy_model import DEFAULT_PROFILE, EnergyModel, profiles
from hardware.errors import MeterError
from hardware.profile import JOULES_PER, OPERATIONS, prices_j
from hardware.profile_files import decode_profile

NOTHING = {"macs": 0, "acs": 0, "membrane_updates": 0, "backward_macs": 0, "memory_bytes": 0}
COUNT = st.integers(0, 2**40)


def profile_toml(operations: str = "", constant: str = "", absent: str = "") -> bytes:
    """A small profile; the defaults price everything at 1 pJ."""
    constant = constant or 'name="one"\nvalue=1.0\nunit="pJ"\nnode="x"\nsource="y"\n'
    operations = operations or "".join(f"{name}={{one=1}}\n" for name in OPERATIONS)
    text = (
        f'name="p"\ntitle="t"\nradio="wifi-pi1"\n[[constants]]\n{constant}[operations]\n{operations}[absent]\n{absent}'
    )
    return text.encode()


def test_default_profile_by_hand() -> None:
    """An FC 784-256-10 step, T = 10, in picojoules: 3.7 + 0.9 a MAC, 0.9 an AC, 100/8 a byte."""
    reading = EnergyModel.load().compute(
        macs=200_704, acs=12_000, membrane_updates=2_660, backward_macs=4_000_000, memory_bytes=814_120, duration_s=0.25
    )
    by_hand_pj = 200_704 * 4.6 + 12_000 * 0.9 + 2_660 * 4.6 + 4_000_000 * 4.6 + 814_120 * 12.5
    assert by_hand_pj == pytest.approx(29_522_774.4)
    assert reading.energy_j == pytest.approx(2.95227744e-05, rel=1e-12)
    assert reading.duration_s == 0.25
    assert (reading.provenance, reading.scope, reading.source) == ("modelled", "operations", "model:horowitz-45nm")
    assert reading.resolution_j is None
    assert reading.samples == 0


@pytest.mark.parametrize(
    ("profile", "count", "picojoules"),
    [
        ("horowitz-45nm", "macs", 4.6),
        ("horowitz-45nm", "acs", 0.9),
        ("horowitz-45nm", "membrane_updates", 4.6),
        ("horowitz-45nm", "backward_macs", 4.6),
        ("horowitz-45nm", "memory_bytes", 12.5),
        ("horowitz-45nm-int8", "macs", 0.3),
        ("horowitz-45nm-int8", "acs", 0.1),
        ("horowitz-45nm-int8", "membrane_updates", 3.2),
        ("horowitz-45nm-int8", "backward_macs", 4.6),
        ("cortex-a", "macs", 900.0),
        ("cortex-a", "acs", 900.0),
        ("cortex-a", "backward_macs", 900.0),
        ("loihi1", "acs", 23.6),
        ("loihi1", "membrane_updates", 81.0),
    ],
)
def test_price_of_one_operation(profile: str, count: str, picojoules: float) -> None:
    reading = EnergyModel.load(profile).compute(**{**NOTHING, count: 1}, duration_s=0.0)
    assert reading.energy_j == pytest.approx(picojoules * 1e-12, rel=1e-12)


def test_spikes_cost_less_than_a_dense_layer_on_the_default_only() -> None:
    """Why a profile matters: an AC saves 80 % against a MAC at 45 nm, and nothing on a whole processor."""
    assert EnergyModel.load().prices_j["ac"] < 0.2 * EnergyModel.load().prices_j["mac"]
    assert EnergyModel.load("cortex-a").prices_j["ac"] == EnergyModel.load("cortex-a").prices_j["mac"]


def test_loihi_says_that_it_does_not_train() -> None:
    model = EnergyModel.load("loihi1")
    reading = model.compute(**{**NOTHING, "acs": 1000, "backward_macs": 1}, duration_s=1.0)
    assert reading.provenance == "unavailable"
    assert "backward_mac" in reading.reason
    assert "surrogate-gradient" in reading.reason
    assert set(model.absent) == {"mac", "backward_mac"}


@pytest.mark.parametrize("profile", profiles())
def test_nothing_counted_is_no_zero(profile: str) -> None:
    reading = EnergyModel.load(profile).compute(**NOTHING, duration_s=1.0)
    assert reading.provenance == "unavailable"
    assert reading.reason


@given(counts=st.fixed_dictionaries(dict.fromkeys(NOTHING, COUNT)), factor=st.integers(1, 1000))
def test_energy_is_linear_in_the_counts(counts: dict[str, int], factor: int) -> None:
    model = EnergyModel.load()
    one = model.compute(**counts, duration_s=1.0).energy_j
    many = model.compute(**{name: factor * count for name, count in counts.items()}, duration_s=9.0).energy_j
    assert (one is None) == (not any(counts.values()))
    if one is not None:
        assert one > 0
        assert many == pytest.approx(factor * one, rel=1e-9)


@pytest.mark.parametrize("bad", [-1, 1.0, 1.5, float("nan"), None, "1", True, 2**63, np.float64(3)])
def test_counts_are_whole_and_not_negative(bad: object) -> None:
    for name in NOTHING:
        with pytest.raises(MeterError, match="whole number"):
            EnergyModel.load().compute(**{**NOTHING, name: bad}, duration_s=1.0)  # type: ignore[arg-type]
    with pytest.raises(MeterError, match="whole number"):
        EnergyModel.load().radio(bad, 1.0)  # type: ignore[arg-type]


def test_numpy_counts_do_not_overflow() -> None:
    reading = EnergyModel.load().compute(**{**NOTHING, "macs": np.int32(2**31 - 1), "acs": np.int64(5)}, duration_s=1.0)  # type: ignore[arg-type]
    assert reading.energy_j == pytest.approx((2**31 - 1) * 4.6e-12 + 5 * 0.9e-12, rel=1e-12)


def test_radio_by_hand() -> None:
    """1.25 MB in 2 s are 5 Mbit/s: (0.064 + 0.004813 · 5) W for 2 s."""
    reading = EnergyModel.load().radio(1_250_000, 2.0)
    assert reading.energy_j == pytest.approx(2 * (0.064 + 0.024065), rel=1e-12)
    assert (reading.provenance, reading.scope, reading.source) == ("modelled", "radio", "model:wifi-pi1")


def test_radio_counts_bits_of_bytes_and_decimal_megabits() -> None:
    """Unit traps: bytes for bits is a factor of 8, 2²⁰ for 10⁶ one of 1.05. At a great rate 38.504 nJ/B are left."""
    reading = EnergyModel.load().radio(1_000_000, 1e-6)
    assert reading.energy_j == pytest.approx(0.038504, rel=1e-5)


@given(payload_bytes=st.integers(1, 10**9), fast_s=st.floats(1e-3, 1e3), factor=st.floats(1.01, 100))
def test_slower_sending_of_the_same_bytes_costs_more(payload_bytes: int, fast_s: float, factor: float) -> None:
    model = EnergyModel.load()
    fast, slow = model.radio(payload_bytes, fast_s).energy_j, model.radio(payload_bytes, fast_s * factor).energy_j
    assert fast is not None
    assert slow is not None
    assert 0 < fast < slow


def test_radio_without_bytes_or_time() -> None:
    model = EnergyModel.load()
    assert "nothing was sent" in model.radio(0, 1.0).reason
    assert "rate is unknown" in model.radio(10, 0.0).reason
    for duration_s in (-1.0, float("nan"), float("inf")):
        with pytest.raises(MeterError, match="duration_s"):
            model.radio(10, duration_s)


def test_there_are_profiles_and_the_default_is_one() -> None:
    assert DEFAULT_PROFILE in profiles()
    assert len(profiles()) >= 3


@pytest.mark.parametrize("profile", profiles())
def test_every_constant_has_its_source(profile: str) -> None:
    model = EnergyModel.load(profile)
    assert model.name == profile
    assert model.constants
    for constant in model.constants:
        assert constant.unit
        assert constant.node
        assert any(year in constant.source for year in ("2014", "2015", "2018", "2019", "2024"))
        assert any(
            author in constant.source for author in ("Horowitz", "Degnan", "Davies", "Kaup", "Höppner", "Geerling")
        )
    assert len({constant.name for constant in model.constants}) == len(model.constants)
    assert any(constant.unit in JOULES_PER for constant in model.constants)
    has_radio = {"wifi_upload_offset", "wifi_upload_slope"} <= {constant.name for constant in model.constants}
    assert has_radio == (model.radio(10, 1.0).provenance == "modelled")
    assert set(model.prices_j) | set(model.absent) == set(OPERATIONS)
    assert not set(model.prices_j) & set(model.absent)
    assert all(model.absent.values())
    assert any(key.endswith("checked") and note for key, note in model.notes.items())


def test_published_values() -> None:
    """The figures once more, written down apart from the files."""
    published = {
        "fp32_add": (0.9, "pJ"),
        "fp32_multiply": (3.7, "pJ"),
        "int8_multiply": (0.2, "pJ"),
        "int32_add": (0.1, "pJ"),
        "int32_multiply": (3.1, "pJ"),
        "sram_1mb_access_64bit": (100.0, "pJ"),
        "cortex_a_mac": (0.9, "nJ"),
        "synaptic_operation": (23.6, "pJ"),
        "neuron_update_active": (81.0, "pJ"),
        "spinnaker2_synaptic_operation": (450.0, "pJ"),
        "spinnaker2_neuron_update": (2.19, "nJ"),
        "bcm2711_linpack_flop": (round(7.2 / 11.889, 4), "nJ"),
        "bcm2712_linpack_flop": (round(11.0 / 30.249, 4), "nJ"),
        "wifi_upload_offset": (0.064, "W"),
        "wifi_upload_slope": (0.004813, "W/(Mbit/s)"),
    }
    found = {c.name: (c.value, c.unit) for profile in profiles() for c in EnergyModel.load(profile).constants}
    assert found == published


@pytest.mark.parametrize("name", ["horowitz-45mn", "../wifi-pi1", "", "horowitz-45nm.toml", "Loihi1"])
def test_unknown_profiles_name_the_known_ones(name: str) -> None:
    with pytest.raises(MeterError, match="nown: cortex-a, horowitz-45nm"):
        EnergyModel.load(name)


def test_a_near_miss_is_named() -> None:
    with pytest.raises(MeterError, match="did you mean 'horowitz-45nm'"):
        EnergyModel.load("horowitz-45mn")


def test_small_profile_is_read() -> None:
    assert prices_j(decode_profile(profile_toml(), "p")) == dict.fromkeys(OPERATIONS, 1e-12)


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"\xff", "p"),
        (b"name =", "p"),
        (profile_toml() + b"\n[extra]\n", "extra"),
        (profile_toml(constant='name="one"\nvalue=1.0\nunit="pJ"\nnode="x"\n'), "source"),
        (profile_toml(constant='name="one"\nvalue=1.0\nunit="pJ"\nnode="x"\nsource=" "\n'), "must not be empty"),
        (profile_toml(constant='name="one"\nvalue=0.0\nunit="pJ"\nnode="x"\nsource="y"\n'), "above 0"),
        (profile_toml(constant='name="one"\nvalue=inf\nunit="pJ"\nnode="x"\nsource="y"\n'), "above 0"),
        (profile_toml(constant='name="one"\nvalue=1.0\nunit="pj"\nnode="x"\nsource="y"\n'), "unit"),
        (profile_toml(constant='name="one"\nvalue=1.0\nunit="W"\nnode="x"\nsource="y"\n'), "expected an energy"),
        (profile_toml(operations="mac={one=1}\n"), "expected each of"),
        (profile_toml(absent='mac="?"\n'), "expected each of"),
        (profile_toml(operations="".join(f"{name}={{two=1}}\n" for name in OPERATIONS)), "two"),
        (profile_toml(operations="".join(f"{name}={{one=0}}\n" for name in OPERATIONS)), "above 0"),
        (profile_toml(operations="".join(f"{name}={{}}\n" for name in OPERATIONS)), "no operation takes"),
        (profile_toml().replace(b'name="p"', b'name="q"'), "calls itself"),
    ],
)
def test_files_that_do_not_follow_the_format(data: bytes, word: str) -> None:
    with pytest.raises(MeterError, match=word):
        prices_j(decode_profile(data, "p"))
