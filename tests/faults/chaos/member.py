"""One party as a process that can be harmed, and waiting for what must come."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from deploy.supervisor import end_with_parent, module_environment

PATIENCE_S = 60.0
_POLL_S = 0.02


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = PATIENCE_S) -> None:
    """Waits for a condition.

    Raises:
        AssertionError: It did not come true in time; the message is `what`.
    """
    end_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end_s:
            raise AssertionError(f"not within {timeout_s:g} s: {what}")
        time.sleep(_POLL_S)


class Member:
    """One party as a process, started as often as it takes; its log collects what all of its lives say."""

    def __init__(self, name: str, arguments: list[str], log_path: Path, environment: Mapping[str, str]) -> None:
        self.name, self.log_path = name, log_path
        self._arguments, self.environment = arguments, dict(environment)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process number of the present life."""
        assert self._process is not None, f"{self.name} was never started"
        return self._process.pid

    def start(self) -> None:
        """Begins a life."""
        with self.log_path.open("ab") as log_file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *self._arguments],
                stdin=subprocess.DEVNULL,
                stdout=log_file,
                stderr=log_file,
                env={**module_environment(), "OMP_NUM_THREADS": "1", **self.environment},
                preexec_fn=end_with_parent,  # noqa: PLW1509 - calls one function of libc
            )

    def ended(self) -> int | None:
        """Exit status of the present life; `None` while it lives."""
        assert self._process is not None, f"{self.name} was never started"
        return self._process.poll()

    def wait(self, timeout_s: float = PATIENCE_S) -> int:
        """Waits for the end of the present life; its exit status."""
        assert self._process is not None, f"{self.name} was never started"
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} did not end within {timeout_s:g} s: {self.tail()}") from None

    def send(self, number: signal.Signals) -> None:
        """Sends a signal."""
        os.kill(self.pid, number)

    def end(self, number: signal.Signals = signal.SIGTERM, timeout_s: float = PATIENCE_S) -> int:
        """Asks it to end and waits; its exit status."""
        if self.ended() is None:
            self.send(number)
        return self.wait(timeout_s)

    def kill(self) -> None:
        """Ends it by force, if it was started and lives."""
        if self._process is not None:
            if self._process.poll() is None:
                self._process.kill()
            self._process.wait()

    def log(self) -> str:
        """All that it has said."""
        return self.log_path.read_text(encoding="utf-8", errors="replace") if self.log_path.exists() else ""

    def tail(self, lines: int = 5) -> str:
        """The last lines of its log."""
        return " | ".join(self.log().strip().splitlines()[-lines:]) or "no output"
