"""One attribute of sysfs: a small file that the kernel writes when it is read.

A hwmon attribute holds one whole number in a unit fixed by its name: ``in*_input`` millivolts, ``curr*_input``
milliamperes, ``power*_input`` **microwatts** (Linux kernel, Documentation/hwmon/sysfs-interface.rst). Whatever else
stands there is no figure.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from hardware.power import SampleError

if TYPE_CHECKING:
    from pathlib import Path

LARGEST_POWER_W = 1000.0
"""More than any board draws: a figure above it has the wrong unit or the wrong shunt resistor behind it."""


def text(path: Path) -> str:
    """What stands in the file, without the white space around it.

    Raises:
        SampleError: It is missing, may not be read, the sensor does not answer, or it holds no text.
    """
    try:
        return path.read_text(encoding="ascii").strip()
    except PermissionError as error:
        raise SampleError(f"no permission to read {path}: {permission_remedy(path)}") from error
    except UnicodeDecodeError as error:
        raise SampleError(f"{path} holds no text: {error.object[:20]!r}") from error
    except OSError as error:
        raise SampleError(f"cannot read {path}: {error.strerror or error}") from error


def whole(path: Path, unit: str) -> int:
    """The whole number in the file.

    Args:
        path: The file.
        unit: What it counts, for the message.

    Raises:
        SampleError: As `text`, or it holds anything but one whole number.
    """
    found = text(path)
    if not re.fullmatch(r"-?\d{1,18}", found, re.ASCII):
        raise SampleError(f"{path} holds {found[:40]!r}: expected a whole number of {unit}")
    return int(found)


def entries(folder: Path) -> list[Path]:
    """What lies in the folder, in the order of names.

    Raises:
        SampleError: There is no such folder, or it may not be listed.
    """
    try:
        return sorted(folder.iterdir())
    except PermissionError as error:
        raise SampleError(f"no permission to list {folder}: {permission_remedy(folder)}") from error
    except OSError as error:
        raise SampleError(f"cannot list {folder}: {error.strerror or error}") from error


def present(path: Path) -> bool:
    """Whether there is anything of that name.

    Raises:
        SampleError: That cannot be told, for the way there is barred.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except PermissionError as error:
        raise SampleError(f"no permission to look for {path}: {permission_remedy(path)}") from error
    except OSError as error:
        raise SampleError(f"cannot look for {path}: {error.strerror or error}") from error
    return True


def update_interval_s(folder: Path, default_s: float) -> float:
    """The conversion time that a hwmon chip states (``update_interval``, milliseconds), or the default."""
    try:
        stated_ms = whole(folder / "update_interval", "milliseconds")
    except SampleError:
        return default_s
    return stated_ms * 1e-3 if 1 <= stated_ms <= 60_000 else default_s


def permission_remedy(path: Path) -> str:
    """How a user who is not root gets to read it, now and for good."""
    return (
        f"run as root, or 'sudo chmod a+r {path}' for this boot, or for good a udev rule: "
        f'SUBSYSTEM=="hwmon", RUN+="/bin/chmod a+r /sys%p/{path.name}"; in a container mount /sys'
    )
