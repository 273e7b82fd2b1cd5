"""Debian roots by debootstrap: made once, copied for each board."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from contract.errors import EnvironmentFaultError
from tests.arm64.root import needed
from tests.deployment import namespace

SUITE = "bookworm"
"""Raspberry Pi OS is Debian 12 with this name, with the same Python 3.11 and glibc 2.36."""
BOARD = ("python3", "libstdc++6")
"""All that a board has beside a minimal Debian: no pip, no venv package, no compiler."""


def root(place: Path, architecture: str, packages: tuple[str, ...] = BOARD) -> Path:
    """A minimal Debian.

    Args:
        place: Folder of roots.
        architecture: Debian's name of it: `amd64` or `arm64`.
        packages: Beyond the minimum.

    Raises:
        EnvironmentFaultError: Not root, a tool is missing, or debootstrap failed.
    """
    if os.geteuid() != 0:
        raise EnvironmentFaultError("a Debian root has files of many owners: run this as root")
    made, stamp = place / architecture, place / f"{architecture}.complete"
    if stamp.exists() and stamp.read_text() == " ".join(packages):
        return made
    shutil.rmtree(made, ignore_errors=True)
    place.mkdir(parents=True, exist_ok=True)
    line = [needed("debootstrap", "debootstrap"), "--variant=minbase", f"--arch={architecture}"]
    line += [f"--include={','.join(packages)}", SUITE, str(made)]
    foreign = architecture == "arm64"
    _run(place / f"{architecture}.log", *line[:1], *(["--foreign"] if foreign else []), *line[1:])
    if foreign:
        needed("qemu-aarch64-static", "qemu-user-static")
        second = "env container=lxc /debootstrap/debootstrap --second-stage"
        script = f"mount --bind {made} {made} && exec chroot {made} {second}"
        _run(place / f"{architecture}-2.log", *namespace.command("sh", "-c", script, network=False, aarch64=True))
    stamp.write_text(" ".join(packages))
    return made


def _run(log_path: Path, *command: str) -> None:
    with log_path.open("w") as log_file:
        done = subprocess.run(command, check=False, stdout=log_file, stderr=subprocess.STDOUT)
    if done.returncode:
        raise EnvironmentFaultError(f"{command[0]}: exit status {done.returncode}: {log_path.read_text()[-400:]}")
