"""INA219, INA226, INA260 and their kin on I2C: power meters for boards that have none (Raspberry Pi 4, 3, Zero 2 W).

The kernel's ``ina2xx`` driver shows each chip in hwmon; see `hardware.meters.hwmon` for the files and their units.
Its figures are as right as ``shunt_resistor``: the driver assumes 10,000 µΩ when nobody tells it, while most INA219
modules carry 100,000 µΩ (printed R100) and would then read ten times too high.

One step of the power register is ``k / (R d)`` amperes times volts: ``1e9 k / (R d)`` µW with R in µΩ, from
``shunt_div`` d and ``power_lsb_factor`` k in the driver; 10 mW for the INA260, whose 2 mΩ shunt is inside.

Source: Linux kernel, Documentation/hwmon/ina2xx.rst and drivers/hwmon/ina2xx.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from hardware.finding import Finding
from hardware.meters.absent import AbsentSource
from hardware.meters.attribute import update_interval_s
from hardware.meters.hwmon import Chip, ChipSource, chips, choose, shunt_uohm
from hardware.power import PowerSource, SampleError

if TYPE_CHECKING:
    from pathlib import Path

NAME = "ina2xx"
SCOPE = "shunt"
DRIVER_DEFAULT_UOHM = 10_000

REMEDY = (
    "wire an INA219/226/260 into the board's 5 V supply, switch I2C on ('dtparam=i2c_arm=on' in config.txt) and bind "
    "the driver: for this boot 'echo ina219 0x40 | sudo tee /sys/bus/i2c/devices/i2c-1/new_device', for good "
    "'dtoverlay=NAME' with an overlay of compatible \"ti,ina219\", reg and shunt-resistor (binding ti,ina2xx.yaml); "
    "then check its shunt_resistor"
)


class Kind(msgspec.Struct, frozen=True):
    """How a chip steps: d and k of the module's docstring, and its slowest conversion where it states none."""

    shunt_div: int
    power_factor: int
    interval_s: float
    own_shunt_uohm: int | None = None


KINDS: dict[str, Kind] = {
    "ina219": Kind(100, 20, 0.0681),
    "ina220": Kind(100, 20, 0.0681),
    "ina226": Kind(400, 25, 0.0352),
    "ina230": Kind(400, 25, 0.0352),
    "ina231": Kind(400, 25, 0.0352),
    "ina234": Kind(25, 32, 0.0352),
    "ina260": Kind(400, 8, 0.0352, own_shunt_uohm=2000),
}
"""Chips of the driver whose steps are known."""


def find(root: Path) -> Finding:
    """Whether a chip gives watts now, without being named."""
    try:
        chip = choose(chips(root, tuple(KINDS), REMEDY), "", NAME)
        _source(chip).power_w()
        detail = f"{chip.kind} at {chip.place}, {_shunt_note(chip)}"
    except SampleError as fault:
        return Finding(meter=NAME, available=False, detail=str(fault))
    return Finding(meter=NAME, available=True, detail=detail)


def open_source(argument: str, root: Path) -> PowerSource:
    """The chip's power.

    Args:
        argument: I2C device (``1-0040``), label or hwmon directory; empty for the only chip there is.
        root: Where ``sys/`` lies.

    Raises:
        MeterError: There are chips, but none of that name.
    """
    try:
        return _source(choose(chips(root, tuple(KINDS), REMEDY), argument, NAME))
    except SampleError as fault:
        return AbsentSource(NAME, str(fault))


def _source(chip: Chip) -> ChipSource:
    kind = KINDS[chip.kind]
    resistance_uohm = kind.own_shunt_uohm or shunt_uohm(chip)
    return ChipSource(
        NAME,
        chip,
        scope=chip.label or SCOPE,
        resolution_w=1e3 * kind.power_factor / (resistance_uohm * kind.shunt_div),
        interval_s=update_interval_s(chip.folder, kind.interval_s),
    )


def _shunt_note(chip: Chip) -> str:
    if KINDS[chip.kind].own_shunt_uohm:
        return "its own shunt inside"
    value = shunt_uohm(chip)
    doubt = ": the driver's default, check the module (R100 is 100000)" if value == DRIVER_DEFAULT_UOHM else ""
    return f"what its shunt of {value} µΩ feeds{doubt}"
