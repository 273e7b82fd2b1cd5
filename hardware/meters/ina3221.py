"""The rails that a Jetson measures itself, on its INA3221 chips (JetPack 4, 5 and 6).

Without an argument the total rail is read: ``VDD_IN`` (TX1, TX2, Xavier NX, Orin NX, Orin Nano) or ``POM_5V_IN``
(Nano), the input of the module, which contains its other rails. AGX Xavier and AGX Orin have no such rail, and what
people take for the whole of them differs, so nothing is added up unasked: the user names the rails, as in
``ina3221:VDD_GPU_SOC+VDD_CPU_CV+VIN_SYS_5V0``, and the source says so in every reading.

A current of 0 mA at a voltage is a rail below one step (40 µV over its shunt: 20 mA at the 2 mΩ of an Orin). It
counts as 0 in a sum that is above 0 W; a sample of exactly 0 W is none, for no module that runs this draws it.

See `hardware.meters.rails` for the files. Rails of each board: energymon, jetson/JetsonPowerRails.md; Linux kernel,
arch/arm64/boot/dts/nvidia/tegra234-p3701.dtsi (AGX Orin) and tegra234-p3767.dtsi (Orin NX and Nano).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hardware.errors import MeterError
from hardware.finding import Finding
from hardware.meters.absent import AbsentSource
from hardware.meters.rails import Rail, rails
from hardware.power import PowerSource, SampleError

if TYPE_CHECKING:
    from pathlib import Path

NAME = "ina3221"
TOTALS = ("VDD_IN", "POM_5V_IN")
BESIDE_TOTAL = frozenset({"VDD_MUX"})
"""Feeds a TX1's or TX2's carrier board, in parallel to the module's ``VDD_IN``."""


class RailSource:
    """Power of one rail, or of several that the user named together.

    Args:
        chosen: The rails, at least one.
    """

    name = NAME

    def __init__(self, chosen: list[Rail]) -> None:
        self._rails = chosen
        self._closed = False
        title = "+".join(rail.label for rail in chosen)
        self.source = f"{NAME}:{title}"
        self.scope = "module" if title in TOTALS else f"rail {title}"
        self.interval_s = max(rail.interval_s for rail in chosen)
        steps_w = [rail.step_w() for rail in chosen]
        self.resolution_w = None if None in steps_w else sum(step_w for step_w in steps_w if step_w is not None)

    def power_w(self) -> float:
        """Power of all chosen rails now.

        Raises:
            SampleError: One of them has no figure, or all of them together say 0 W.
        """
        if self._closed:
            raise SampleError("the meter is closed")
        total_w = sum(rail.power_w() for rail in self._rails)
        if total_w == 0.0:
            step = f"one step of {self.resolution_w:.3g} W" if self.resolution_w else "its smallest step"
            raise SampleError(f"{self.source} says 0 W: off, below {step}, or its sensor is not powered")
        return total_w

    def close(self) -> None:
        """End sampling."""
        self._closed = True


def find(root: Path) -> Finding:
    """Whether the total rail gives watts now; which rails there are where there is no total."""
    try:
        found = rails(root)
        source = RailSource([_total(found)])
        source.power_w()
    except SampleError as fault:
        return Finding(meter=NAME, available=False, detail=str(fault))
    others = ", ".join(rail.label for rail in found if rail.label not in TOTALS)
    return Finding(
        meter=NAME,
        available=True,
        detail=f"{source.source.partition(':')[2]}, the module's input"
        + (f"; by name also {others}" if others else ""),
    )


def open_source(argument: str, root: Path) -> PowerSource:
    """The power of the total rail, or of the rails named.

    Args:
        argument: Labels (or places, ``1-0040/in2``) joined by ``+``; empty for the total rail.
        root: Where ``sys/`` lies.

    Raises:
        MeterError: There are rails, but one of these is not among them, is named twice or is part of another.
    """
    try:
        found = rails(root)
        return RailSource(_named(found, argument) if argument else [_total(found)])
    except SampleError as fault:
        return AbsentSource(NAME, str(fault))


def _total(found: list[Rail]) -> Rail:
    totals = [rail for rail in found if rail.label in TOTALS]
    if len(totals) != 1:
        labels = [rail.label for rail in found]
        raise SampleError(
            f"{'no' if not totals else 'more than one'} total rail ({', '.join(TOTALS)}) among {', '.join(labels)}: "
            f"name what to measure, one or a sum, for example {NAME}:{'+'.join(labels[:2])}"
        )
    return totals[0]


def _named(found: list[Rail], argument: str) -> list[Rail]:
    chosen = [_rail(found, name.strip()) for name in argument.split("+")]
    places = {rail.place for rail in chosen}
    if len(places) != len(chosen):
        raise MeterError(f"meter {NAME!r}: {argument!r} names a rail twice, it would be counted twice")
    labels = {rail.label for rail in chosen}
    inside = labels - set(TOTALS) - BESIDE_TOTAL
    totals = labels & set(TOTALS)
    if totals and inside:
        raise MeterError(
            f"meter {NAME!r}: {', '.join(sorted(inside))} is part of {', '.join(sorted(totals))} and would be counted "
            "twice: name the total alone"
        )
    return chosen


def _rail(found: list[Rail], name: str) -> Rail:
    named = [rail for rail in found if name in {rail.label, rail.place}]
    if len(named) != 1:
        count = "no" if not named else "more than one"
        there = ", ".join(f"{rail.label} ({rail.place})" if rail.label != rail.place else rail.place for rail in found)
        raise MeterError(f"meter {NAME!r}: {count} rail is called {name!r}; there are {there}")
    return named[0]
