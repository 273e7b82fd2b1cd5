"""Duty cycle: a device that has nothing to do for a while sleeps, and says so in the energy of its next update.

Without `command` it does not look at its messages for so long, and the processor may rest; with one, such as
``rtcwake``, the whole machine is suspended. Then no meter on it is read: the phase `sleep` keeps its length and says
why it has no joules. A round that opens meanwhile waits, so its deadline must allow for the sleep.
"""

from __future__ import annotations

import contextlib
import logging
import subprocess
import tempfile
import time
from collections.abc import Callable
from typing import IO, Annotated

import msgspec
from msgspec import Meta

from edge_client.account import Account
from edge_client.client import ClientState, wanted

log = logging.getLogger(__name__)

_COMMAND_SLACK_S = 60.0
_LOOK_S = 1.0
"""How often a command that runs is looked at."""


class SleepSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[sleep]`: leave it out for a device that stays awake.

    Attributes:
        seconds: How long it sleeps each time.
        after_s: Seconds without anything to do after which it goes to sleep.
        command: Program and arguments that suspend the machine, ``{seconds}`` filled in as a whole number, such as
            ``["rtcwake", "--mode", "mem", "--seconds", "{seconds}"]``; it must return after that time. Empty: the
            device only rests.
    """

    seconds: Annotated[float, Meta(gt=0, le=86_400)]
    after_s: Annotated[float, Meta(ge=0)] = 2.0
    command: tuple[str, ...] = ()


def suspended_s() -> float:
    """Seconds since the boot in which this machine was suspended: the monotonic clock stood still in them."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)


def has_work(state: ClientState) -> bool:
    """Whether anything is under way, owed or still to be prepared; a device out of touch stays awake as well.

    So does one that is asked for a round with secure aggregation, as long as that is open: others wait for its answers.
    """
    under_way = state.pending or state.unscored or state.fetching is not None or state.sending
    finished = state.server is not None and state.server.status == "finished"
    server = state.server
    masks = server is not None and server.plan.secure and server.status == "open" and state.node in server.selected
    return bool(
        masks or under_way or finished or not state.connected or not state.task_hash or wanted(state) is not None
    )


class Sleeper:
    """Sends a device to sleep when it has had nothing to do for long enough.

    Args:
        settings: When and how; `None` for a device that stays awake.
        account: Books the sleep.
        clock: Monotonic seconds.
        wait: Does nothing for some seconds, or until the device is told to stop: then what it returns is true. Asked
            again and again while a command runs, so that a service manager hears of a device that sleeps.
    """

    def __init__(
        self,
        settings: SleepSettings | None,
        account: Account,
        clock: Callable[[], float],
        wait: Callable[[float], object],
    ) -> None:
        self._settings, self._account, self._clock, self._wait = settings, account, clock, wait
        self._idle_since_s: float | None = None

    def rest(self, state: ClientState) -> bool:
        """Sleeps once if it is time to; asked again and again while no message waits. Whether it slept."""
        if self._settings is None or has_work(state):
            self._idle_since_s = None
            return False
        now_s = self._clock()
        if self._idle_since_s is None:
            self._idle_since_s = now_s
        if now_s - self._idle_since_s < self._settings.after_s:
            return False
        self._idle_since_s = None
        with self._account.asleep():
            # A command that fails must not leave the device spinning: it rests instead.
            if not self._suspend(self._settings):
                self._wait(self._settings.seconds)
        return True

    def _suspend(self, settings: SleepSettings) -> bool:
        """Runs the command; whether there is one and it did its work."""
        whole = max(1, round(settings.seconds))
        command = [part.replace("{seconds}", str(whole)) for part in settings.command]
        if not command:
            return False
        try:
            with tempfile.TemporaryFile() as said:
                status = self._run(command, settings.seconds + _COMMAND_SLACK_S, said)
                said.seek(0)
                text = said.read()[-200:].decode(errors="replace").strip()
        except OSError as error:
            log.warning("sleep.command %s: %s; resting instead", command, error)
            return False
        if status:
            log.warning("sleep.command %s ended with status %d: %s", command, status, text)
        return status == 0

    def _run(self, command: list[str], limit_s: float, said: IO[bytes]) -> int:
        """Runs a command to its end, its time's or the device's; its status, negative when it was ended."""
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said) as process:  # noqa: S603 - the device's owner wrote it into the device's own settings
            end_s = time.monotonic() + limit_s
            while process.poll() is None:
                stopped = self._wait(0.0)
                if stopped or time.monotonic() > end_s:
                    process.kill()
                    break
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_LOOK_S)
            return process.wait()
