"""A folder in which aarch64 Python runs: Debian's packages unpacked, the board's wheels, and a board's CPU description.

Nothing is installed and no root is needed: apt works on lists of its own, packages are only unpacked. onnxruntime
reads `/proc/cpuinfo` and `/sys/devices/system/cpu` when it is imported and crashes on those of an x86 machine; qemu
looks for every path in the folder first, so that the board's own description goes there.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import msgspec

from contract.errors import EnvironmentFaultError

PACKAGES = ("python3.11", "libstdc++6")
WHEELS = ("numpy", "onnxruntime", "paho-mqtt", "msgspec")
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64")


class Cpu(msgspec.Struct, frozen=True, kw_only=True):
    """A core as Linux on the board describes it.

    Attributes:
        name: qemu's name.
        board: A board that has it.
        part: `CPU part` in `/proc/cpuinfo` (Arm's main ID register).
        l1_data, l1_instruction, l2: Cache sizes as in sysfs.
    """

    name: str
    board: str
    part: str
    l1_data: str
    l1_instruction: str
    l2: str


CPUS = (
    Cpu(name="cortex-a53", board="pi-zero-2w", part="0xd03", l1_data="32K", l1_instruction="32K", l2="512K"),
    Cpu(name="cortex-a72", board="pi4", part="0xd08", l1_data="32K", l1_instruction="48K", l2="1024K"),
)
CORES = 4


def needed(program: str, package: str) -> str:
    """Path of a program.

    Raises:
        EnvironmentFaultError: It is not here; names the package that has it.
    """
    found = shutil.which(program)
    if found is None:
        raise EnvironmentFaultError(f"{program} is not on PATH: install it (Debian: apt install {package})")
    return found


def build(folder: Path, pip_args: tuple[str, ...] = ()) -> Path:
    """Makes the folder, or finds it made.

    Args:
        folder: Where; about 200 MB.
        pip_args: Passed on to `pip download`.

    Returns:
        The folder to hand to qemu's `-L`; wheels lie in its `site`.

    Raises:
        EnvironmentFaultError: A tool is missing or a download failed.
    """
    root, stamp = folder / "root", folder / "complete"
    if stamp.exists():
        return root
    shutil.rmtree(folder, ignore_errors=True)
    for archive in _debian_archives(folder / "apt"):
        _run(needed("dpkg-deb", "dpkg"), "-x", str(archive), str(root))
    for wheel in _wheels(folder / "wheels", pip_args):
        with zipfile.ZipFile(wheel) as packed:
            packed.extractall(root / "site")
    stamp.touch()
    return root


def describe(root: Path, cpu: Cpu) -> None:
    """Puts a board's `/proc/cpuinfo` and its CPU tree of `/sys` into the folder."""
    lines = (
        "BogoMIPS\t: 108.00",
        "Features\t: fp asimd evtstrm crc32 cpuid",
        "CPU implementer\t: 0x41",
        "CPU architecture: 8",
        "CPU variant\t: 0x0",
        f"CPU part\t: {cpu.part}",
        "CPU revision\t: 3",
    )
    blocks = ("\n".join((f"processor\t: {core}", *lines)) for core in range(CORES))
    _write(root / "proc" / "cpuinfo", "\n\n".join(blocks) + "\n")
    tree, every = root / "sys" / "devices" / "system" / "cpu", f"0-{CORES - 1}"
    for name in ("present", "possible", "online"):
        _write(tree / name, every)
    for core in range(CORES):
        here, own = tree / f"cpu{core}", str(core)
        _write(here / "topology" / "physical_package_id", "0")
        _write(here / "topology" / "core_siblings_list", every)
        _write(here / "topology" / "cluster_cpus_list", every)
        _write(here / "cpufreq" / "cpuinfo_min_freq", "600000")
        _write(here / "cpufreq" / "cpuinfo_max_freq", "1000000")
        caches = (
            ("1", "Data", cpu.l1_data, own),
            ("1", "Instruction", cpu.l1_instruction, own),
            ("2", "Unified", cpu.l2, every),
        )
        for index, values in enumerate(caches):
            for name, value in zip(("level", "type", "size", "shared_cpu_list"), values, strict=True):
                _write(here / "cache" / f"index{index}" / name, value)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.rstrip("\n") + "\n", encoding="ascii")


def _debian_archives(folder: Path) -> list[Path]:
    lists, cache, status = folder / "state" / "lists" / "partial", folder / "cache" / "archives", folder / "status"
    for made in (lists, cache / "partial"):
        made.mkdir(parents=True)
    status.touch()
    settings = (
        "APT::Architecture=arm64",
        "APT::Architectures=arm64",
        f"Dir::State={folder / 'state'}",
        f"Dir::State::status={status}",
        f"Dir::Cache={folder / 'cache'}",
    )
    apt = [needed("apt-get", "apt"), "-qq", *(word for setting in settings for word in ("-o", setting))]
    _run(*apt, "update")
    _run(*apt, "install", "--yes", "--download-only", "--no-install-recommends", *PACKAGES)
    return sorted(cache.glob("*.deb"))


def _wheels(folder: Path, pip_args: tuple[str, ...]) -> list[Path]:
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    abis = [word for abi in ("cp311", "abi3", "none") for word in ("--abi", abi)]
    pip = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", *pip_args]
    wanted = ["--only-binary=:all:", "--python-version", "3.11", "--implementation", "cp", *platforms, *abis]
    _run(*pip, *wanted, "--dest", str(folder), *WHEELS)
    return sorted(folder.glob("*.whl"))


def _run(*command: str) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise EnvironmentFaultError(f"{' '.join(command[:2])}: exit status {done.returncode}: {''.join(last)}")
