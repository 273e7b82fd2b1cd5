"""One case a reader of meters: its tree, how it is opened, and what its figure must be.

The figure is computed from the files by other means than the reader's.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from hardware.energy import EnergyReading
from hardware.finding import Finding
from hardware.meters import ina2xx, ina238, ina3221, nvml, pmic, rapl
from hardware.meters.nvml_library import NvmlError
from hardware.power import PowerSource, SampleError
from tests import meter_trees as trees
from tests.meter_trees import HWMON, I2C

Content = Callable[[str], "int | None"]
"""The whole number in a file of the tree, `None` where there is none or it may not be read."""


class Case:
    """One reader on one tree: how it is opened, what its figure must be, and which files it cannot do without."""

    def __init__(self, module: ModuleType, tree: dict[str, str], argument: str, needs: tuple[str, ...]) -> None:
        self.module = module
        self.tree = tree
        self.argument = argument
        self.needs = needs

    def open(self, root: Path) -> Callable[[], float]:
        source: PowerSource = self.module.open_source(self.argument, root)
        return source.power_w

    def find(self, root: Path) -> Finding:
        return self.module.find(root)

    def advance(self, root: Path) -> None:
        """What the machine does between opening and reading."""

    def figure(self, at_open: Content, now: Content) -> float | None:
        raise NotImplementedError


class Shunt(Case):
    """INA219 or INA238: the power register in µW, with a current that is not negative."""

    def __init__(self, module: ModuleType, tree: dict[str, str], folder: str) -> None:
        names = tuple(name for name in tree if name.endswith("/name"))
        files = ("power1_input", "curr1_input", "shunt_resistor")
        super().__init__(module, tree, "", (*names, *(f"{folder}/{file}" for file in files)))
        self.folder = folder

    def figure(self, _at_open: Content, now: Content) -> float | None:
        power, current = now(f"{self.folder}/power1_input"), now(f"{self.folder}/curr1_input")
        return None if power is None or current is None or current < 0 else power / 1_000_000


class Hwmon3221(Case):
    """Rails of mV × mA."""

    def __init__(self, tree: dict[str, str], argument: str, folder: str, channels: tuple[int, ...]) -> None:
        labels = tuple(name for name in tree if "_label" in name and "in7" not in name)
        files = tuple(f"{folder}/{kind}{n}_input" for n in channels for kind in ("in", "curr"))
        super().__init__(ina3221, tree, argument, (*labels, *files))
        self.pairs = [(f"{folder}/in{n}_input", f"{folder}/curr{n}_input") for n in channels]

    def figure(self, _at_open: Content, now: Content) -> float | None:
        total_uw = 0
        for pair in self.pairs:
            voltage, current = (now(name) for name in pair)
            if voltage is None or current is None or voltage <= 0 or current < 0:
                return None
            total_uw += voltage * current
        return total_uw / 1_000_000


class Iio3221(Case):
    """One rail in mW."""

    def __init__(self, folder: str) -> None:
        names = tuple(name for name in trees.NANO if "rail_name" in name)
        super().__init__(ina3221, trees.NANO, "", (*names, f"{folder}/in_power0_input"))
        self.file = f"{folder}/in_power0_input"

    def figure(self, _at_open: Content, now: Content) -> float | None:
        power = now(self.file)
        return None if power is None else power / 1000


class Rapl(Case):
    """A counter in µJ that is just before its wrap-around, read after one second."""

    base = "sys/class/powercap/intel-rapl:0"

    def __init__(self) -> None:
        tree = trees.rapl_package("intel-rapl:0", "package-0", 262_143_328_000, 262_143_328_850)
        super().__init__(rapl, tree, "", tuple(tree))

    def open(self, root: Path) -> Callable[[], float]:
        clock = iter(range(10))
        meter = rapl.RaplMeter(root, clock=lambda: float(next(clock)))
        meter.start()
        return lambda: joules(meter.read())

    def advance(self, root: Path) -> None:
        put(root / self.base / "energy_uj", b"25000000\n")

    def figure(self, at_open: Content, now: Content) -> float | None:
        before, after = at_open(f"{self.base}/energy_uj"), now(f"{self.base}/energy_uj")
        largest = at_open(f"{self.base}/max_energy_range_uj")
        if before is None or after is None or largest is None:
            return None
        period = largest + max(1, round(largest / (2**32 - 1)))
        return (after - before if after >= before else after - before + period) / 1_000_000


class Nvml(Case):
    """A counter in mJ, kept in a file by the tests' own library."""

    file = "gpu/energy_mj"

    def __init__(self) -> None:
        super().__init__(nvml, {self.file: "5000000\n"}, "", (self.file,))

    def open(self, root: Path) -> Callable[[], float]:
        clock = iter(range(10))
        meter = nvml.open_meter("", root, library=FileGpu(root / self.file), clock=lambda: float(next(clock)))
        meter.start()
        return lambda: joules(meter.read())

    def find(self, root: Path) -> Finding:
        return nvml.find(root, library=FileGpu(root / self.file))

    def advance(self, root: Path) -> None:
        put(root / self.file, b"5250000\n")

    def figure(self, at_open: Content, now: Content) -> float | None:
        before, after = at_open(self.file), now(self.file)
        return None if before is None or after is None else (after - before) / 1000


class FileGpu:
    """One GPU whose counter lies in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def count(self) -> int:
        return 1

    def title(self, _index: int) -> tuple[str, str]:
        return "GPU", "GPU-0"

    def energy_mj(self, _index: int) -> int:
        try:
            found = parsed(self.path.read_text(encoding="ascii"))
        except (OSError, UnicodeDecodeError) as error:
            raise NvmlError("nvmlDeviceGetTotalEnergyConsumption returned 15") from error
        if found is None or found < 0:
            raise NvmlError("nvmlDeviceGetTotalEnergyConsumption returned 999")
        return found


class Pmic(Case):
    """Twelve pairs of lines, written by a program that prints a file."""

    file = "reading"

    def __init__(self) -> None:
        tree = {"usr/bin/vcgencmd": "program", self.file: trees.PI5, "proc/device-tree/model": "Raspberry Pi 5\0"}
        super().__init__(pmic, tree, "", ("usr/bin/vcgencmd", self.file))

    def run(self, root: Path) -> Callable[[list[str]], subprocess.CompletedProcess[str]]:
        def run(command: list[str]) -> subprocess.CompletedProcess[str]:
            assert Path(command[0]).read_text(encoding="ascii") is not None
            reading = (root / self.file).read_text(encoding="ascii")
            return subprocess.CompletedProcess(command, 0, reading, "")

        return run

    def open(self, root: Path) -> Callable[[], float]:
        self.root = root
        return pmic.open_source("", root, run=self.run(root)).power_w

    def find(self, root: Path) -> Finding:
        return pmic.find(root, run=self.run(root))

    def figure(self, _at_open: Content, _now: Content) -> float | None:
        fields = [
            line.replace("=", " ").split() for line in (self.root / self.file).read_text().splitlines() if line.strip()
        ]
        values = {name: float(value.rstrip("AV")) for name, _, value in fields}
        rails = [name[:-2] for name in values if name.endswith("_A")]
        assert len(rails) == 12
        return sum(values[f"{rail}_A"] * values[f"{rail}_V"] for rail in rails)


def put(path: Path, content: bytes | str | None) -> None:
    """Damage a file, unless the way to it is no folder any more."""
    if next(parent for parent in path.parents if parent.exists()).is_dir():
        trees.damage(path, content)


def joules(reading: EnergyReading) -> float:
    if reading.energy_j is None:
        raise SampleError(reading.reason)
    return reading.energy_j


CASES = {
    "ina219": Shunt(ina2xx, trees.INA219, f"{HWMON}/hwmon2"),
    "ina238": Shunt(ina238, trees.THOR, f"{HWMON}/hwmon4"),
    "orin-nano": Hwmon3221(trees.ORIN_NANO, "", f"{I2C}/ina3221/1-0040/hwmon/hwmon1", (1,)),
    "agx-orin": Hwmon3221(
        trees.AGX_ORIN, "VDD_GPU_SOC+VDD_CPU_CV+VIN_SYS_5V0", f"{I2C}/ina3221/1-0040/hwmon/hwmon4", (1, 2, 3)
    ),
    "nano": Iio3221(f"{I2C}/ina3221x/6-0040/iio:device0"),
    "pi5": Pmic(),
    "rapl": Rapl(),
    "nvml": Nvml(),
}


def parsed(text: str) -> int | None:
    """The whole number that stands there, `None` for anything else."""
    found = text.strip()
    return int(found) if found.removeprefix("-").isdecimal() and len(found) < 20 else None


def number(path: Path) -> int | None:
    """The whole number in a file, `None` where there is none."""
    try:
        return parsed(path.read_bytes().decode("ascii"))
    except (OSError, UnicodeDecodeError):
        return None
