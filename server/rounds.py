"""When rounds open and close, as a pure function: (state, event) -> (state, actions).

No clock, no network, no random state: time is in the events, the draw of devices is seeded by (seed, round, attempt).
The same events give the same actions, whoever carries them out.

    waiting --enough devices--> open --k updates, or deadline with >= 1--> (next round) open … --> finished
                                  `--deadline with none--> opened again, at most `max_attempts` times --> failed
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec
import numpy as np

from server.settings import ScheduleEntry

Phase = Literal["waiting", "open", "finished", "failed"]


class Course(msgspec.Struct, frozen=True, kw_only=True):
    """What does not change during a run.

    Attributes:
        schedule: One entry per round, repeats written out.
        seed: Seed of the draw of devices.
        clients, start_with, grace_s, max_attempts: As in `ServerSettings`.
    """

    schedule: tuple[ScheduleEntry, ...]
    seed: int
    clients: int
    start_with: int | None = None
    grace_s: float = 30.0
    max_attempts: int = 5

    def entry(self, round_: int) -> ScheduleEntry:
        """The schedule's entry for a round, counted from 1."""
        return self.schedule[round_ - 1]


class State(msgspec.Struct, frozen=True, kw_only=True):
    """Where a run stands.

    Attributes:
        round: The round that is open or next to open, from 1.
        attempt: How often that round has been opened, over all lives of the server.
        empty: Openings of that round in this life that ended without an update.
        started: Whether a round has been opened to its devices in this life: from then on nobody waits for all. A round
            that an earlier life left complete is closed without them, and does not count.
        online: Devices that are online.
        invited: Devices that were asked for this round in any opening: they may deliver.
        selected: Devices that are waited for.
        needed: Updates that close the round.
        delivered: (node, uid) of the updates admitted for this round.
        since_s: When the present phase began.
    """

    phase: Phase = "waiting"
    round: int = 1
    attempt: int = 0
    empty: int = 0
    started: bool = False
    online: frozenset[str] = frozenset()
    invited: frozenset[str] = frozenset()
    selected: tuple[str, ...] = ()
    needed: int = 0
    delivered: tuple[tuple[str, str], ...] = ()
    since_s: float = 0.0

    @property
    def takes_updates(self) -> bool:
        """Whether the round takes updates: it is open, or was open and is about to be opened again."""
        return self.phase == "open" or (self.phase == "waiting" and bool(self.invited))


class Online(msgspec.Struct, frozen=True):
    """A device came, or came back."""

    at_s: float
    node: str


class Offline(msgspec.Struct, frozen=True):
    """A device left or died. It is still waited for until the deadline: it may come back."""

    at_s: float
    node: str


class Admitted(msgspec.Struct, frozen=True):
    """An update is in the ledger."""

    at_s: float
    node: str
    uid: str
    round: int


class Tick(msgspec.Struct, frozen=True):
    """Time has passed."""

    at_s: float


Event = Online | Offline | Admitted | Tick


class OpenRound(msgspec.Struct, frozen=True):
    """Ask the selected devices for updates."""

    round: int
    attempt: int
    selected: tuple[str, ...]
    invited: tuple[str, ...]
    needed: int


class CloseRound(msgspec.Struct, frozen=True):
    """The round is over; aggregate what was admitted. `reason`: `complete` or `deadline`."""

    round: int
    attempt: int
    reason: str
    uids: tuple[str, ...]
    missing: tuple[str, ...]


class EmptyRound(msgspec.Struct, frozen=True):
    """The deadline passed without any update; the round will be opened again."""

    round: int
    attempt: int
    selected: tuple[str, ...]


class Finish(msgspec.Struct, frozen=True):
    """The schedule is done."""


class Fail(msgspec.Struct, frozen=True):
    """The run cannot go on."""

    reason: str


Action = OpenRound | CloseRound | EmptyRound | Finish | Fail


def draw(nodes: Iterable[str], count: int, *, seed: int, round_: int, attempt: int) -> tuple[str, ...]:
    """Devices drawn without repetition, in sorted order; the same for the same arguments.

    Args:
        nodes: Candidates in any order.
        count: How many; all when there are fewer.
        seed: Seed of the run.
        round_: Round.
        attempt: Opening of that round.
    """
    names = sorted(nodes)
    if count >= len(names):
        return tuple(names)
    chosen = np.random.default_rng([seed, round_, attempt]).choice(len(names), size=count, replace=False)
    return tuple(names[i] for i in sorted(chosen.tolist()))


def advance(course: Course, state: State, event: Event) -> tuple[State, tuple[Action, ...]]:
    """One step of the run.

    Args:
        course: What does not change.
        state: Where the run stands.
        event: What happened; its time is never earlier than the last event's.

    Returns:
        The new state and what to do, in order.
    """
    actions: list[Action] = []
    state = _absorb(state, event)
    for _ in range(4):  # close, finish or open again: at most a few transitions per event
        state, action = _transition(course, state, event.at_s)
        if action is None:
            break
        actions.append(action)
    return state, tuple(actions)


def _absorb(state: State, event: Event) -> State:
    if isinstance(event, Online):
        return msgspec.structs.replace(state, online=state.online | {event.node})
    if isinstance(event, Offline):
        return msgspec.structs.replace(state, online=state.online - {event.node})
    if isinstance(event, Admitted) and state.takes_updates and event.round == state.round:
        if any(event.node == node or event.uid == uid for node, uid in state.delivered):
            return state
        return msgspec.structs.replace(state, delivered=(*state.delivered, (event.node, event.uid)))
    return state


def _transition(course: Course, state: State, at_s: float) -> tuple[State, Action | None]:
    if state.phase == "waiting":
        return _leave_waiting(course, state, at_s)
    if state.phase == "open":
        return _leave_open(course, state, at_s)
    return state, None


def _leave_waiting(course: Course, state: State, at_s: float) -> tuple[State, Action | None]:
    if state.round > len(course.schedule):
        return msgspec.structs.replace(state, phase="finished", since_s=at_s), Finish()
    if not _enough(course, state, at_s):
        return state, None
    return _open(course, state, at_s)


def _enough(course: Course, state: State, at_s: float) -> bool:
    """Whether the round can open: it is complete already, or its devices are there."""
    already = len(state.delivered)
    if already and already >= _needed(course.entry(state.round), len(state.invited)):
        return True
    return _gathered(course, state, at_s)


def _gathered(course: Course, state: State, at_s: float) -> bool:
    """Whether the devices are there: in a life's beginning all of them, or enough for long enough; later any."""
    if state.started:
        return bool(state.online)
    if len(state.online) >= course.clients:
        return True
    waited = at_s - state.since_s >= course.grace_s
    return course.start_with is not None and waited and len(state.online) >= course.start_with


def _needed(entry: ScheduleEntry, members: int) -> int:
    return members if entry.min_updates is None else min(entry.min_updates, members)


def _open(course: Course, state: State, at_s: float) -> tuple[State, OpenRound]:
    entry = course.entry(state.round)
    attempt = state.attempt + 1
    done = {node for node, _ in state.delivered}
    wanted = entry.clients if entry.clients is not None else len(state.online | done)
    selected = draw(
        state.online - done, max(0, wanted - len(done)), seed=course.seed, round_=state.round, attempt=attempt
    )
    needed = max(1, _needed(entry, len(selected) + len(done)))
    state = msgspec.structs.replace(
        state,
        phase="open",
        attempt=attempt,
        started=state.started or _gathered(course, state, at_s),
        selected=selected,
        invited=state.invited | set(selected),
        needed=needed,
        since_s=at_s,
    )
    return state, OpenRound(state.round, attempt, selected, tuple(sorted(state.invited)), needed)


def _leave_open(course: Course, state: State, at_s: float) -> tuple[State, Action | None]:
    complete = len(state.delivered) >= state.needed
    due = at_s - state.since_s >= course.entry(state.round).deadline_s
    if complete or (due and state.delivered):
        return _close(state, at_s, "complete" if complete else "deadline")
    if not due:
        return state, None
    empty = state.empty + 1
    if empty >= course.max_attempts:
        reason = (
            f"round {state.round} got no update in {empty} openings of {course.entry(state.round).deadline_s:g} s: "
            "see the devices' logs, or give it a longer deadline_s"
        )
        return msgspec.structs.replace(state, phase="failed", empty=empty, since_s=at_s), Fail(reason)
    after = msgspec.structs.replace(state, phase="waiting", empty=empty, since_s=at_s)
    return after, EmptyRound(state.round, state.attempt, state.selected)


def _close(state: State, at_s: float, reason: str) -> tuple[State, CloseRound]:
    done = {node for node, _ in state.delivered}
    action = CloseRound(
        state.round,
        state.attempt,
        reason,
        tuple(sorted(uid for _, uid in state.delivered)),
        tuple(node for node in state.selected if node not in done),
    )
    after = State(phase="waiting", round=state.round + 1, started=state.started, online=state.online, since_s=at_s)
    return after, action
