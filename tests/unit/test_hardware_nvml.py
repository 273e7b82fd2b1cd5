"""NVML against a library of the tests: exact differences, no sum unasked, and the C interface as documented.

Functions, units and return codes: NVIDIA, NVML API Reference (nvmlDeviceGetTotalEnergyConsumption, nvmlReturn_t).
"""

from __future__ import annotations

import ctypes
import itertools
import math
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardware.energy import EnergyReading
from hardware.errors import MeterError
from hardware.meters import nvml
from hardware.meters.nvml_library import CtypesLibrary, NvmlError


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Gpus:
    """GPUs with counters that a test sets; one that is an error says so."""

    def __init__(self, *counters_mj: int | NvmlError) -> None:
        self.counters_mj = list(counters_mj)

    def count(self) -> int:
        return len(self.counters_mj)

    def title(self, index: int) -> tuple[str, str]:
        return "NVIDIA H100 PCIe", f"GPU-{index:08x}"

    def energy_mj(self, index: int) -> int:
        counter = self.counters_mj[index]
        if isinstance(counter, NvmlError):
            raise counter
        return counter


def measured(gpus: Gpus, argument: str, *after_mj: int | NvmlError, duration_s: float = 1.0) -> EnergyReading:
    clock = Clock()
    meter = nvml.open_meter(argument, library=gpus, clock=clock)
    meter.start()
    gpus.counters_mj = list(after_mj)
    clock.now_s += duration_s
    return meter.read()


def test_one_gpu_in_millijoules() -> None:
    """Unit trap: 250 W for 2 s is 500 J, which the counter gives as 500,000."""
    reading = measured(Gpus(10**12), "", 10**12 + 500_000, duration_s=2.0)
    assert reading.energy_j == pytest.approx(500.0, rel=1e-12)
    assert (reading.provenance, reading.scope, reading.source) == ("measured", "gpu", "nvml:0 NVIDIA H100 PCIe")
    assert (reading.resolution_j, reading.samples) == (0.001, 2)
    assert reading.uncertainty_j == pytest.approx((1 - math.sqrt(0.05)) * 0.1 * 250.0)


def test_gpus_are_never_summed_unasked() -> None:
    gpus = Gpus(0, 0)
    reading = measured(gpus, "", 1000, 2000)
    assert reading.energy_j is None
    assert "2 GPUs and none is added" in reading.reason
    assert not nvml.find(library=gpus).available
    assert "GPU-00000001" in nvml.find(library=gpus).detail
    assert measured(Gpus(0, 0), "1", 1000, 2000).energy_j == pytest.approx(2.0)
    assert measured(Gpus(0, 0), "GPU-00000000", 1000, 2000).energy_j == pytest.approx(1.0)
    both = measured(Gpus(0, 0), "0+1", 1000, 2000)
    assert both.energy_j == pytest.approx(3.0)
    assert both.source == "nvml:0 NVIDIA H100 PCIe+1 NVIDIA H100 PCIe"


@pytest.mark.parametrize(("argument", "words"), [("2", "'2'; there are 0"), ("0+0", "counted twice"), ("0+", "''")])
def test_names_of_what_is_not_there(argument: str, words: str) -> None:
    with pytest.raises(MeterError) as caught:
        nvml.open_meter(argument, library=Gpus(0, 0))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("after", "duration_s", "words"),
    [
        (4_999, 1.0, "went back from 5000 to 4999 mJ: the driver was reloaded"),
        (5_000, 1.0, "did not move"),
        (5_000 + 3_301_000, 1.0, "above 3000 W"),
        (2**64 - 1, 1.0, "above 3000 W"),
        (6_000, 0.0, "no length"),
        (NvmlError("nvmlDeviceGetTotalEnergyConsumption returned 15: the GPU fell off the bus"), 1.0, "fell off"),
    ],
)
def test_counters_without_a_figure(after: int | NvmlError, duration_s: float, words: str) -> None:
    reading = measured(Gpus(5_000), "", after, duration_s=duration_s)
    assert reading.energy_j is None
    assert words in reading.reason


def test_a_gpu_that_vanishes_and_returns() -> None:
    gpus, clock = Gpus(1000), Clock()
    meter = nvml.open_meter("", library=gpus, clock=clock)
    meter.start()
    outcomes = []
    for counter in (NvmlError("gone"), 3000, 4000):
        gpus.counters_mj = [counter]
        clock.now_s += 1.0
        outcomes.append(meter.read().energy_j)
    assert outcomes == [None, None, pytest.approx(1.0)]
    meter.close()
    assert "closed" in meter.read().reason


def test_before_start() -> None:
    assert "before start" in nvml.open_meter("", library=Gpus(1)).read().reason


@given(st.lists(st.one_of(st.integers(0, 2**64 - 1), st.just(NvmlError("gone"))), min_size=2, max_size=5))
def test_whatever_the_counter_does(counters: list[int | NvmlError]) -> None:
    """Every window is the exact difference of its ends, or unavailable."""
    gpus, clock = Gpus(counters[0]), Clock()
    meter = nvml.open_meter("", library=gpus, clock=clock)
    meter.start()
    for before, after in itertools.pairwise(counters):
        gpus.counters_mj = [after]
        clock.now_s += 1.0
        reading = meter.read()
        if reading.energy_j is None:
            assert reading.reason
        else:
            assert isinstance(before, int)
            assert isinstance(after, int)
            assert 0 < reading.energy_j == pytest.approx((after - before) * 1e-3)


class SharedLibrary:
    """``libnvidia-ml.so.1`` as its reference describes it: results through pointers, a code returned."""

    def __init__(self, **codes: int) -> None:
        self.codes = codes
        self.calls: list[str] = []

    def __getattr__(self, function: str) -> object:
        if function not in BEHAVIOUR:
            raise AttributeError(function)

        def call(*arguments: object) -> int:
            self.calls.append(function)
            if function not in self.codes:
                BEHAVIOUR[function](*arguments)
            return self.codes.get(function, 0)

        return call


def put(value: int) -> object:
    def write(*arguments: object) -> None:
        arguments[-1]._obj.value = value

    return write


def put_text(text: bytes) -> object:
    def write(_device: object, room: ctypes.Array[ctypes.c_char], length: ctypes.c_uint) -> None:
        assert length.value == len(room)
        room.value = text

    return write


BEHAVIOUR = {
    "nvmlInit_v2": lambda: None,
    "nvmlDeviceGetCount_v2": put(1),
    "nvmlDeviceGetHandleByIndex_v2": put(0x7F00),
    "nvmlDeviceGetName": put_text(b"NVIDIA RTX A2000"),
    "nvmlDeviceGetUUID": put_text(b"GPU-5c0f"),
    "nvmlDeviceGetTotalEnergyConsumption": put(2**40 + 7),
}


def test_the_c_interface() -> None:
    shared = SharedLibrary()
    library = CtypesLibrary(load=lambda name: shared if name == "libnvidia-ml.so.1" else None)
    assert (library.count(), library.title(0), library.energy_mj(0)) == (1, ("NVIDIA RTX A2000", "GPU-5c0f"), 2**40 + 7)
    assert shared.calls[0] == "nvmlInit_v2"
    assert nvml.find(library=library).available


@pytest.mark.parametrize(
    ("function", "code", "words"),
    [
        ("nvmlInit_v2", 9, "the driver is not loaded"),
        ("nvmlInit_v2", 18, "different versions"),
        ("nvmlDeviceGetHandleByIndex_v2", 4, "no permission"),
        ("nvmlDeviceGetTotalEnergyConsumption", 3, "Volta or later"),
        ("nvmlDeviceGetTotalEnergyConsumption", 999, "returned 999"),
    ],
)
def test_return_codes_say_what_to_do(function: str, code: int, words: str) -> None:
    def opened() -> int:
        return CtypesLibrary(load=lambda _name: SharedLibrary(**{function: code})).energy_mj(0)

    with pytest.raises(NvmlError, match=words):
        opened()


def test_no_library_and_an_old_one() -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    with pytest.raises(NvmlError, match="needs an NVIDIA GPU and its driver"):
        CtypesLibrary(load=missing)
    with pytest.raises(NvmlError, match="has no nvmlInit_v2"):
        CtypesLibrary(load=lambda _name: object())


def test_another_root_has_no_gpu(tmp_path: Path) -> None:
    assert not nvml.find(tmp_path).available
    assert nvml.open_meter("0", tmp_path).read().energy_j is None


def test_nothing_is_loaded_before_it_is_asked() -> None:
    code = (
        "import sys, hardware.meters.nvml;print('libnvidia' in open('/proc/self/maps').read(), 'pynvml' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
