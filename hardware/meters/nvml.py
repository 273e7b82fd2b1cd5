"""Energy of NVIDIA GPUs, from the counter that NVML keeps since the driver was last loaded (Volta and later).

One GPU is one meter: with several in the machine nothing is added up unasked, the user names them, as in ``nvml:0`` or
``nvml:0+1``. The counter is in millijoules and moves every 20 to 100 ms (PETSc manual, PetscLogGpuEnergyMeter), so a
window that begins and ends anywhere between two of its steps is off by the difference of two uniform lags of up to
``U`` = 0.1 s at the mean power: within ``(1 − √0.05) U P`` in 95 % of cases, which is the reading's uncertainty.

A counter that went back was reset with the driver; it is 64 bits wide and does not wrap.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from hardware.counter_meter import CounterMeter
from hardware.errors import MeterError
from hardware.finding import Finding
from hardware.meters.nvml_library import CtypesLibrary, Library, NvmlError

if TYPE_CHECKING:
    from collections.abc import Callable

NAME = "nvml"
SCOPE = "gpu"
RESOLUTION_J = 1e-3
UPDATE_S = 0.1
LARGEST_POWER_W = 3000.0
"""More than one GPU draws: a step above it is a counter that was reset while it grew."""


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU: its number in PCI order, its name and UUID."""

    index: int
    name: str
    uuid: str


class _Counter(msgspec.Struct, frozen=True):
    """One GPU's counter, in millijoules; see `hardware.counter_meter.Counter`."""

    device: Device
    library: Library

    @property
    def label(self) -> str:
        """Number and name."""
        return f"{self.device.index} {self.device.name}"

    def value(self) -> int:
        """What it shows."""
        return self.library.energy_mj(self.device.index)

    def advance(self, before_mj: int, after_mj: int, duration_s: float) -> int:
        """Millijoules between two values.

        Raises:
            NvmlError: The counter stood still, went back or leapt, or no time has passed.
        """
        counter = f"the energy counter of GPU {self.device.index}"
        if duration_s <= 0.0:
            raise NvmlError("the window has no length: the clock did not move")
        if after_mj < before_mj:
            raise NvmlError(
                f"{counter} went back from {before_mj} to {after_mj} mJ: the driver was reloaded in this window"
            )
        if after_mj == before_mj:
            raise NvmlError(
                f"{counter} did not move in {duration_s:.3g} s: it moves every 20 to 100 ms, take longer windows"
            )
        if (after_mj - before_mj) * 1e-3 > LARGEST_POWER_W * (duration_s + UPDATE_S):
            raise NvmlError(
                f"{counter} went from {before_mj} to {after_mj} mJ in {duration_s:.3g} s, above "
                f"{LARGEST_POWER_W:.0f} W: it was reset"
            )
        return after_mj - before_mj


class NvmlMeter(CounterMeter):
    """Energy of one GPU, or of several that the user named together."""

    name, scope, unit_j, resolution_j = NAME, SCOPE, 1e-3, RESOLUTION_J

    def uncertainty_j(self, energy_j: float, duration_s: float) -> float | None:
        """See the top."""
        return (1 - math.sqrt(0.05)) * UPDATE_S * energy_j / duration_s


def find(root: Path = Path("/"), *, library: Library | None = None) -> Finding:
    """Whether the only GPU counts its energy; which GPUs there are where there are several."""
    try:
        library = library or _installed(root)
        devices = _devices(library)
        library.energy_mj(_only(devices).index)
    except NvmlError as fault:
        return Finding(meter=NAME, available=False, detail=str(fault))
    return Finding(meter=NAME, available=True, detail=f"GPU {devices[0].index} {devices[0].name}, the whole card")


def open_meter(
    argument: str,
    root: Path = Path("/"),
    *,
    library: Library | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> NvmlMeter:
    """The meter of the GPUs named.

    Args:
        argument: Numbers (``nvidia-smi -L``) or UUIDs joined by ``+``; empty for the only GPU there is.
        root: ``/`` on a real machine; under another root there is no NVML unless `library` is given.
        library: NVML; this machine's where it is `None`.
        clock: Monotonic seconds.

    Raises:
        MeterError: There are GPUs, but none of that number, or one is named twice.
    """
    try:
        library = library or _installed(root)
        devices = _devices(library)
        chosen = _named(devices, argument) if argument else (_only(devices),)
    except NvmlError as fault:
        return NvmlMeter((), fault=str(fault), clock=clock)
    return NvmlMeter([_Counter(device, library) for device in chosen], clock=clock)


def _installed(root: Path) -> Library:
    if root != Path("/"):
        raise NvmlError(f"NVML is this machine's own, not that of {root}")
    return CtypesLibrary()


def _devices(library: Library) -> tuple[Device, ...]:
    numbers = range(library.count())
    titles = [(index, *library.title(index)) for index in numbers]
    if not titles:
        raise NvmlError("NVML is there but no GPU: in a container 'docker run --gpus all'")
    return tuple(Device(index=index, name=name, uuid=uuid) for index, name, uuid in titles)


def _only(devices: tuple[Device, ...]) -> Device:
    if len(devices) > 1:
        raise NvmlError(
            f"{len(devices)} GPUs and none is added to another unasked: name one, for example {NAME}:0, "
            f"or several, {NAME}:0+1; there are {_listing(devices)}"
        )
    return devices[0]


def _named(devices: tuple[Device, ...], argument: str) -> tuple[Device, ...]:
    by_name = {str(device.index): device for device in devices} | {device.uuid: device for device in devices}
    names = [name.strip() for name in argument.split("+")]
    unknown = [name for name in names if name not in by_name]
    if unknown:
        raise MeterError(f"meter {NAME!r}: no GPU is called {unknown[0]!r}; there are {_listing(devices)}")
    chosen = tuple(by_name[name] for name in names)
    if len({device.index for device in chosen}) != len(chosen):
        raise MeterError(f"meter {NAME!r}: {argument!r} names a GPU twice, it would be counted twice")
    return chosen


def _listing(devices: tuple[Device, ...]) -> str:
    return ", ".join(f"{device.index} ({device.name}, {device.uuid})" for device in devices)
