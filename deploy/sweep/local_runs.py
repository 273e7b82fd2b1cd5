"""Runs of a sweep as processes on this machine, as many at a time as its cores and its memory allow."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from pathlib import Path

from contract.errors import SpikeleakError
from deploy.emulate import write_atomically
from deploy.study import to_toml
from deploy.supervisor import Party, end
from deploy.sweep.plan import Point

ASSUMED_BYTES = 300 * 2**20
"""What one process of a run is taken to need before any run has been seen."""
RESERVE_BYTES = 512 * 2**20
"""Memory that is left to the rest of the machine."""
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_RESTARTS = 1
"""Of a run that crashed; it goes on where it stopped."""


class LocalRuns:
    """Starts and watches runs.

    Another run is started while fewer than `parallel` are alive and the machine has as much memory available as the
    largest run so far has taken at its peak (before the first: an assumption), and `RESERVE_BYTES` beside it.

    Args:
        folder: Where the runs' folders lie, named after their points.
        parallel: Runs at a time at most.
    """

    def __init__(self, folder: Path, parallel: int) -> None:
        self._folder, self._parallel = folder, parallel
        self._alive: dict[str, tuple[Point, Party]] = {}
        self._largest_bytes = 0

    def start(self, point: Point) -> bool:
        """Starts a run from its beginning, if there is room for one and nobody else is writing to its folder."""
        directory = self._folder / point.name
        if len(self._alive) >= self._parallel or not self._fits(point) or _busy(directory):
            return False
        shutil.rmtree(directory, ignore_errors=True)  # an interrupted run: see `session`
        settings = self._folder / f"{point.name}.toml"
        write_atomically(settings, to_toml(point.study))
        arguments = ["deploy.cli", "run", str(settings), "--out", str(directory)]
        party = Party(f"run {point.name}", arguments, self._folder / f"{point.name}.log", max_restarts=_RESTARTS)
        party.start()
        self._alive[point.name] = point, party
        return True

    def _fits(self, point: Point) -> bool:
        if not self._alive:
            return True
        processes = (point.study.clients + 3) * (1 + (point.study.twin is not None))
        need_bytes = self._largest_bytes or ASSUMED_BYTES * processes
        return available_bytes() >= need_bytes + RESERVE_BYTES

    def poll(self) -> dict[str, str]:
        """Looks after all runs once.

        Returns:
            For each that ended now, by name: why it failed, empty where it did not.
        """
        ended: dict[str, str] = {}
        for name, (_, party) in self._alive.items():
            if party.pid is not None:
                self._largest_bytes = max(self._largest_bytes, tree_bytes(party.pid))
            try:
                party.watch()
            except SpikeleakError as error:
                ended[name] = str(error)
                continue
            if party.finished:
                ended[name] = ""
        for name in ended:
            del self._alive[name]
        return ended

    def close(self) -> None:
        """Ends what still runs; it can be resumed."""
        end([party for _, party in self._alive.values()], grace_s=20.0)


def _busy(directory: Path) -> bool:
    """Whether a run of an earlier life, which is being ended, still holds the folder."""
    lock = directory / ".lock"
    if not lock.exists():
        return False
    with lock.open("r") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def available_bytes() -> int:
    """Memory that new processes can have without swapping (``MemAvailable``)."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def tree_bytes(root: int) -> int:
    """Resident memory of a process and all below it; shared pages count in each."""
    parents: dict[int, list[int]] = {}
    resident: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            after_name = (entry / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            continue  # it ended while we looked
        parents.setdefault(int(after_name[1]), []).append(int(entry.name))
        resident[int(entry.name)] = int(after_name[21]) * _PAGE_BYTES
    total, waiting = 0, [root]
    while waiting:
        process = waiting.pop()
        total += resident.get(process, 0)
        waiting += parents.get(process, [])
    return total


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def pause() -> None:
    """Between two looks."""
    time.sleep(0.2)
