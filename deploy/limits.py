"""Makes a process as slow and as small as a board: by control groups where allowed, else by stopping it in between.

The fallback for the processor is a measured duty cycle: a process that has used more than its share of a core's time is
stopped (SIGSTOP) until it has not, at `nice` 10. For memory it is RLIMIT_DATA, which covers what a process allocates.
What was used, and the share that was reached, is recorded with the run.
"""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import signal
import threading
import time
from collections import deque
from typing import Literal, Self

import msgspec

from deploy import cgroups
from deploy.board import BoardProfile

log = logging.getLogger(__name__)

TURN_S = 0.01
WINDOW_S = 1.0
"""Over which a share is measured."""
_NICE = 10
_CPUCLOCK_SCHED = 2


class Used(msgspec.Struct, frozen=True, kw_only=True):
    """How one device was limited, and what came of it.

    Attributes:
        cpu: What held its share of the processor.
        memory: What held its memory.
        cpu_share: Asked for, of one core; `None`: no limit.
        memory_mb: Asked for; `None`: no limit.
        cpu_s: Processor seconds that it used, over all of its lives.
        busiest_share: The largest share of a core over any second.
    """

    cpu: Literal["cgroup v2", "cgroup v1", "duty cycle", "none"]
    memory: Literal["cgroup v2", "cgroup v1", "RLIMIT_DATA", "none"]
    cpu_share: float | None
    memory_mb: float | None
    cpu_s: float
    busiest_share: float


def cpu_seconds(pid: int) -> float | None:
    """Processor seconds of a process, all threads, user and system; `None` when it is gone.

    Linux makes the number of a process's clock as `clock_getcpuclockid` does: ``(~pid << 3) | CPUCLOCK_SCHED``.
    """
    try:
        return time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED)
    except OSError:
        return None


class Limited:
    """The limits of one device, through all of its lives."""

    def __init__(self, name: str, board: BoardProfile, place: cgroups.Place | None) -> None:
        self._board, self._pid = board, 0
        self._group: cgroups.Group | None = None
        self._version = 0 if place is None else place.version
        if place is not None:
            try:
                self._group = cgroups.Group(place, name, cpu_share=board.cpu_share, memory_bytes=self._memory_bytes)
            except OSError as error:
                log.warning("no control group for %s (%s): a duty cycle is used", name, error)
        self._seen: deque[tuple[float, float]] = deque()
        self._cpu_s, self._before_s, self._busiest, self._stopped = 0.0, 0.0, 0.0, False
        self._allowance_s, self._last = 0.0, (0.0, 0.0)
        self.paused = False

    @property
    def _memory_bytes(self) -> int | None:
        return None if self._board.memory_mb is None else int(1e6 * self._board.memory_mb)

    @property
    def _cycles(self) -> bool:
        return self._board.cpu_share is not None and (self._group is None or not self._group.limits_cpu)

    def begin(self, pid: int) -> None:
        """A life begins."""
        self._before_s += self._cpu_s
        self._pid, self._cpu_s, self._stopped = pid, 0.0, False
        self._seen.clear()
        self._last = (time.monotonic(), 0.0)
        with contextlib.suppress(ProcessLookupError):
            if self._group is not None:
                self._group.add(pid)
            if self._cycles:
                os.setpriority(os.PRIO_PROCESS, pid, _NICE)
            limit = self._memory_bytes
            if limit is not None and (self._group is None or not self._group.limits_memory):
                resource.prlimit(pid, resource.RLIMIT_DATA, (limit, limit))

    def turn(self, now_s: float) -> None:
        """Measures, and stops or lets go where no group does."""
        used_s = cpu_seconds(self._pid) if self._pid else None
        if used_s is None:
            return
        self._cpu_s = used_s
        self._seen.append((now_s, used_s))
        while now_s - self._seen[0][0] > WINDOW_S:
            began_s, before_s = self._seen.popleft()
            self._busiest = max(self._busiest, (used_s - before_s) / (now_s - began_s))
        if self._cycles and not self.paused:
            self._cycle(now_s, used_s)

    def _cycle(self, now_s: float, used_s: float) -> None:
        """A bucket of processor time that fills at the board's share and holds 20 ms."""
        last_s, before_s = self._last
        self._last = (now_s, used_s)
        filled_s = self._allowance_s + (self._board.cpu_share or 1.0) * (now_s - last_s) - (used_s - before_s)
        self._allowance_s = min(filled_s, cgroups.PERIOD_US / 1e6)
        if (self._allowance_s < 0) != self._stopped:
            self._stopped = not self._stopped
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGSTOP if self._stopped else signal.SIGCONT)

    def end(self) -> None:
        """All of its lives are over, or are about to be."""
        if self._stopped and self._pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGCONT)
        if self._group is not None:
            self._group.lift()
        self._pid = 0

    def remove(self) -> None:
        """Nothing is left of it."""
        if self._group is not None:
            self._group.remove()

    def used(self) -> Used:
        """How it was limited."""
        version: Literal["cgroup v2", "cgroup v1"] = "cgroup v2" if self._version == 2 else "cgroup v1"
        board, held = self._board, self._group is not None and self._group.limits_memory
        return Used(
            cpu="none" if board.cpu_share is None else "duty cycle" if self._cycles else version,
            memory="none" if board.memory_mb is None else version if held else "RLIMIT_DATA",
            cpu_share=board.cpu_share,
            memory_mb=board.memory_mb,
            cpu_s=self._before_s + self._cpu_s,
            busiest_share=self._busiest,
        )


class Limits:
    """The limits of all devices of a run, and the thread that measures them.

    Args:
        place: Where control groups can be made; `None`: nowhere.
    """

    def __init__(self, place: cgroups.Place | None) -> None:
        self._place = place
        self._devices: dict[str, Limited] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="limits", daemon=True)

    def limited(self, name: str, board: BoardProfile) -> Limited:
        """Limits for one more device."""
        self._devices[name] = Limited(f"spikeleak-{os.getpid()}-{name}", board, self._place)
        return self._devices[name]

    def used(self) -> dict[str, Used]:
        """By device."""
        return {name: device.used() for name, device in self._devices.items()}

    def start(self) -> None:
        """Measures from now on."""
        if self._devices:
            self._thread.start()

    def __enter__(self) -> Self:
        return self

    def release(self) -> None:
        """Lets all processes run freely, so that they can end."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        for device in self._devices.values():
            device.end()

    def __exit__(self, *_: object) -> None:
        self.release()
        for device in self._devices.values():
            device.remove()

    def _run(self) -> None:
        while not self._stopping.wait(TURN_S):
            now_s = time.monotonic()
            for device in self._devices.values():
                device.turn(now_s)
