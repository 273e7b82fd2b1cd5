"""Meters that sit on boards, against recorded trees: the right watts, else a reason with its remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from hardware.errors import MeterError
from hardware.meters import ina2xx, ina238, ina3221, pmic
from hardware.power import PowerSource, SampleError
from tests import meter_trees as trees


def sample(source: PowerSource) -> float:
    try:
        return source.power_w()
    finally:
        source.close()


def reason(source: PowerSource) -> str:
    with pytest.raises(SampleError) as caught:
        source.power_w()
    assert str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("module", "tree", "argument", "power_w", "scope", "source"),
    [
        (ina2xx, trees.INA219, "", 3.118, "shunt", "ina2xx:1-0040"),
        (ina2xx, trees.INA226, "", 3.05, "shunt", "ina2xx:1-0041"),
        (ina2xx, trees.INA260, "", 2.49, "shunt", "ina2xx:1-0045"),
        (ina2xx, trees.INA219 | trees.INA260, "1-0045", 2.49, "shunt", "ina2xx:1-0045"),
        (ina2xx, trees.INA219 | trees.INA260, "hwmon2", 3.118, "shunt", "ina2xx:1-0040"),
        (ina238, trees.INA238, "", 19.5552, "shunt", "ina238:57-0040"),
        (ina238, trees.THOR, "", 41.994, "board", "ina238:VIN"),
        (ina238, trees.THOR | trees.INA238, "", 41.994, "board", "ina238:VIN"),
        (ina3221, trees.ORIN_NANO, "", 4.920 * 0.440, "module", "ina3221:VDD_IN"),
        (ina3221, trees.ORIN_NANO, "VDD_CPU_GPU_CV", 4.912 * 0.080, "rail VDD_CPU_GPU_CV", "ina3221:VDD_CPU_GPU_CV"),
        (ina3221, trees.ORIN_NANO, "1-0040/in3", 4.920 * 0.192, "rail VDD_SOC", "ina3221:VDD_SOC"),
        (ina3221, trees.AGX_ORIN, "VDD_CPU_CV", 19.984 * 0.040, "rail VDD_CPU_CV", "ina3221:VDD_CPU_CV"),
        (ina3221, trees.NANO, "", 2.447, "module", "ina3221:POM_5V_IN"),
        (ina3221, trees.AGX_XAVIER, "GPU+CPU", 1.837, "rail GPU+CPU", "ina3221:GPU+CPU"),
    ],
)  # fmt: skip
def test_the_right_watts(
    *, module: object, tree: dict[str, str], argument: str, power_w: float, scope: str, source: str, tmp_path: Path
) -> None:
    """Units: power1_input is µW, mV × mA are µW, in_power_input is mW."""
    opened = module.open_source(argument, trees.write(tree, tmp_path))
    assert (opened.name, opened.scope, opened.source) == (source.partition(":")[0], scope, source)
    assert sample(opened) == pytest.approx(power_w, rel=1e-9)
    assert "closed" in reason(opened)


@pytest.mark.parametrize(
    ("module", "tree", "resolution_w", "interval_s"),
    [
        (ina2xx, trees.INA219, 0.002, 0.0681),
        (ina2xx, trees.INA226, 0.00625, 0.035),
        (ina2xx, trees.INA260, 0.01, 0.0352),
        (ina238, trees.INA238, 0.0004, 0.0505),
        (ina3221, trees.ORIN_NANO, 4.920 * 0.008, 0.007),
        (ina3221, trees.NANO, None, 0.1),
    ],
)
def test_steps_and_intervals(
    module: object, tree: dict[str, str], resolution_w: float | None, interval_s: float, tmp_path: Path
) -> None:
    """The steps of the driver's registers; JetPack 4's does not tell its shunt."""
    opened = module.open_source("", trees.write(tree, tmp_path))
    assert opened.resolution_w == (None if resolution_w is None else pytest.approx(resolution_w))
    assert opened.interval_s == pytest.approx(interval_s)


@pytest.mark.parametrize(
    ("module", "tree", "words"),
    [
        (ina2xx, trees.INA219, ["ina219 at 1-0040", "100000 µΩ"]),
        (ina2xx, trees.INA226, ["the driver's default, check the module"]),
        (ina2xx, trees.INA260, ["shunt inside"]),
        (ina238, trees.THOR, ["VIN"]),
        (ina3221, trees.ORIN_NANO, ["VDD_IN", "VDD_CPU_GPU_CV, VDD_SOC"]),
        (ina3221, trees.NANO, ["POM_5V_IN"]),
    ],
)
def test_found(module: object, tree: dict[str, str], words: list[str], tmp_path: Path) -> None:
    finding = module.find(trees.write(tree, tmp_path))
    assert finding.available
    assert finding.meter == module.NAME
    assert all(word in finding.detail for word in words)
    assert "NC" not in finding.detail
    assert "sum of shunt" not in finding.detail


@pytest.mark.parametrize(
    ("module", "tree", "words"),
    [
        (ina2xx, {}, ["new_device", "dtoverlay", "dtparam=i2c_arm=on"]),
        (ina2xx, trees.OTHERS, ["found cpu_thermal, rpi_volt", "new_device"]),
        (ina2xx, trees.INA219 | trees.INA260, ["2 chips", "1-0040, 1-0045"]),
        (ina2xx, trees.INA219_BACKWARDS, ["-40 mA", "backwards"]),
        (ina238, {}, ["Thor"]),
        (ina3221, {}, ["modprobe ina3221"]),
        (ina3221, trees.AGX_ORIN, ["no total rail", "VDD_GPU_SOC, VDD_CPU_CV, VIN_SYS_5V0, VDDQ_VDD2_1V8AO"]),
        (ina3221, trees.AGX_XAVIER, ["no total rail", "ina3221:GPU+CPU"]),
        (pmic, {}, ["raspi-utils", "Raspberry Pi 5"]),
        (pmic, {"proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\0"}, ["this is Raspberry Pi 4 Model B"]),
    ],
)
def test_not_there_says_why_and_what_to_do(
    module: object, tree: dict[str, str], words: list[str], tmp_path: Path
) -> None:
    finding = module.find(trees.write(tree, tmp_path))
    assert not finding.available
    assert all(word in finding.detail for word in words), finding.detail
    assert reason(module.open_source("", tmp_path)) == finding.detail


@pytest.mark.parametrize(
    ("module", "tree", "argument", "words"),
    [
        (ina2xx, trees.INA219, "1-0041", "'1-0041'; there are 1-0040"),
        (ina238, trees.THOR, "VOUT", "'VOUT'; there are VIN"),
        (ina3221, trees.AGX_ORIN, "VDD_IN", "'VDD_IN'; there are VDD_GPU_SOC"),
        (ina3221, trees.AGX_ORIN, "NC", "'NC'; there are"),
        (ina3221, trees.AGX_ORIN, "sum of shunt voltages", "there are"),
        (ina3221, trees.AGX_ORIN, "VDD_CPU_CV+VDD_CPU_CV", "counted twice"),
        (ina3221, trees.AGX_ORIN, "VDD_CPU_CV+1-0040/in2", "counted twice"),
        (ina3221, trees.ORIN_NANO, "VDD_IN+VDD_SOC", "VDD_SOC is part of VDD_IN"),
        (pmic, {}, "VDD_CORE", "nothing after a colon"),
    ],
)
def test_names_of_what_is_not_there(
    module: object, tree: dict[str, str], argument: str, words: str, tmp_path: Path
) -> None:
    with pytest.raises(MeterError) as caught:
        module.open_source(argument, trees.write(tree, tmp_path))
    assert words in str(caught.value)


HWMON2 = Path(trees.HWMON) / "hwmon2"
ORIN = Path(trees.I2C) / "ina3221/1-0040/hwmon/hwmon1"
NANO = Path(trees.I2C) / "ina3221x/6-0040/iio:device0"


@pytest.mark.parametrize(
    ("module", "tree", "file", "content", "words"),
    [
        (ina2xx, trees.INA219, HWMON2 / "power1_input", b"0\n", "5096 mV"),
        (ina2xx, trees.INA219, HWMON2 / "power1_input", b"", "holds ''"),
        (ina2xx, trees.INA219, HWMON2 / "power1_input", b"nan\n", "'nan'"),
        (ina2xx, trees.INA219, HWMON2 / "power1_input", b"3.118\n", "whole number of microwatts"),
        (ina2xx, trees.INA219, HWMON2 / "power1_input", b"9" * 18, "above 1000 W"),
        (ina2xx, trees.INA219, HWMON2 / "power1_input", b"9" * 40, "expected a whole number"),
        (ina2xx, trees.INA219, HWMON2 / "curr1_input", b"-612\n", "backwards"),
        (ina2xx, trees.INA219, HWMON2 / "curr1_input", None, "curr1_input"),
        (ina3221, trees.ORIN_NANO, ORIN / "curr1_input", None, "curr1_input"),
        (ina3221, trees.ORIN_NANO, ORIN / "curr1_input", b"0\n", "says 0 W: off, below one step of 0.0394 W"),
        (ina3221, trees.ORIN_NANO, ORIN / "curr1_input", b"-8\n", "backwards"),
        (ina3221, trees.ORIN_NANO, ORIN / "in1_input", b"0\n", "off or its sensor is not powered"),
        (ina3221, trees.NANO, NANO / "in_power0_input", b"0\n", "0 W"),
        (ina3221, trees.NANO, NANO / "in_power0_input", b"2447 mW\n", "'2447 mW'"),
    ],
)
def test_a_rail_that_goes_wrong_in_mid_run(
    *, module: object, tree: dict[str, str], file: Path, content: bytes | None, words: str, tmp_path: Path
) -> None:
    """No sample while it is wrong, and the right one again when it is back."""
    opened = module.open_source("", trees.write(tree, tmp_path))
    before_w = opened.power_w()
    trees.damage(tmp_path / file, content)
    assert words in reason(opened)
    trees.damage(tmp_path / file, tree[str(file)].encode())
    assert opened.power_w() == before_w


def test_no_shunt_resistor(tmp_path: Path) -> None:
    trees.write(trees.INA219, tmp_path)
    path = tmp_path / HWMON2 / "shunt_resistor"
    trees.damage(path, b"0\n")
    assert f"echo 100000 | sudo tee {path}" in ina2xx.find(tmp_path).detail
    trees.damage(path, None)
    assert "mean nothing" in reason(ina2xx.open_source("", tmp_path))


@pytest.mark.parametrize(
    ("module", "tree", "file"),
    [
        (ina2xx, trees.INA219, HWMON2 / "power1_input"),
        (ina2xx, trees.INA219, HWMON2 / "name"),
        (ina2xx, trees.INA219, Path(trees.HWMON)),
        (ina3221, trees.ORIN_NANO, ORIN / "in1_label"),
        (ina3221, trees.ORIN_NANO, ORIN),
        (ina3221, trees.NANO, NANO / "in_power0_input"),
    ],
)
def test_permission_denied_says_the_remedy(module: object, tree: dict[str, str], file: Path, tmp_path: Path) -> None:
    trees.write(tree, tmp_path)
    with trees.denied(tmp_path / file):
        finding = module.find(tmp_path)
        assert not finding.available
        assert f"sudo chmod a+r {tmp_path / file}" in finding.detail
        assert "udev" in finding.detail
        assert "no permission" in reason(module.open_source("", tmp_path))


def test_the_same_label_twice_is_ambiguous(tmp_path: Path) -> None:
    second = trees.ina3221_hwmon("1-0041", 2, {1: ("VDD_IN", 4920, 8, 5000)})
    trees.write(trees.ORIN_NANO | second, tmp_path)
    assert "more than one total rail" in ina3221.find(tmp_path).detail
    with pytest.raises(MeterError, match="more than one rail"):
        ina3221.open_source("VDD_IN", tmp_path)
    assert sample(ina3221.open_source("1-0041/in1", tmp_path)) == pytest.approx(4.920 * 0.008)


def test_no_chip_at_all_is_the_machine_s_fault_not_the_study_s(tmp_path: Path) -> None:
    assert "modprobe" in reason(ina3221.open_source("VDD_CPU_CV", tmp_path))
