"""A command as its user starts it: wall time, processor time and memory of its whole tree of processes."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec
import psutil

from deploy.supervisor import end_with_parent

LOOK_S = 0.1


class Tree(msgspec.Struct, kw_only=True):
    """What a command and all of its descendants took.

    Attributes:
        peak_rss_mb: Largest sum of resident memory, pages that several share counted in each.
        peak_pss_mb: The same with shared pages divided among those who share them: what the machine really gave.
        processor_s: Of all processes, as last seen of each.
        largest: Peak resident memory of each kind of process, by the last words of its command.
    """

    status: int = 0
    wall_s: float = 0.0
    peak_rss_mb: float = 0.0
    peak_pss_mb: float = 0.0
    processor_s: float = 0.0
    processes: int = 0
    output: str = ""


def run(command: list[str], log: Path, *, env: Mapping[str, str], cwd: Path, timeout_s: float) -> Tree:
    """Runs a command to its end and looks at its tree ten times a second.

    Raises:
        RuntimeError: It failed; says the end of its output.
        subprocess.TimeoutExpired: It took too long.
    """
    found, seen = Tree(), dict[int, float]()
    began_s = time.monotonic()
    with log.open("wb") as file:
        child = subprocess.Popen(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=dict(env),
            cwd=cwd,
            preexec_fn=end_with_parent,  # noqa: PLW1509
        )
        try:
            root = psutil.Process(child.pid)
            while child.poll() is None:
                _look(root, found, seen)
                if time.monotonic() - began_s > timeout_s:
                    raise subprocess.TimeoutExpired(command, timeout_s)
                time.sleep(LOOK_S)
        finally:
            child.kill()
            child.wait()
    found.status, found.wall_s = child.returncode, time.monotonic() - began_s
    found.processor_s, found.output = sum(seen.values()), log.read_text(errors="replace")
    if found.status:
        raise RuntimeError(f"{' '.join(command)} ended with {found.status}: {found.output[-2000:]}")
    return found


def _look(root: psutil.Process, found: Tree, seen: dict[int, float]) -> None:
    rss = pss = count = 0
    with contextlib.suppress(psutil.Error):
        for process in [root, *root.children(recursive=True)]:
            with contextlib.suppress(psutil.Error, OSError):
                rss += process.memory_info().rss
                pss += _pss_bytes(process.pid)
                times = process.cpu_times()
                seen[process.pid] = times.user + times.system
                count += 1
    found.peak_rss_mb, found.peak_pss_mb = max(found.peak_rss_mb, rss / 1e6), max(found.peak_pss_mb, pss / 1e6)
    found.processes = max(found.processes, count)


def _pss_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return 1024 * int(line.split()[1])
    return 0
