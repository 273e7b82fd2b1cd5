"""`spikeleak deploy status`: all boards at once, as a table or as lines of JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.markup import escape
from rich.table import Table

from deploy.boards.playbook import Fault
from deploy.boards.presence import Heard, heard
from deploy.boards.rollout import Fleet, Show
from deploy.boards.status import UNREACHABLE, Status, read, with_broker
from deploy.enroll import recorded

NOT_ASKED = Heard(unavailable="not asked: --enrolment names the folder of its certificates")


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """What was found.

    Attributes:
        boards: Each board, in the inventory's order.
        faults: Boards that are not reached, or whose clock is off.
        notes: Contradictions of ssh and broker, and why the broker was not heard.
    """

    boards: tuple[Status, ...]
    faults: dict[str, Fault]
    notes: tuple[str, ...]


def look(meant: Fleet, enrolment: Path | None, *, clock_limit_s: int, show: Show) -> Overview:
    """Asks the boards over ssh, then the broker.

    Args:
        meant: The boards.
        enrolment: Folder whose broker is asked; `None` asks none.
        clock_limit_s: A clock that is further off is a fault.
        show: Sees each event of Ansible at once.

    Raises:
        ConfigurationError: Not an enrolment folder, or Ansible is not installed.
        EnvironmentFaultError: Ansible fails. A broker that is not reached is a note.
    """
    if enrolment is not None:
        recorded(enrolment)
    outcome = meant.play("status", {}, show)
    broker = NOT_ASKED if enrolment is None else heard(enrolment)
    faults, found = dict(outcome.faults), list[Status]()
    for board in meant.boards:
        event = outcome.last(board.name, "read its answer")
        one = read(board.name, event.told) if event else Status(board=board.name, unit=UNREACHABLE)
        found.append(with_broker(one, broker))
        fault = _clock_fault(one, clock_limit_s)
        if fault is not None:
            faults[board.name] = fault
    notes = [f"{one.board}: {one.differ}" for one in found if one.differ]
    if enrolment is not None and broker.unavailable:
        notes.append(broker.unavailable)
    return Overview(boards=tuple(found), faults=faults, notes=tuple(notes))


def _clock_fault(one: Status, limit_s: int) -> Fault | None:
    if one.clock_s is None or abs(one.clock_s) - (one.clock_error_s or 0) <= limit_s:
        return None
    off = f"the board is {one.clock_s:.1f} s off this machine (limit {limit_s} s)"
    return Fault(board=one.board, text=f"clock: {off}: on the board timedatectl set-ntp true")


def table(boards: Sequence[Status]) -> Table:
    """One row a board."""
    names = ("board", "by ssh", "by broker", "round", "power", "release", "restarts", "clock", "last error")
    made = Table(*names, box=None, pad_edge=False)
    for one in boards:
        starts = "unknown" if one.starts is None else str(one.starts)
        error = "unavailable(no journal read)" if one.error is None else one.error or "none"
        row = (
            one.board,
            one.unit,
            one.broker,
            one.round or "unknown",
            one.power,
            one.release,
            starts,
            one.clock,
            error,
        )
        made.add_row(*map(escape, row))
    return made


def line(one: Status) -> str:
    """A board as a JSON object."""
    told = {**msgspec.to_builtins(one), "power": one.power}
    return msgspec.json.encode(told).decode()
