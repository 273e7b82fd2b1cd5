"""Bench instruments through fakes of their drivers: what is asked of the driver, and in which units it answers."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from hardware.energy import EnergyReading
from hardware.meter import open_meter
from hardware.meters import joulescope, otii, ppk2
from hardware.power import SampleError
from tests import bench_drivers
from tests.bench_drivers import Arc, JoulescopeDriver, OtiiClient

JS220 = "u/js220/000415"


class Clock:
    def __init__(self) -> None:
        self.now_s = 20.0

    def __call__(self) -> float:
        return self.now_s


def unavailable(reading: EnergyReading) -> str:
    assert (reading.provenance, reading.energy_j) == ("unavailable", None)
    return reading.reason


# --- Joulescope -----------------------------------------------------------------------------------------------------


def test_joulescope_windows_take_the_instruments_own_energy() -> None:
    """Power jumps between reports; the accumulated energy does not care."""
    clock, driver = Clock(), JoulescopeDriver(JS220)
    meter = joulescope.open_meter("", driver=driver, clock=clock)
    assert (meter.name, meter.source, meter.scope) == ("joulescope", "joulescope:000415", "board")
    assert driver.open_paths == [JS220]
    assert (f"{JS220}/s/stats/scnt", 50_000) in driver.published
    assert (f"{JS220}/s/stats/ctrl", 1) in driver.published
    meter.start()
    energy_j = 100.0
    for step in range(21):
        driver.report(2.0 + 2.0 * (step % 2), energy_j)
        if step == 0:
            meter.read()
        clock.now_s += 0.05
        energy_j += 3.0 * 0.05
    reading = meter.read()
    assert reading.energy_j == pytest.approx(3.0 * 21 * 0.05, rel=0.05)
    assert reading.uncertainty_j is not None
    assert abs(reading.energy_j - 3.0 * 21 * 0.05) <= reading.uncertainty_j < 0.3
    meter.close()
    assert (driver.open_paths, driver.subscribed, driver.finalized) == ([], {}, True)


def test_joulescope_that_is_pulled_out() -> None:
    clock, driver = Clock(), JoulescopeDriver(JS220)
    meter = joulescope.open_meter("", driver=driver, clock=clock)
    meter.start()
    driver.report(2.0, 1.0)
    clock.now_s += 2.5
    assert "still plugged in" in unavailable(meter.read())


@pytest.mark.parametrize(
    ("paths", "argument", "word"),
    [
        ((), "", "no Joulescope on USB: plug one in"),
        ((JS220, "u/js220/000999"), "", "2 Joulescopes on USB: name one, joulescope:SERIAL of 000415, 000999"),
        ((JS220,), "000111", "no Joulescope on USB with the serial 000111 (found: 000415)"),
    ],
)
def test_joulescope_that_is_not_there(paths: tuple[str, ...], argument: str, word: str) -> None:
    meter = joulescope.open_meter(argument, driver=JoulescopeDriver(*paths))
    meter.start()
    assert word in unavailable(meter.read())


def test_joulescope_in_use_and_found() -> None:
    driver = JoulescopeDriver(JS220)
    driver.open = None  # type: ignore[assignment, method-assign]
    meter = joulescope.open_meter("", driver=driver)
    meter.start()
    assert "pyjoulescope_driver: " in unavailable(meter.read())
    assert joulescope.find(driver=JoulescopeDriver(JS220)).available
    assert not joulescope.find(driver=JoulescopeDriver()).available


# --- PPK2 -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def kits() -> Iterator[SimpleNamespace]:
    ports = bench_drivers.PPK2_API.ports
    yield SimpleNamespace(PPK2_API=bench_drivers.PPK2_API)
    bench_drivers.PPK2_API.ports = ports


def test_ppk2_gives_the_mean_current_times_the_stated_voltage(kits: SimpleNamespace) -> None:
    source = ppk2.open_source("5000", driver=kits)
    kit = source._kit
    assert (kit.calls, kit.current_vdd) == (["modifiers", "ampere", "start"], 5000)
    kit.flow(100_000, 300_000)
    assert source.power_w() == pytest.approx(0.2 * 5.0)
    with pytest.raises(SampleError, match="no sample"):
        source.power_w()
    kit.pending = b"\x01"
    with pytest.raises(SampleError, match="no sample"):
        source.power_w()
    kit.pending = b"\x00\x00\x00"
    assert source.power_w() == pytest.approx(1e-6 * 5), "a sample cut in two is put together"
    source.close()
    assert kit.calls[-1] == "stop"


def test_ppk2_that_is_not_there(kits: SimpleNamespace) -> None:
    with pytest.raises(SampleError, match="dialout"):
        ppk2.open_source("/dev/ttyACM9,3300", driver=kits)
    assert ppk2.find(driver=kits).available
    bench_drivers.PPK2_API.ports = ("/dev/ttyACM0", "/dev/ttyACM1")
    with pytest.raises(SampleError, match="name one"):
        ppk2.open_source("3300", driver=kits)
    bench_drivers.PPK2_API.ports = ()
    with pytest.raises(SampleError, match="no PPK2 on USB"):
        ppk2.open_source("3300", driver=kits)
    assert "no PPK2" in ppk2.find(driver=kits).detail


# --- Otii -----------------------------------------------------------------------------------------------------------


def otii_with(*devices: Arc, fault: Exception | None = None) -> SimpleNamespace:
    return SimpleNamespace(OtiiClient=type("Client", (OtiiClient,), {"devices": devices, "fault": fault}))


def test_otii_gives_current_times_voltage() -> None:
    arc = Arc("Arc I", {"mc": 0.25, "mv": 4.0})
    source = otii.open_source("", driver=otii_with(arc))
    assert (source.source, source.power_w()) == ("otii:Arc I", 1.0)
    arc.values = {}
    with pytest.raises(SampleError, match="still connected"):
        source.power_w()
    source.close()
    assert not source._client.connected


def test_otii_that_is_not_there() -> None:
    two = otii_with(Arc("a", {}), Arc("b", {}))
    for driver, argument, word in (
        (two, "", "2 instruments on Otii: name one, otii:NAME of 'a', 'b'"),
        (two, "c", "no instrument 'c' on Otii"),
        (otii_with(), "", "found: none"),
        (otii_with(fault=ConnectionRefusedError(111, "Connection refused")), "", "start the Otii application"),
    ):
        with pytest.raises(SampleError, match=word):
            otii.open_source(argument, driver=driver)
    assert otii.open_source("b", driver=two).source == "otii:b"
    assert otii.find(driver=two).detail == "what is wired to a, b; ask for it by name"
    assert not otii.find(driver=otii_with()).available


# --- drivers --------------------------------------------------------------------------------------------------------

DRIVERS: dict[str, tuple[str, tuple[tuple[str, str, type, tuple[str, ...]], ...]]] = {
    "pyjoulescope_driver": (
        "joulescope",
        (
            (
                "pyjoulescope_driver",
                "Driver",
                JoulescopeDriver,
                ("device_paths", "open", "close", "publish", "subscribe", "unsubscribe", "finalize"),
            ),
        ),
    ),
    "ppk2-api": (
        "ppk2:5000",
        (
            (
                "ppk2_api.ppk2_api",
                "PPK2_API",
                bench_drivers.PPK2_API,
                (
                    *("list_devices", "get_modifiers", "use_ampere_meter", "set_source_voltage"),
                    *("start_measuring", "stop_measuring", "get_data", "get_samples"),
                ),
            ),
        ),
    ),
    "otii-tcp-client": (
        "otii",
        (
            ("otii_tcp_client.otii_client", "OtiiClient", OtiiClient, ("connect", "disconnect")),
            ("otii_tcp_client.otii", "Otii", OtiiClient, ("get_devices",)),
            ("otii_tcp_client.arc", "Arc", Arc, ("get_value",)),
        ),
    ),
}
"""Package → a specification that wants it, and where the fakes' methods come from."""


@pytest.mark.parametrize("package", DRIVERS)
def test_a_driver_is_like_its_fake_or_the_reading_names_the_command_that_installs_it(package: str) -> None:
    spec, classes = DRIVERS[package]
    if importlib.util.find_spec(classes[0][0].partition(".")[0]) is None:
        meter = open_meter(spec)
        meter.start()
        assert f"pip install {package}" in unavailable(meter.read())
        return
    for module, name, fake, methods in classes:
        real = getattr(importlib.import_module(module), name)
        for method in methods:
            ours, theirs = (inspect.signature(getattr(kind, method)).parameters for kind in (fake, real))
            assert set(ours) <= set(theirs), (package, method)
