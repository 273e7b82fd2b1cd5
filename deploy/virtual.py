"""Many devices in one process: `python -m deploy.virtual CONFIG.toml`.

Each has its own name, connection, will, spool, part of the data, receipts, residual and energy report, and is the same
`edge_client` session as on a board. They share the engine, the graphs, the data set, one copy of the model, one thread
for the network and one for the work, on which they train one after the other.

*A device's clock stands still while the process works for another*, so that durations are what they would be for a
device alone: nobody waits on a board for other boards' training. Devices behind a shaped link have the true clock,
since bytes on a link do not wait.

A process that ends in a crash is started again, and all of its devices resume from their spools.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import queue
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from contract.configuration import decode_toml
from contract.errors import EnvironmentFaultError, SpikeleakError
from contract.link import Link
from contract.perceptual import Perceptual
from contract.switchboard import Switchboard
from deploy.attendance import Attendance, ChurnSection
from deploy.shared_models import ModelShelf, SharedModels
from deploy.shared_preparation import SharedPreparation
from edge_client.session import Message, Session, load_energy_model
from edge_client.settings import ClientSettings
from hardware.energy_model import EnergyModel

log = logging.getLogger(__name__)

INTERRUPTED = 130
TICK_S = 1.0
"""How often each device looks at its timers."""
_ATTEND_S = 0.1
_WAIT_S = 0.05
_INBOX = 128
"""Messages that may wait before no more are read: chunks are up to a quarter of a megabyte."""
_OPENINGS = 8
"""Devices that are opened between two looks at what has come."""


class VirtualDevice(ClientSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One device.

    Attributes:
        shaped: Whether its link is shaped: then its clock is the true one.
        pause: Seconds that it rests before each training, as multiples of the last training's time: a slower board's
            update comes that much later.
    """

    shaped: bool = False
    pause: Annotated[float, Meta(ge=0)] = 0.0


class VirtualSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the process is told.

    Attributes:
        devices: Its devices, all of one run.
        churn: When they come and go; `None`: they stay.
    """

    devices: Annotated[tuple[VirtualDevice, ...], Meta(min_length=1)]
    churn: ChurnSection | None = None


class WorkTime:
    """Whose work the process's time goes to."""

    def __init__(self) -> None:
        self._total_s = 0.0
        self._own_s: dict[str, float] = {}
        self.node = "-"

    @contextmanager
    def of(self, node: str) -> Iterator[None]:
        """Work for one device."""
        began_s, self.node = time.monotonic(), node
        try:
            yield
        finally:
            taken_s, self.node = time.monotonic() - began_s, "-"
            self._total_s += taken_s
            self._own_s[node] = self._own_s.get(node, 0.0) + taken_s

    def clock(self, node: str) -> float:
        """Monotonic seconds that stand still while the process works for others."""
        return time.monotonic() - (self._total_s - self._own_s.get(node, 0.0))


class _Member:
    """A device's place: its session while it is here, and what it waits for."""

    def __init__(self, settings: VirtualDevice, attendance: Attendance | None) -> None:
        self.settings, self.attendance = settings, attendance
        self.session: Session | None = None
        self.finished = False
        self.asleep: list[Message] | None = None
        self.rest_until_s: float | None = None
        self.trained_s = 0.0


class _Process:
    """The loop of the work."""

    def __init__(self, settings: VirtualSettings, stop: threading.Event) -> None:
        self._stop = stop
        self._inbox: queue.SimpleQueue[tuple[_Member, Session | None, Message]] = queue.SimpleQueue()
        self._faults: list[EnvironmentFaultError] = []
        self.work = WorkTime()
        self._board = Switchboard(full=lambda: self._inbox.qsize() > _INBOX)
        self._shelf = ModelShelf()
        self._preparation = SharedPreparation()
        self._energy: dict[str, EnergyModel] = {}
        lpips = settings.devices[0].lpips
        self._perceptual = None if lpips is None else Perceptual(lpips)
        began_s = time.monotonic()
        self._members = [
            _Member(
                device,
                None if settings.churn is None else Attendance(settings.churn, device.node, began_s=began_s),
            )
            for device in settings.devices
        ]
        self._to_open: deque[_Member] = deque()
        self._busy: dict[_Member, None] = {}
        self._look_s = self._attend_s = 0.0
        self._churns = settings.churn is not None

    # --- a device comes and goes ---------------------------------------------------------------------------------

    def _open(self, member: _Member) -> None:
        settings, node = member.settings, member.settings.node
        holder: list[Session] = []

        def post(message: Message) -> None:
            self._inbox.put((member, holder[0] if holder else None, message))

        clock = time.monotonic if settings.shaped else partial(self.work.clock, node)
        profile = settings.energy_profile
        self._energy.setdefault(profile, load_energy_model(settings))
        with self.work.of(node):
            session = Session(
                settings,
                post,
                on_fault=self._faults.append,
                prepare=partial(self._preparation, settings),
                clock=clock,
                link_type=partial(Link, switchboard=self._board),
                perceptual=self._perceptual,
                energy_model=self._energy[profile],
                models=None
                if settings.shaped
                else lambda network: SharedModels(settings.run, network, self._shelf, post),
            )
        holder.append(session)
        member.session = session
        session.link.start(timeout_s=None)

    def _close(self, member: _Member, *, farewell: bool = True) -> None:
        session, member.session, member.asleep = member.session, None, None
        if session is not None:
            session.close(farewell=farewell)

    def _attend(self, now_s: float) -> None:
        """Devices come, leave, crash and sleep as their schedule says."""
        for member in self._members:
            if member.attendance is None or member.finished:
                continue
            change = member.attendance.due(now_s)
            if change is None:
                continue
            log.warning("%s: %s", member.settings.node, change)
            if change == "sleep":
                member.asleep = []
            elif change == "back" and member.asleep is not None:
                waiting, member.asleep = member.asleep, None
                for message in waiting:
                    self._inbox.put((member, member.session, message))
            elif change == "back":
                self._to_open.append(member)
            else:
                with contextlib.suppress(ValueError):
                    self._to_open.remove(member)
                self._close(member, farewell=change == "leave")

    # --- the loop -----------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Until all devices have finished, or `stop`."""
        self._board.start()
        gc.freeze()  # what was imported stays: no collection need look at it
        try:
            self._to_open.extend(m for m in self._members if m.attendance is None or m.attendance.present)
            self._begin()
            return self._live()
        finally:
            for member in self._members:
                self._close(member)
            self._board.stop()

    def _begin(self) -> None:
        """Opens the first device alone: it shows whether the broker is there, and fetches the graphs for all."""
        if not self._to_open:
            return
        first = self._to_open.popleft()
        self._open(first)
        assert first.session is not None
        first.session.link.wait_until_up()

    @property
    def _may_open(self) -> bool:
        return bool(self._to_open) and (self._preparation.made or all(m.session is None for m in self._members))

    def _live(self) -> int:
        while not all(member.finished for member in self._members):
            if self._stop.is_set():
                return INTERRUPTED
            if self._faults:
                raise self._faults[0]
            now_s = time.monotonic()
            if self._churns and now_s >= self._attend_s:
                self._attend_s = now_s + _ATTEND_S
                self._attend(now_s)
            if now_s >= self._look_s:
                self._look_s = now_s + TICK_S
                self._busy.update(dict.fromkeys(m for m in self._members if m.session is not None))
            for _ in range(_OPENINGS if self._may_open else 0):
                if self._to_open:
                    self._open(self._to_open.popleft())
            if self._take_all() == 0 and not self._work_once():
                self._wait()
        return 0

    def _wait(self) -> None:
        try:
            self._take(*self._inbox.get(timeout=_WAIT_S))
        except queue.Empty:
            return

    def _take_all(self) -> int:
        count = 0
        with contextlib.suppress(queue.Empty):
            while True:
                self._take(*self._inbox.get_nowait())
                count += 1
        return count

    def _take(self, member: _Member, session: Session | None, message: Message) -> None:
        if session is None or session is not member.session:
            return  # of an earlier life
        if member.asleep is not None:
            member.asleep.append(message)
            return
        with self.work.of(member.settings.node):
            session.take(message)
        self._busy[member] = None

    def _work_once(self) -> bool:
        """Lets one device do what it has to do; whether there is more."""
        if not self._busy:
            return False
        member = next(iter(self._busy))
        del self._busy[member]
        session = member.session
        if session is None or member.asleep is not None or not self._rested(member, session):
            return True
        began_s = time.monotonic()
        with self.work.of(member.settings.node):
            trains = session.trains
            if session.idle():
                self._busy[member] = None
        if trains:
            member.trained_s = time.monotonic() - began_s
        if session.device.finished:
            member.finished = True
            self._close(member)
        return True

    def _rested(self, member: _Member, session: Session) -> bool:
        """Whether a slower board would begin to train now: it rests before, and the others go on."""
        if member.settings.pause == 0 or not session.trains:
            return True
        now_s = time.monotonic()
        if member.rest_until_s is None:
            member.rest_until_s = now_s + member.settings.pause * member.trained_s
        if now_s < member.rest_until_s:
            self._busy[member] = None
            return False
        member.rest_until_s = None
        return True


def run_devices(settings: VirtualSettings, stop: threading.Event) -> int:
    """Lives through a run with many devices.

    Returns:
        0 when all have finished; 130 when `stop` ended them before.

    Raises:
        ConfigurationError: As a device alone.
        EnvironmentFaultError: As a device alone.
    """
    return _prepared(settings, stop).run()


def _prepared(settings: VirtualSettings, stop: threading.Event) -> _Process:
    process = _Process(settings, stop)
    named = process.work

    def name(record: logging.LogRecord) -> bool:
        record.node = named.node
        return True

    for handler in logging.getLogger().handlers:
        handler.addFilter(name)
    return process


def main(arguments: list[str] | None = None) -> int:
    """`python -m deploy.virtual CONFIG.toml`; returns the exit status."""
    (path,) = sys.argv[1:] if arguments is None else arguments
    stop = threading.Event()
    caught: list[int] = []

    def on_signal(number: int, _frame: Any) -> None:
        caught.append(number)
        stop.set()

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(node)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    try:
        status = run_devices(decode_toml(Path(path), VirtualSettings), stop)
    except SpikeleakError as error:
        print(f"devices: {error}", file=sys.stderr)
        return error.exit_status
    return 0 if caught and caught[0] == signal.SIGTERM else status


if __name__ == "__main__":
    sys.exit(main())
