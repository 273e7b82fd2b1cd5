"""INA238 (and INA237) on I2C: the input of a Jetson Thor, rail ``VIN``, module and carrier board together.

The kernel's ``ina238`` driver shows it in hwmon; see `hardware.meters.hwmon` for the files. ``power1_input`` is in
microwatts, beside INA3221 rails of the same board whose product is in nanowatts, and JetPack 4's in milliwatts.

One step of the power register is ``1e6 g / R`` µW, with R in µΩ and the gain g of 1 or 4 from the device tree, which
sysfs does not show: the coarser one is stated.

Source: Linux kernel, Documentation/hwmon/ina238.rst and drivers/hwmon/ina238.c; rail name: NVIDIA developer forum
366461 and jetson_stats pull request 900.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hardware.finding import Finding
from hardware.meters.absent import AbsentSource
from hardware.meters.attribute import update_interval_s
from hardware.meters.hwmon import Chip, ChipSource, chips, choose, shunt_uohm
from hardware.power import PowerSource, SampleError

if TYPE_CHECKING:
    from pathlib import Path

NAME = "ina238"
KINDS = ("ina237", "ina238")
TOTAL = "VIN"
INTERVAL_S = 0.0505
"""Three conversions (shunt, bus, temperature) of 1,052 µs, 16 times averaged: the driver's setting."""

REMEDY = (
    "a Jetson Thor has one; elsewhere wire one into the supply and bind the driver, for this boot "
    "'echo ina238 0x40 | sudo tee /sys/bus/i2c/devices/i2c-1/new_device'"
)


def find(root: Path) -> Finding:
    """Whether the input rail, or the only chip, gives watts now."""
    try:
        chip = choose(chips(root, KINDS, REMEDY), "", NAME, TOTAL)
        _source(chip).power_w()
    except SampleError as fault:
        return Finding(meter=NAME, available=False, detail=str(fault))
    return Finding(meter=NAME, available=True, detail=f"{chip.kind} at {chip.place}, rail {chip.label or 'unnamed'}")


def open_source(argument: str, root: Path) -> PowerSource:
    """The chip's power.

    Args:
        argument: Label (``VIN``), I2C device or hwmon directory; empty for ``VIN`` or the only chip there is.
        root: Where ``sys/`` lies.

    Raises:
        MeterError: There are chips, but none of that name.
    """
    try:
        return _source(choose(chips(root, KINDS, REMEDY), argument, NAME, TOTAL))
    except SampleError as fault:
        return AbsentSource(NAME, str(fault))


def _source(chip: Chip) -> ChipSource:
    return ChipSource(
        NAME,
        chip,
        scope="board" if chip.label == TOTAL else chip.label or "shunt",
        resolution_w=4.0 / shunt_uohm(chip),
        interval_s=update_interval_s(chip.folder, INTERVAL_S),
    )
