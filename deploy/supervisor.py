"""Processes of one run on this machine: started, watched, restarted after a crash, ended together.

Each party is an operating-system process of its own with its own log file. A party that ends with a crash or a signal
is started again, as a service manager would do on a board; one that ends with status 2 has a configuration that cannot
work and ends the run.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from contract.errors import ConfigurationError, EnvironmentFaultError
from deploy.attendance import Change

log = logging.getLogger(__name__)

_RESTART_DELAY_S = 1.0
_STOP_TIMEOUT_S = 8.0
_POLL_S = 0.05
_LEAST_FREE_BYTES = 64 * 1024
_PR_SET_PDEATHSIG = 1
_SIGNALS: dict[Change, signal.Signals] = {
    "leave": signal.SIGTERM,
    "crash": signal.SIGKILL,
    "sleep": signal.SIGSTOP,
    "back": signal.SIGCONT,
}


def end_with_parent() -> None:
    """Asks Linux to send SIGTERM to this process when its parent dies, so that a killed run leaves no orphans."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def module_environment() -> dict[str, str]:
    """Environment in which `python -m` of a child finds this program, and nothing of the user's working directory.

    Without `PYTHONSAFEPATH` a folder `server/` in the directory where a run is started would stand before ours.
    """
    root = Path(__file__).resolve().parent.parent
    named = [os.environ.get("PYTHONPATH", "")]
    if root.name not in {"site-packages", "dist-packages"}:  # an unpacked source tree is on no path by itself
        named.append(str(root))
    found = {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}
    path = os.pathsep.join(filter(None, named))
    return {**found, "PYTHONPATH": path} if path else found


def disk_fault(folder: Path) -> str:
    """Says that the disk is full, if it is: then a log may not hold a process's own last words."""
    free = shutil.disk_usage(folder).free
    if free >= _LEAST_FREE_BYTES:
        return ""
    return f"the disk that holds {folder} has {free} bytes left; make room and run again with the same --out"


class Party:
    """One process.

    Args:
        name: For messages.
        arguments: Arguments after `python -m`.
        log_path: File that collects its standard output and error.
        max_restarts: Crashes that are forgiven.
        on_start: Called with the process number of each of its lives.
    """

    def __init__(
        self,
        name: str,
        arguments: list[str],
        log_path: Path,
        *,
        max_restarts: int,
        on_start: Callable[[int], None] = lambda _pid: None,
    ) -> None:
        self.name, self.arguments, self.log_path, self.max_restarts = name, arguments, log_path, max_restarts
        self.restarts = 0
        self.finished = False
        self.away = False
        self._sent_away = False
        self._on_start = on_start
        self._process: subprocess.Popen[bytes] | None = None
        self._start_at_s = 0.0

    @property
    def pid(self) -> int | None:
        """Process number while it runs."""
        return None if self._process is None or self._process.poll() is not None else self._process.pid

    def start(self) -> None:
        """Starts the process."""
        environment = {**module_environment(), "OMP_NUM_THREADS": "1"}
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log_file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=log_file,
                stderr=log_file,
                env=environment,
                start_new_session=True,
                preexec_fn=end_with_parent,  # noqa: PLW1509 - calls one function of libc
            )
        self._sent_away = False
        self._on_start(self._process.pid)

    def watch(self) -> None:
        """Looks after the process once.

        Raises:
            ConfigurationError: It ended with status 2.
            EnvironmentFaultError: It crashed more often than is forgiven.
        """
        if self.finished or (self.away and self._process is None):
            return
        if self._process is None:
            if time.monotonic() >= self._start_at_s:
                self.start()
            return
        status = self._process.poll()
        if status is None:
            return
        self._process = None
        if self._sent_away:
            return
        if status == 0:
            self.finished = True
        elif status == ConfigurationError.exit_status:
            raise ConfigurationError(f"{self.name}: {self.last_line()} (log: {self.log_path})")
        elif self.restarts >= self.max_restarts:
            raise EnvironmentFaultError(
                f"{self.name} ended {self.restarts + 1} times, the last time with status {status}: "
                f"{disk_fault(self.log_path.parent) or self.last_line()} (log: {self.log_path})"
            )
        else:
            self.restarts += 1
            self._start_at_s = time.monotonic() + _RESTART_DELAY_S
            log.warning("%s ended with status %d; starting it again (%d)", self.name, status, self.restarts)

    def last_line(self) -> str:
        """The last line of its log."""
        lines = self.log_path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else "no output"

    def change(self, what: Change) -> None:
        """Lets the process leave, crash, sleep or come back, as a schedule says (`deploy.attendance`)."""
        log.info("%s: %s", self.name, what)
        self.away = what != "back"
        if self._process is not None and self._process.poll() is None:
            self._sent_away = self._sent_away or what in {"leave", "crash"}
            self._process.send_signal(_SIGNALS[what])

    def terminate(self) -> None:
        """Asks the process to end."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.send_signal(signal.SIGCONT)  # one that sleeps must wake to hear it

    def kill(self) -> None:
        """Ends the process by force if it still runs, and waits for it."""
        if self._process is None:
            return
        if self._process.poll() is None:
            log.warning("%s did not end when asked: killed", self.name)
            self._process.kill()
        self._process.wait()


def end(
    parties: Iterable[Party], *, grace_s: float = _STOP_TIMEOUT_S, hurry: Callable[[], bool] = lambda: False
) -> None:
    """Ends all parties: asks, waits, kills.

    Args:
        parties: The processes.
        grace_s: How long they may take together.
        hurry: Looked at while waiting; `True` kills at once.
    """
    listed = list(parties)
    for party in listed:
        party.terminate()
    deadline = time.monotonic() + grace_s
    while any(party.pid is not None for party in listed) and time.monotonic() < deadline and not hurry():
        time.sleep(_POLL_S)
    for party in listed:
        party.kill()
