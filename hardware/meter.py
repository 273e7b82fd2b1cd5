"""The meters there are, found and opened by name."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from hardware.errors import MeterError
from hardware.meters import rapl, replay
from hardware.meters.none import NoMeter

if TYPE_CHECKING:
    from collections.abc import Callable

    from hardware.energy import EnergyReading
    from hardware.finding import Finding


class Meter(Protocol):
    """Gives the energy of consecutive windows on the monotonic clock.

    A reading is above 0 J or `unavailable` with its reason; a meter never gives 0 J and never raises once it is open.
    """

    @property
    def name(self) -> str:
        """Its key in `METERS`."""

    @property
    def scope(self) -> str:
        """What its figures cover."""

    def start(self) -> None:
        """Begin a window now, dropping the one under way."""

    def read(self) -> EnergyReading:
        """Energy since `start` or the last `read`, whichever was later; the next window begins here."""

    def close(self) -> None:
        """Release what it holds; readings after it are unavailable."""


def find_meters(root: Path = Path("/")) -> list[Finding]:
    """Every known meter: available here, or not and why.

    Args:
        root: Where ``sys/`` lies; ``/`` on a real machine.
    """
    return [*_attached(root), replay.find()]


def _attached(root: Path) -> list[Finding]:
    return [rapl.find(root)]


def _open_none(argument: str, _root: Path) -> Meter:
    _refuse_argument("none", argument)
    return NoMeter('no meter was asked for (meter = "none")')


def _open_auto(argument: str, root: Path) -> Meter:
    _refuse_argument("auto", argument)
    findings = _attached(root)
    for finding in findings:
        if finding.available:
            return METERS[finding.meter]("", root)
    return NoMeter("no meter on this machine: " + "; ".join(f"{found.meter}: {found.detail}" for found in findings))


def _open_rapl(argument: str, root: Path) -> Meter:
    _refuse_argument("rapl", argument)
    return rapl.RaplMeter(root)


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
    "rapl": _open_rapl,
    "replay": _open_replay,
}
"""Name → factory of what stands after the colon and the machine's root."""


def open_meter(spec: str, root: Path = Path("/")) -> Meter:
    """Open a meter by its specification.

    A meter that is known but not there opens too: its readings are `unavailable` with the reason.

    Args:
        spec: ``none``, ``auto`` (the first one available), ``rapl`` or ``replay:FILE.csv``.
        root: Where ``sys/`` lies; ``/`` on a real machine.

    Raises:
        MeterError: No meter has this name, or its argument cannot be used.
    """
    name, _, argument = spec.partition(":")
    if name not in METERS:
        near = difflib.get_close_matches(name, METERS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise MeterError(f"no meter is called {name!r}: {hint}Known: {', '.join(METERS)}; a trace is replay:FILE.csv")
    return METERS[name](argument, root)
