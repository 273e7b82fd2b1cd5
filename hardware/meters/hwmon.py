"""Power monitor chips under ``/sys/class/hwmon`` that measure one shunt each: what `ina2xx` and `ina238` share.

A chip is a directory ``hwmonN`` with ``name``, ``power1_input`` (microwatts), ``curr1_input`` (milliamperes, signed),
``in1_input`` (bus voltage, millivolts) and, where the shunt is outside the chip, ``shunt_resistor`` (micro-ohms). The
number N changes from boot to boot; the I2C device that ``hwmonN/device`` points to (``1-0040``: bus 1, address 0x40)
does not.

Two traps are closed here. The power register has no sign (a board that charges its battery reads as if it drew that
power), so the current is read with it and a negative one is no sample. And a machine that reads its own supply cannot
draw 0 W: the chip is not powered, not wired or not calibrated, so 0 is no sample either.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from hardware.errors import MeterError
from hardware.meters.attribute import LARGEST_POWER_W, entries, text, whole
from hardware.power import SampleError

HWMON = Path("sys/class/hwmon")
LABELS = ("label", "power1_label", "in1_label")


class Chip(msgspec.Struct, frozen=True, kw_only=True):
    """One power monitor.

    Attributes:
        kind: The driver's name for it, for example ``ina219``.
        place: Its I2C device, for example ``1-0040``; the hwmon directory's name where there is no link to it.
        label: What the device tree calls the rail; empty where it says nothing.
        folder: Its hwmon directory.
    """

    kind: str
    place: str
    label: str
    folder: Path

    @property
    def title(self) -> str:
        """The rail's name, or the chip's place."""
        return self.label or self.place


def chips(root: Path, kinds: tuple[str, ...], remedy: str) -> list[Chip]:
    """All chips of these kinds, in the order of hwmon directories.

    Raises:
        SampleError: There is none, or a directory cannot be read, with the remedy.
    """
    base = root / HWMON
    try:
        folders = [folder for folder in entries(base) if folder.name.startswith("hwmon")]
        named = [(text(folder / "name"), folder) for folder in folders]
    except SampleError as fault:
        raise SampleError(f"{fault}; {remedy}") from fault
    found = [
        Chip(kind=kind, place=_place(folder), label=_label(folder), folder=folder)
        for kind, folder in named
        if kind in kinds
    ]
    if not found:
        others = ", ".join(sorted({kind for kind, _ in named})) or "nothing"
        raise SampleError(f"no {'/'.join(kinds)} under {base} (found {others}): {remedy}")
    return found


def choose(found: list[Chip], argument: str, name: str, default_label: str = "") -> Chip:
    """The chip that the argument names by place, label or hwmon directory.

    Raises:
        MeterError: The argument names none, or several.
        SampleError: There is no argument, and which of several chips is meant cannot be known.
    """
    listing = ", ".join(sorted({chip.title for chip in found}))
    if argument:
        named = [chip for chip in found if argument in {chip.place, chip.label, chip.folder.name}]
        if len(named) != 1:
            count = "no" if not named else "more than one"
            raise MeterError(f"meter {name!r}: {count} chip is called {argument!r}; there are {listing}")
        return named[0]
    defaults = found if len(found) == 1 else [chip for chip in found if default_label and chip.label == default_label]
    if len(defaults) != 1:
        raise SampleError(
            f"{len(found)} chips and none is the whole: name one, for example {name}:{found[0].title}; "
            f"there are {listing}"
        )
    return defaults[0]


def shunt_uohm(chip: Chip) -> int:
    """The resistor that the driver calculates with, in micro-ohms.

    Raises:
        SampleError: The driver does not say, or says nonsense.
    """
    path = chip.folder / "shunt_resistor"
    try:
        value = whole(path, "micro-ohms")
    except SampleError as fault:
        raise SampleError(f"{fault}; without the shunt's resistance the watts of {chip.kind} mean nothing") from fault
    if value <= 0:
        raise SampleError(
            f"{path} is {value} µΩ: write the resistance printed on the module, for example "
            f"'echo 100000 | sudo tee {path}' for R100"
        )
    return value


class ChipSource:
    """Power behind one chip's shunt.

    Args:
        name: The meter's key.
        chip: The chip.
        scope: What its shunt feeds.
        resolution_w: One step of its power register; `None` where that is not known.
        interval_s: Its conversion time.
    """

    def __init__(self, name: str, chip: Chip, *, scope: str, resolution_w: float | None, interval_s: float) -> None:
        self.name = name
        self.source = f"{name}:{chip.title}"
        self.scope = scope
        self.resolution_w = resolution_w
        self.interval_s = interval_s
        self._chip = chip
        self._closed = False

    def power_w(self) -> float:
        """Power now.

        Raises:
            SampleError: The chip cannot be read, its current is negative, or it says 0 W or more than any board.
        """
        if self._closed:
            raise SampleError("the meter is closed")
        folder = self._chip.folder
        power_uw = whole(folder / "power1_input", "microwatts")
        current_ma = whole(folder / "curr1_input", "milliamperes")
        if current_ma < 0 or power_uw < 0:
            raise SampleError(
                f"{self.source} has {current_ma} mA and {power_uw} µW: the current flows backwards (a battery is being "
                "charged, or IN+ and IN- are swapped); the power register has no sign, so this is no consumption"
            )
        if power_uw == 0:
            raise SampleError(self._why_zero(current_ma))
        if power_uw > LARGEST_POWER_W * 1e6:
            raise SampleError(
                f"{folder / 'power1_input'} is {power_uw} µW, above {LARGEST_POWER_W:.0f} W: check shunt_resistor"
            )
        return power_uw * 1e-6

    def close(self) -> None:
        """End sampling."""
        self._closed = True

    def _why_zero(self, current_ma: int) -> str:
        try:
            bus = f"{whole(self._chip.folder / 'in1_input', 'millivolts')} mV"
        except SampleError:
            bus = "an unreadable voltage"
        step = f"one step of {self.resolution_w:.3g} W" if self.resolution_w else "its smallest step"
        return (
            f"{self.source} says 0 W at {bus} and {current_ma} mA, but a running machine draws power: the supply does "
            f"not go through its shunt, VBUS is not wired, shunt_resistor is wrong, or the power is below {step}"
        )


def _place(folder: Path) -> str:
    device = folder / "device"
    try:
        return device.resolve(strict=True).name if device.is_symlink() else folder.name
    except (OSError, RuntimeError):
        return folder.name


def _label(folder: Path) -> str:
    for name in LABELS:
        try:
            label = text(folder / name)
        except SampleError:
            continue
        if label:
            return label
    return ""
