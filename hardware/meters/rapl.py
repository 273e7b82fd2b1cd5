"""Package energy of x86 processors through Linux powercap (Intel RAPL; AMD since Zen has the same files).

Each package is a directory ``/sys/class/powercap/intel-rapl:N`` with ``name`` (``package-0``), ``energy_uj``
(a counter in microjoules) and ``max_energy_range_uj`` (the counter's largest value, after which it goes on at 0).
The sub-domains core and uncore (``intel-rapl:0:0``), the platform domain ``psys`` and the second interface
``intel-rapl-mmio`` count the same joules again and are left out. So is ``dram``, which a package does not contain.

Behind the file is a register of 32 bits that counts energy units: the file holds ``raw · unit`` without its
fraction, the range is ``(2^32 − 1) · unit`` (61.035 µJ on Intel, 15.258 µJ on AMD), and a wrap-around is one unit
longer than the range.

Source: Linux kernel, Documentation/power/powercap/powercap.rst and drivers/powercap/intel_rapl_common.c
(``rapl_unit_xlate``, ``ENERGY_STATUS_MASK``). `energy_uj` is readable by root only since Linux 5.10, because a fine
power trace leaks secrets of other processes (CVE-2020-8694, PLATYPUS).
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from hardware.counter_meter import CounterError, CounterMeter
from hardware.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Callable

NAME = "rapl"
SCOPE = "package"
POWERCAP = Path("sys/class/powercap")

RESOLUTION_J = 2.0**-14
"""Default energy unit of the counter (Intel SDM vol. 3B, MSR_RAPL_POWER_UNIT): about 61 µJ. AMD's is finer."""

LARGEST_POWER_W = 1000.0
"""More than any package draws. A window in which this power could wrap the counter twice has no unique
answer, and a step above this power is a counter that was reset, not one that wrapped."""

UPDATE_S = 1e-3
"""The counter moves about that often (Intel SDM vol. 3B, 15.10): at each end of a window it is up to that old."""

UPDATE_SLACK_S = 0.02
"""The counter moves about once a millisecond: a short window may see a little more than its own energy."""

REMEDY = (
    "run as root, or allow it for this boot with 'sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj' "
    "(on a machine shared with strangers this opens a side channel, CVE-2020-8694)"
)


REGISTER_STEPS = 2**32 - 1
"""Units from the counter's 0 to its largest value."""


def _read_int(path: Path) -> int:
    try:
        text = path.read_text(encoding="ascii")
    except PermissionError as error:
        raise CounterError(f"no permission to read {path}: {REMEDY}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise CounterError(f"cannot read {path}: {error}") from error
    if not re.fullmatch(r"\d{1,20}", text.strip(), re.ASCII):
        raise CounterError(f"{path} holds {text[:40]!r}: expected a whole number of microjoules")
    return int(text)


class _Domain(msgspec.Struct, frozen=True):
    label: str
    folder: Path
    range_uj: int

    @property
    def period_uj(self) -> int:
        """Microjoules from one wrap-around to the next: the range and one unit."""
        return self.range_uj + max(1, round(self.range_uj / REGISTER_STEPS))

    def value(self) -> int:
        """Microjoules on the counter, see `hardware.counter_meter.Counter`."""
        path = self.folder / "energy_uj"
        value = _read_int(path)
        if value > self.range_uj:
            raise CounterError(f"{path} holds {value}, above its own max_energy_range_uj of {self.range_uj}")
        return value

    def advance(self, before_uj: int, after_uj: int, duration_s: float) -> int:
        """Microjoules from one counter value to the next, over at most one wrap-around.

        A wrap adds the counter's period; what comes back is right to the microjoule that the file rounds off.

        Raises:
            CounterError: The counter stood still, was reset, or may have wrapped more than once.
        """
        longest_s = self.range_uj * 1e-6 / LARGEST_POWER_W
        if duration_s > longest_s:
            raise CounterError(
                f"window of {duration_s:.3g} s: at {LARGEST_POWER_W:.0f} W the counter of {self.label} could have "
                f"wrapped more than once; read at least every {longest_s:.3g} s"
            )
        advance = after_uj - before_uj if after_uj >= before_uj else after_uj + self.period_uj - before_uj
        if advance == 0:
            raise CounterError(
                f"the counter of {self.label} did not move in {duration_s:.3g} s: the window is shorter than its "
                "update of about 1 ms, or the machine (often a virtual one) does not count"
            )
        if advance * 1e-6 > LARGEST_POWER_W * (duration_s + UPDATE_SLACK_S):
            raise CounterError(
                f"the counter of {self.label} went from {before_uj} to {after_uj} µJ in {duration_s:.3g} s, more than "
                f"{LARGEST_POWER_W:.0f} W: it was reset"
            )
        return advance


def _domains(root: Path) -> tuple[_Domain, ...]:
    """Package domains under `root`, in the order of their number.

    Raises:
        CounterError: No powercap tree, no package in it, or a package whose range cannot be read.
    """
    base = root / POWERCAP
    try:
        entries = [entry for entry in base.iterdir() if re.fullmatch(r"intel-rapl:\d+", entry.name, re.ASCII)]
        named = [(entry, (entry / "name").read_text(encoding="utf-8").strip()) for entry in entries]
    except (OSError, UnicodeDecodeError) as error:
        raise CounterError(
            f"no readable RAPL under {base}: {error}; it needs an x86 processor, the kernel module intel_rapl_common "
            "and neither a virtual machine nor a container that hides it"
        ) from error
    packages = sorted((entry, name) for entry, name in named if name.startswith("package"))
    if not packages:
        raise CounterError(f"no package domain under {base}: found {sorted(name for _, name in named) or 'nothing'}")
    domains = tuple(_Domain(name, entry, _read_int(entry / "max_energy_range_uj")) for entry, name in packages)
    for domain in domains:
        if domain.range_uj <= 0:
            raise CounterError(f"{domain.folder / 'max_energy_range_uj'} is {domain.range_uj}: must be above 0")
    return domains


class RaplMeter(CounterMeter):
    """Energy of all processor packages together.

    The packages are those present at construction: one that vanishes later makes the readings unavailable instead of
    shrinking the sum.

    Args:
        root: Where ``sys/`` lies; ``/`` on a real machine.
        clock: Monotonic seconds.
    """

    name, scope, unit_j, resolution_j = NAME, SCOPE, 1e-6, RESOLUTION_J

    def __init__(self, root: Path = Path("/"), *, clock: Callable[[], float] = time.monotonic) -> None:
        domains: tuple[_Domain, ...] = ()
        fault = ""
        try:
            domains = _domains(root)
        except CounterError as found:
            fault = str(found)
        super().__init__(domains, fault=fault, clock=clock)

    def uncertainty_j(self, energy_j: float, duration_s: float) -> float | None:
        """One step of each counter, and what flows in one of its updates; Intel states no accuracy beyond that."""
        if duration_s <= 0:
            return None
        return len(self._counters) * RESOLUTION_J + energy_j * min(1.0, UPDATE_S / duration_s)


def find(root: Path = Path("/")) -> Finding:
    """Whether this machine's packages can be read now."""
    try:
        domains = _domains(root)
        for domain in domains:
            domain.value()
    except CounterError as fault:
        return Finding(meter=NAME, available=False, detail=str(fault))
    return Finding(meter=NAME, available=True, detail="processor " + ", ".join(domain.label for domain in domains))
