"""Control groups of the kernel, version 2 or 1, where this process may make one below its own."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Literal

import msgspec

PERIOD_US = 20_000
"""Time over which a share of the processor is held: short, so that a training step is slowed evenly."""
Version = Literal[1, 2]


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where groups can be made."""

    version: Version
    cpu: Path | None
    memory: Path | None


def find(proc: Path = Path("/proc/self")) -> Place | None:
    """Where this process may make groups; `None` if nowhere.

    Args:
        proc: This process's folder in `/proc`.
    """
    try:
        mounts = [line.split() for line in (proc / "mountinfo").read_text().splitlines()]
        own = [line.split(":", 2) for line in (proc / "cgroup").read_text().splitlines()]
    except OSError:
        return None
    unified = next((_inside(m, path) for _, names, path in own if not names for m in _of_type(mounts, "cgroup2")), None)
    if unified is not None and _controls(unified):
        return Place(version=2, cpu=unified, memory=unified)
    found: dict[str, Path | None] = {}
    for wanted in ("cpu", "memory"):
        path = next((path for _, names, path in own if wanted in names.split(",")), "/")
        mount = next((m for m in _of_type(mounts, "cgroup") if wanted in m[-1].split(",")), None)
        place = None if mount is None else _inside(mount, path)
        found[wanted] = place if place is not None and os.access(place, os.W_OK) else None
    if found["cpu"] is None and found["memory"] is None:
        return None
    return Place(version=1, cpu=found["cpu"], memory=found["memory"])


def _of_type(mounts: list[list[str]], kind: str) -> list[list[str]]:
    return [m for m in mounts if kind in m[m.index("-") + 1 : m.index("-") + 2]]


def _inside(mount: list[str], path: str) -> Path | None:
    """A group's folder under a mount that may show only a part of the tree."""
    root, point = mount[3], Path(mount[4])
    if root != "/" and not path.startswith(root):
        return point
    folder = point / path.removeprefix("" if root == "/" else root).lstrip("/")
    return folder if folder.is_dir() else None


def _controls(folder: Path) -> bool:
    """Whether groups below get the controllers: they have them, or may be given them."""
    control = folder / "cgroup.subtree_control"
    with contextlib.suppress(OSError):
        if {"cpu", "memory"} <= set(control.read_text().split()):
            return os.access(folder, os.W_OK)
        control.write_text("+cpu +memory")
        return True
    return False


class Group:
    """One group for one emulated device.

    Args:
        place: Where.
        name: Of the group.
        cpu_share: Of one core; `None`: no limit.
        memory_bytes: At most; `None`: no limit.

    Raises:
        OSError: It cannot be made.
    """

    def __init__(self, place: Place, name: str, *, cpu_share: float | None, memory_bytes: int | None) -> None:
        self.limits_cpu, self.limits_memory = place.cpu is not None, place.memory is not None
        self._version, self._cpu = place.version, Path()
        self._folders = list(dict.fromkeys(base / name for base in (place.cpu, place.memory) if base is not None))
        try:
            for folder in self._folders:
                folder.mkdir(exist_ok=True)
            if place.cpu is not None and cpu_share is not None:
                self._cpu = place.cpu / name
                self._limit_cpu(max(1000, round(cpu_share * PERIOD_US)))
            if place.memory is not None and memory_bytes is not None:
                limit = "memory.max" if place.version == 2 else "memory.limit_in_bytes"
                (place.memory / name / limit).write_text(str(memory_bytes))
        except OSError:
            self.remove()
            raise

    def _limit_cpu(self, quota_us: int | None) -> None:
        if self._version == 2:
            (self._cpu / "cpu.max").write_text(f"{'max' if quota_us is None else quota_us} {PERIOD_US}")
        else:
            (self._cpu / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (self._cpu / "cpu.cfs_quota_us").write_text(str(-1 if quota_us is None else quota_us))

    def lift(self) -> None:
        """Lets its processes run freely."""
        if self._cpu != Path():
            with contextlib.suppress(OSError):
                self._limit_cpu(None)

    def add(self, pid: int) -> None:
        """Puts a process into it.

        Raises:
            OSError: The process is gone, or may not be moved.
        """
        for folder in self._folders:
            (folder / "cgroup.procs").write_text(str(pid))

    def remove(self) -> None:
        """Removes it; its processes must have ended."""
        for folder in self._folders:
            with contextlib.suppress(OSError):
                folder.rmdir()
