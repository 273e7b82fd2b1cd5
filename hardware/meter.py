"""The meters there are, found and opened by name."""

from __future__ import annotations

import difflib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from hardware.errors import MeterError
from hardware.meters import ina2xx, ina238, ina3221, joulescope, nvml, otii, pmic, ppk2, rapl, replay, shelly, tasmota
from hardware.meters.none import NoMeter
from hardware.power import PowerSource, SampleError
from hardware.sampled_meter import SampledMeter

if TYPE_CHECKING:
    from collections.abc import Callable

    from hardware.energy import EnergyReading
    from hardware.finding import Finding

LARGEST_NUMBER = 4
"""Meters that one device reads side by side."""


class Meter(Protocol):
    """Gives the energy of consecutive windows on the monotonic clock.

    A reading is above 0 J or `unavailable` with its reason; a meter never gives 0 J and never raises once it is open.
    """

    @property
    def name(self) -> str:
        """Its key in `METERS`."""

    @property
    def source(self) -> str:
        """What gives its figures, for example ``rapl:package-0``; begins with the name."""

    @property
    def scope(self) -> str:
        """What its figures cover."""

    def start(self) -> None:
        """Begin a window now, dropping the one under way."""

    def read(self) -> EnergyReading:
        """Energy since `start` or the last `read`, whichever was later; the next window begins here."""

    def close(self) -> None:
        """Release what it holds; readings after it are unavailable."""


class _Reader(Protocol):
    """A module of `hardware.meters` that gives instantaneous power; it is sampled."""

    NAME: str

    def find(self, root: Path) -> Finding:
        """Whether it gives a figure on this machine."""

    def open_source(self, argument: str, root: Path) -> PowerSource:
        """What to sample.

        Raises:
            MeterError: The argument cannot be used.
            SampleError: It is not there, and why.
        """


BOARD_READERS: tuple[_Reader, ...] = (pmic, ina3221, ina238, ina2xx)
"""Sensors that sit on boards, in the order in which `auto` looks for them."""

BENCH_READERS: tuple[_Reader, ...] = (ppk2, otii)
"""Instruments that are wired to something; never taken by `auto`, since that may be another board."""


def find_meters(root: Path = Path("/")) -> list[Finding]:
    """Every known meter: available here, or not and why.

    Args:
        root: Where ``sys/`` lies; ``/`` on a real machine.
    """
    bench = [joulescope.find(), *(reader.find(root) for reader in BENCH_READERS)]
    return [*_attached(root), *bench, tasmota.find(), shelly.find(), replay.find()]


def _attached(root: Path) -> list[Finding]:
    """What is part of the machine, in the order in which `auto` takes it."""
    return [*(reader.find(root) for reader in BOARD_READERS), rapl.find(root), nvml.find(root)]


def _open_none(argument: str, _root: Path) -> Meter:
    _refuse_argument("none", argument)
    return NoMeter('no meter was asked for (meter = "none")')


def _open_auto(argument: str, root: Path) -> Meter:
    _refuse_argument("auto", argument)
    findings = _attached(root)
    for finding in findings:
        if finding.available:
            return METERS[finding.meter]("", root)
    looked_for = ", ".join(found.meter for found in findings)
    return NoMeter(f"no meter on this machine (looked for {looked_for}); `spikeleak meter` says why each is not there")


def _open_sampled(reader: _Reader, argument: str, root: Path) -> Meter:
    try:
        return SampledMeter(reader.open_source(argument, root))
    except SampleError as fault:
        return NoMeter(str(fault), name=reader.NAME)


def _open_rapl(argument: str, root: Path) -> Meter:
    _refuse_argument("rapl", argument)
    return rapl.RaplMeter(root)


def _open_nvml(argument: str, root: Path) -> Meter:
    return nvml.open_meter(argument, root)


def _open_joulescope(argument: str, _root: Path) -> Meter:
    return joulescope.open_meter(argument)


def _open_tasmota(argument: str, _root: Path) -> Meter:
    return tasmota.TasmotaMeter(argument)


def _open_shelly(argument: str, _root: Path) -> Meter:
    return shelly.ShellyMeter(argument)


def _open_replay(argument: str, _root: Path) -> Meter:
    if not argument:
        raise MeterError("meter 'replay' needs a file: replay:FILE.csv")
    return replay.ReplayMeter(Path(argument))


def _refuse_argument(name: str, argument: str) -> None:
    if argument:
        raise MeterError(f"meter {name!r} takes nothing after a colon: found {argument!r}")


METERS: dict[str, Callable[[str, Path], Meter]] = {
    "none": _open_none,
    "auto": _open_auto,
    **{reader.NAME: partial(_open_sampled, reader) for reader in (*BOARD_READERS, *BENCH_READERS)},
    "rapl": _open_rapl,
    "nvml": _open_nvml,
    "joulescope": _open_joulescope,
    "tasmota": _open_tasmota,
    "shelly": _open_shelly,
    "replay": _open_replay,
}
"""Name → factory of what stands after the colon and the machine's root."""


def open_meter(spec: str, root: Path = Path("/")) -> Meter:
    """Open one meter by its specification.

    A meter that is known but not there opens too: its readings are `unavailable` with the reason.

    Args:
        spec: ``none``, ``auto`` (the first one that is part of this machine), or a key of `METERS` with what it needs
            after a colon: ``rapl``, ``tasmota:TOPIC``, ``ppk2:MILLIVOLTS``, ``replay:FILE.csv`` …
        root: Where ``sys/`` lies; ``/`` on a real machine.

    Raises:
        MeterError: No meter has this name, or its argument cannot be used.
    """
    name, _, argument = spec.partition(":")
    if name not in METERS:
        near = difflib.get_close_matches(name.rpartition("+")[2], METERS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise MeterError(f"no meter is called {name!r}: {hint}Known: {', '.join(METERS)}; a trace is replay:FILE.csv")
    return METERS[name](argument, root)


def open_meters(specs: str, root: Path = Path("/")) -> tuple[Meter, ...]:
    """Open the meters that one device reads side by side, in their order.

    Their readings stand beside each other in every phase and are never added up: a wall plug sees what the sensor of
    the processor sees once more.

    Args:
        specs: Specifications as of `open_meter`, joined by ``+``: ``rapl+tasmota:plug-1``. A ``+`` within a file's name
            stays there unless the name of a meter follows it.
        root: Where ``sys/`` lies; ``/`` on a real machine.

    Raises:
        MeterError: One cannot be used, two could not be told apart, there are more than four, or ``none`` is among
            several.
    """
    parts = split_specs(specs)
    if len(parts) > LARGEST_NUMBER or (len(parts) > 1 and "none" in parts):
        raise MeterError(f"meters {specs!r}: at most {LARGEST_NUMBER} side by side, and none of them 'none'")
    opened: list[Meter] = []
    try:
        for part in parts:
            opened.append(open_meter(part, root))  # noqa: PERF401 - those opened before a fault are closed
        _check_apart(opened, specs)
    except MeterError:
        for meter in opened:
            meter.close()
        raise
    return tuple(opened)


def _check_apart(meters: list[Meter], specs: str) -> None:
    if len({(meter.source, meter.scope) for meter in meters}) < len(meters):
        same = ", ".join(meter.source for meter in meters)
        raise MeterError(f"meters {specs!r}: two of them could not be told apart ({same}); name each once")


def split_specs(specs: str) -> list[str]:
    """The single specifications of several joined by ``+``."""
    parts: list[str] = []
    for piece in specs.split("+"):
        if parts and piece.partition(":")[0] not in METERS:
            parts[-1] += "+" + piece
        else:
            parts.append(piece)
    return parts
