"""Rails of INA3221 chips: each chip measures three supplies, each with a name from the device tree.

Two drivers show them. Linux' own and JetPack 5 and 6 have hwmon, ``<i2c device>/hwmon/hwmon*/`` with ``in{n}_label``,
``in{n}_input`` (mV) and ``curr{n}_input`` (mA, signed) for n = 1, 2, 3; in4 to in6 are shunt voltages and in7 their
sum, no rails. JetPack 4 has iio, ``<i2c device>/iio:device*/`` with ``rail_name_{n}`` and ``in_power{n}_input``
(milliwatts) for n = 0, 1, 2. A channel named ``NC`` is not connected.

Sources: Linux kernel, Documentation/hwmon/ina3221.rst and drivers/hwmon/ina3221.c; for JetPack 4 energymon,
jetson/ina3221x.c, and jetson_stats, issue 131.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import msgspec

from hardware.meters.attribute import LARGEST_POWER_W, entries, present, text, update_interval_s, whole
from hardware.power import SampleError

DRIVERS = (Path("sys/bus/i2c/drivers/ina3221x"), Path("sys/bus/i2c/drivers/ina3221"))
NOT_CONNECTED = "NC"
SHUNT_STEP_V = 40e-6
IIO_INTERVAL_S = 0.1
"""Assumed: the JetPack 4 driver does not state its conversion time."""
HWMON_INTERVAL_S = 0.0066
"""Three channels, two conversions of 1.1 ms each, no averaging: the kernel driver's setting."""


class Rail(Protocol):
    """One supply: what it is called, where it is, and its power."""

    @property
    def label(self) -> str:
        """Name from the device tree, or the place where it has none."""

    @property
    def place(self) -> str:
        """I2C device and channel, for example ``1-0040/in1``."""

    @property
    def interval_s(self) -> float:
        """Conversion time of its chip."""

    def power_w(self) -> float:
        """Power now; 0 W is below one step.

        Raises:
            SampleError: There is no figure.
        """

    def step_w(self) -> float | None:
        """One step of the power at the present voltage, `None` where the driver does not tell the shunt."""


class HwmonRail(msgspec.Struct, frozen=True, kw_only=True):
    """A rail of the hwmon driver: mV × mA."""

    label: str
    place: str
    folder: Path
    channel: int
    interval_s: float

    def power_w(self) -> float:
        """Power now: ``in{n}_input · curr{n}_input`` · 1e-6 W."""
        voltage_mv = self._voltage_mv()
        current_ma = whole(self.folder / f"curr{self.channel}_input", "milliamperes")
        return _plausible(voltage_mv * current_ma * 1e-6, f"rail {self.label} has {voltage_mv} mV and {current_ma} mA")

    def step_w(self) -> float | None:
        """40 µV over the shunt, times the voltage."""
        try:
            shunt_uohm = whole(self.folder / f"shunt{self.channel}_resistor", "micro-ohms")
            voltage_mv = self._voltage_mv()
        except SampleError:
            return None
        return voltage_mv * 1e-3 * SHUNT_STEP_V / (shunt_uohm * 1e-6) if shunt_uohm > 0 else None

    def _voltage_mv(self) -> int:
        path = self.folder / f"in{self.channel}_input"
        voltage_mv = whole(path, "millivolts")
        if voltage_mv <= 0:
            raise SampleError(f"{path} is {voltage_mv} mV: rail {self.label} is off or its sensor is not powered")
        return voltage_mv


class IioRail(msgspec.Struct, frozen=True, kw_only=True):
    """A rail of JetPack 4's driver: milliwatts."""

    label: str
    place: str
    folder: Path
    channel: int
    interval_s: float = IIO_INTERVAL_S

    def power_w(self) -> float:
        """Power now: ``in_power{n}_input`` · 1e-3 W."""
        power_mw = whole(self.folder / f"in_power{self.channel}_input", "milliwatts")
        return _plausible(power_mw * 1e-3, f"rail {self.label} has {power_mw} mW")

    def step_w(self) -> float | None:
        """Not known: the driver does not show the shunt."""
        return None


def rails(root: Path) -> list[Rail]:
    """Every connected rail of every chip, in the order of I2C devices and channels.

    Raises:
        SampleError: No driver is bound, a directory cannot be read, or no channel is connected.
    """
    bases = [root / driver for driver in DRIVERS if present(root / driver)]
    if not bases:
        raise SampleError(
            f"no {root / DRIVERS[1]}: needs a Jetson with INA3221 sensors (a Nano 2GB has none) and the driver, "
            "'sudo modprobe ina3221'; for one of your own on a Raspberry Pi also "
            "'echo ina3221 0x40 | sudo tee /sys/bus/i2c/devices/i2c-1/new_device'"
        )
    found: list[Rail] = []
    for device in (entry for base in bases for entry in entries(base) if _is_i2c_device(entry)):
        for entry in entries(device):
            if entry.name.startswith("iio:device"):
                found += _iio_rails(device.name, entry)
            elif entry.name == "hwmon":
                for folder in entries(entry):
                    found += _hwmon_rails(device.name, folder)
    if not found:
        raise SampleError(
            f"the driver is there but no rail under {bases[0]}: is a chip bound to it ('dmesg | grep ina')?"
        )
    return found


def _is_i2c_device(entry: Path) -> bool:
    bus, dash, address = entry.name.partition("-")
    return bool(dash) and bus.isdigit() and len(address) == 4


def _hwmon_rails(device: str, folder: Path) -> list[Rail]:
    there = {entry.name for entry in entries(folder)}
    interval_s = update_interval_s(folder, HWMON_INTERVAL_S)
    found: list[Rail] = []
    for channel in (1, 2, 3):
        named = f"in{channel}_label" in there
        if not named and f"in{channel}_input" not in there:
            continue
        place = f"{device}/in{channel}"
        label = (text(folder / f"in{channel}_label") if named else "") or place
        if label.upper() != NOT_CONNECTED:
            found.append(HwmonRail(label=label, place=place, folder=folder, channel=channel, interval_s=interval_s))
    return found


def _iio_rails(device: str, folder: Path) -> list[Rail]:
    there = {entry.name for entry in entries(folder)}
    found: list[Rail] = []
    for channel in (0, 1, 2):
        if f"rail_name_{channel}" not in there:
            continue
        place = f"{device}/{channel}"
        label = text(folder / f"rail_name_{channel}") or place
        if label.upper() != NOT_CONNECTED:
            found.append(IioRail(label=label, place=place, folder=folder, channel=channel))
    return found


def _plausible(power_w: float, what: str) -> float:
    if power_w < 0:
        raise SampleError(f"{what}: a current that flows backwards is no consumption (is the shunt mounted reversed?)")
    if power_w > LARGEST_POWER_W:
        raise SampleError(f"{what}, above {LARGEST_POWER_W:.0f} W: no board draws that, check the shunt resistor")
    return power_w
