"""The Raspberry Pi 5's power management chip, through ``vcgencmd pmic_read_adc``.

The chip converts the 5 V input into the board's supplies and measures twelve of them, each with a line for the
current and one for the voltage::

      VDD_CORE_A current(7)=10.87674000A
      VDD_CORE_V volt(15)=0.89745940V

The power is ``Σ V·I`` over the twelve pairs. It is what comes *out* of the chip: its own losses and everything on the
5 V line (USB, HATs, NVMe, the fan) are left out, hence the scope ``pmic-rails`` and never ``board``. A fit of the
whole board to this sum exists (`WHOLE_BOARD_NOTE`); it is one person's line through one board, so it is told and
never applied.

Every call starts a process of some milliseconds; new values come about ten times a second.

Sources: Raspberry Pi documentation, "vcgencmd"; the lines: github.com/jfikar/RPi5-power, README.md.
"""

from __future__ import annotations

import math
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from hardware.errors import MeterError
from hardware.finding import Finding
from hardware.meters.absent import AbsentSource
from hardware.meters.attribute import present
from hardware.power import PowerSource, SampleError

if TYPE_CHECKING:
    from collections.abc import Callable

NAME = "pi5-pmic"
SCOPE = "pmic-rails"
RAILS = (
    "3V7_WL_SW", "3V3_SYS", "1V8_SYS", "DDR_VDD2", "DDR_VDDQ", "1V1_SYS",
    "0V8_SW", "VDD_CORE", "3V3_DAC", "3V3_ADC", "0V8_AON", "HDMI",
)  # fmt: skip
VOLTAGE_ONLY = frozenset({"EXT5V", "BATT"})
"""Input and clock battery: the chip does not measure their currents."""
NEVER_ZERO = "VDD_CORE"
"""Feeds the processor that asks."""
LARGEST_CURRENT_A = 50.0
LARGEST_VOLTAGE_V = 30.0
INTERVAL_S = 0.1
TIMEOUT_S = 5.0

WHOLE_BOARD_NOTE = (
    "leaves out USB, HATs, NVMe and conversion losses; a community fit puts the whole board at 1.1451 × this + "
    "0.5879 W (github.com/jfikar/RPi5-power), an estimate that is never reported as measured"
)
PROGRAMS = (Path("usr/bin/vcgencmd"), Path("opt/vc/bin/vcgencmd"))
MODEL = Path("proc/device-tree/model")
LINE = re.compile(
    r"(?P<rail>\w+)_(?:A current\(\d+\)=(?P<current>-?\d{1,6}\.\d{1,12})A"
    r"|V volt\(\d+\)=(?P<volt>-?\d{1,6}\.\d{1,12})V)",
    re.ASCII,
)


def run_program(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run it and give back what it wrote.

    Raises:
        OSError: It cannot be started.
        subprocess.TimeoutExpired: It does not end within `TIMEOUT_S`.
        UnicodeDecodeError: It wrote no text.
    """
    return subprocess.run(  # noqa: S603 - a fixed program, no shell
        command, capture_output=True, encoding="ascii", stdin=subprocess.DEVNULL, timeout=TIMEOUT_S, check=False
    )


def power_of(reading: str) -> float:
    """Watts of the twelve rails together.

    Args:
        reading: What ``vcgencmd pmic_read_adc`` wrote.

    Raises:
        SampleError: A line, a rail or its counterpart is missing, doubled, unknown, negative or implausible.
    """
    currents_a, voltages_v = _columns(reading)
    missing = [f"{rail}_A" for rail in RAILS if rail not in currents_a]
    missing += [f"{rail}_V" for rail in RAILS if rail not in voltages_v]
    if missing:
        raise SampleError(f"vcgencmd pmic_read_adc left out {', '.join(missing)}: a Raspberry Pi 5 has 12 pairs")
    unknown = sorted((currents_a.keys() | voltages_v.keys()) - set(RAILS) - VOLTAGE_ONLY)
    unknown += sorted(VOLTAGE_ONLY & currents_a.keys())
    if unknown:
        raise SampleError(
            f"vcgencmd pmic_read_adc knows rails that this meter does not: {', '.join(unknown)}; a sum "
            "without them, or with them, would be of something else"
        )
    for rail in RAILS:
        if voltages_v[rail] == 0.0 < currents_a[rail]:
            raise SampleError(f"rail {rail} has {currents_a[rail]} A at 0 V: one of the two is wrong")
    if currents_a[NEVER_ZERO] * voltages_v[NEVER_ZERO] == 0.0:
        raise SampleError(f"rail {NEVER_ZERO} says 0 W, but it feeds the processor that asks: the PMIC is not sampling")
    return math.fsum(currents_a[rail] * voltages_v[rail] for rail in RAILS)


def _columns(reading: str) -> tuple[dict[str, float], dict[str, float]]:
    currents_a: dict[str, float] = {}
    voltages_v: dict[str, float] = {}
    for line in reading.splitlines():
        if not line.strip():
            continue
        found = LINE.fullmatch(line.strip())
        if found is None:
            raise SampleError(
                f"vcgencmd pmic_read_adc wrote {line.strip()[:60]!r}: expected NAME_A current(n)=…A or "
                "NAME_V volt(n)=…V (is this a Raspberry Pi 5 with current firmware?)"
            )
        current = found["current"] is not None
        column, limit = (currents_a, LARGEST_CURRENT_A) if current else (voltages_v, LARGEST_VOLTAGE_V)
        value = float(found["current"] or found["volt"])
        if found["rail"] in column:
            raise SampleError(f"vcgencmd pmic_read_adc names {found['rail']} twice")
        if not 0.0 <= value <= limit:
            raise SampleError(f"vcgencmd pmic_read_adc wrote {line.strip()!r}: outside 0 … {limit:g}")
        column[found["rail"]] = value
    return currents_a, voltages_v


class PmicSource:
    """Power of the twelve measured supplies.

    Args:
        program: Path of ``vcgencmd``.
        run: Runs a command; replaced in tests.
    """

    name = NAME
    source = f"{NAME}:sum of {len(RAILS)} rails"
    scope = SCOPE
    resolution_w: float | None = None
    interval_s = INTERVAL_S

    def __init__(
        self, program: Path, *, run: Callable[[list[str]], subprocess.CompletedProcess[str]] = run_program
    ) -> None:
        self._command = [str(program), "pmic_read_adc"]
        self._run = run
        self._closed = False

    def power_w(self) -> float:
        """Power now, `power_of` a fresh reading.

        Raises:
            SampleError: The program fails, or writes anything but twelve sound pairs.
        """
        if self._closed:
            raise SampleError("the meter is closed")
        try:
            done = self._run(self._command)
        except PermissionError as error:
            raise SampleError(f"no permission to run {self._command[0]}: {_GROUP}") from error
        except subprocess.TimeoutExpired as error:
            raise SampleError(f"{self._command[0]} did not answer within {TIMEOUT_S:g} s: restart the board") from error
        except (OSError, UnicodeDecodeError) as error:
            raise SampleError(f"cannot run {' '.join(self._command)}: {error}") from error
        wrote = f"{done.stdout}\n{done.stderr}".strip()
        if "/dev/vc" in wrote or "VCHI" in wrote:
            raise SampleError(
                f"{self._command[0]} may not talk to the firmware ({wrote.splitlines()[0][:80]}): {_GROUP}"
            )
        if done.returncode != 0 or not done.stdout.strip():
            raise SampleError(
                f"{' '.join(self._command)} ended with status {done.returncode} and {wrote[:80]!r}: "
                "a PMIC that measures is on the Raspberry Pi 5 and its kin alone"
            )
        return power_of(done.stdout)

    def close(self) -> None:
        """End sampling."""
        self._closed = True


_GROUP = "'sudo usermod -aG video $USER' and log in again, or run as root"


def find(root: Path, *, run: Callable[[list[str]], subprocess.CompletedProcess[str]] = run_program) -> Finding:
    """Whether the chip gives watts now."""
    try:
        PmicSource(_program(root), run=run).power_w()
    except SampleError as fault:
        return Finding(meter=NAME, available=False, detail=str(fault))
    return Finding(meter=NAME, available=True, detail=f"sum of {len(RAILS)} supplies; {WHOLE_BOARD_NOTE}")


def open_source(
    argument: str, root: Path, *, run: Callable[[list[str]], subprocess.CompletedProcess[str]] = run_program
) -> PowerSource:
    """The chip's power.

    Args:
        argument: Must be empty.
        root: Where ``usr/bin/vcgencmd`` lies.
        run: Runs a command; replaced in tests.

    Raises:
        MeterError: There is an argument.
    """
    if argument:
        raise MeterError(f"meter {NAME!r} takes nothing after a colon: found {argument!r}")
    try:
        return PmicSource(_program(root), run=run)
    except SampleError as fault:
        return AbsentSource(NAME, str(fault))


def _program(root: Path) -> Path:
    for program in PROGRAMS:
        if present(root / program):
            return root / program
    try:
        model = (root / MODEL).read_text(encoding="utf-8").strip("\0\n ") or "a machine without a name"
    except (OSError, UnicodeDecodeError):
        model = "no board that says its name"
    raise SampleError(
        f"no {root / PROGRAMS[0]}: needs a Raspberry Pi 5 and 'sudo apt install raspi-utils' (this is {model})"
    )
