"""When rounds open and close, as a pure function: (state, event) -> (state, actions).

No clock, no network, no random state: time is in the events, the draw of devices is seeded by (seed, round, attempt).
The same events give the same actions, whoever carries them out. Asynchronous rounds: `buffered_rounds`.

    waiting --enough devices--> open --k updates, or deadline with >= 1--> (next round) open … --> finished
                                  `--deadline with none--> opened again, at most `max_attempts` times --> failed
"""

from __future__ import annotations

import msgspec

from server import buffered_rounds, secure_rounds
from server.course import (
    Action,
    Admitted,
    CloseRound,
    Course,
    EmptyRound,
    Event,
    Fail,
    Finish,
    Invite,
    MakeVersion,
    Offline,
    Online,
    OpenRound,
    Phase,
    Relay,
    Spoke,
    State,
    Tick,
    Unmask,
    Unmasked,
)
from server.drawing import draw
from server.secure_rounds import LEAST_DEVICES
from server.settings import ScheduleEntry

__all__ = [
    "Action",
    "Admitted",
    "CloseRound",
    "Course",
    "EmptyRound",
    "Event",
    "Fail",
    "Finish",
    "Invite",
    "MakeVersion",
    "Offline",
    "Online",
    "OpenRound",
    "Phase",
    "Relay",
    "Spoke",
    "State",
    "Tick",
    "Unmask",
    "Unmasked",
    "advance",
    "draw",
]


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
    state = _absorb(course, state, event)
    for _ in range(4):  # close, finish or open again: at most a few transitions per event
        state, action = _transition(course, state, event.at_s)
        if action is None:
            break
        actions.append(action)
    return state, tuple(actions)


def _absorb(course: Course, state: State, event: Event) -> State:
    if course.fedbuff(state.round) is not None:
        return buffered_rounds.absorb(state, event)
    if course.secure(state.round) is not None:
        return secure_rounds.absorb(state, event)
    return _absorb_plain(state, event)


def _absorb_plain(state: State, event: Event) -> State:
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
    fedbuff = course.fedbuff(state.round)
    if fedbuff is not None:
        state, action = buffered_rounds.transition(course, fedbuff, state, at_s)
        if action is not None:
            return state, action
    secure = course.secure(state.round)
    if state.phase == "open" and secure is not None:
        reason = secure_rounds.settled(state)
        return secure_rounds.transition(course, secure, state, at_s) if reason is None else _close(state, at_s, reason)
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
    fedbuff = course.fedbuff(state.round)
    if fedbuff is not None:
        return state.versions >= fedbuff.versions or _gathered(course, state, at_s)
    already = len(state.delivered)
    if already and already >= _needed(course.entry(state.round), len(state.invited)):
        return True
    return _gathered(course, state, at_s)


def _gathered(course: Course, state: State, at_s: float) -> bool:
    """Whether the devices are there: in a life's beginning all of them, or enough for long enough; later any."""
    if course.secure(state.round) is not None and len(state.online) < LEAST_DEVICES:
        return False
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
    done = frozenset(node for node, _ in state.delivered)
    if entry.fedbuff is not None:
        done = buffered_rounds.resting(entry.fedbuff, state)
    wanted = entry.clients if entry.clients is not None else len(state.online | done)
    places = wanted if entry.fedbuff else max(0, wanted - len(done))  # who rests holds none
    selected = draw(state.online - done, places, seed=course.seed, round_=state.round, attempt=attempt)
    exchange = None if entry.secure is None else secure_rounds.begun(entry.secure, len(selected), at_s)
    needed = entry.fedbuff.buffer if entry.fedbuff else max(1, _needed(entry, len(selected) + len(done)))
    state = msgspec.structs.replace(
        state,
        phase="open",
        attempt=attempt,
        started=state.started or _gathered(course, state, at_s),
        selected=selected,
        invited=state.invited | set(selected),
        needed=needed,
        since_s=at_s,
        exchange=exchange,
    )
    return state, OpenRound(state.round, attempt, selected, tuple(sorted(state.invited)), needed)


def _leave_open(course: Course, state: State, at_s: float) -> tuple[State, Action | None]:
    fedbuff = course.fedbuff(state.round)
    complete = len(state.delivered) >= state.needed if fedbuff is None else state.versions >= fedbuff.versions
    due = at_s - state.since_s >= course.entry(state.round).deadline_s
    if complete or (due and state.delivered):
        return _close(state, at_s, "complete" if complete else "deadline", waited=fedbuff is None)
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


def _close(state: State, at_s: float, reason: str, *, waited: bool = True) -> tuple[State, CloseRound]:
    done = {node for node, _ in state.delivered}
    action = CloseRound(
        state.round,
        state.attempt,
        reason,
        tuple(sorted(uid for _, uid in state.delivered)),
        tuple(node for node in state.selected if node not in done) if waited else (),
    )
    after = State(phase="waiting", round=state.round + 1, started=state.started, online=state.online, since_s=at_s)
    return after, action
