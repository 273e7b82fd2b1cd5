"""Asynchronous rounds (FedBuff, `server.aggregation.fedbuff`): the part of the round machine that is theirs.

    open --an update--> open, the device begins anew (with `waits`: once the version with its update is made)
         --the buffer is full, or deadline with >= 1 in it--> a version is made; after `versions` of them, closed

A round is opened, opened again and given up like any other. While it is open, those who come are added to it up to the
number of devices that train at one time; with fewer of them than devices, one that has delivered gives its place to
another. What is in the ledger decides: a life that begins with a full buffer makes its version before all else.
"""

from __future__ import annotations

import msgspec

from server.aggregation import FedBuff
from server.course import Action, Admitted, Course, Event, Invite, MakeVersion, Offline, Online, State
from server.drawing import draw


def absorb(state: State, event: Event) -> State:
    """The state with what an event tells."""
    if isinstance(event, Online):
        return msgspec.structs.replace(state, online=state.online | {event.node})
    if isinstance(event, Offline):
        return _without(msgspec.structs.replace(state, online=state.online - {event.node}), event.node)
    if not (isinstance(event, Admitted) and state.takes_updates and event.round == state.round):
        return state
    if any(event.uid == uid for _, uid in state.delivered):
        return state
    state = msgspec.structs.replace(state, delivered=(*state.delivered, (event.node, event.uid)))
    return _without(state, event.node)


def _without(state: State, node: str) -> State:
    """The device's place is free; `_invited` gives it to another, or to it again."""
    return msgspec.structs.replace(state, selected=tuple(name for name in state.selected if name != node))


def resting(fedbuff: FedBuff, state: State) -> frozenset[str]:
    """Devices that are to wait for the version with their update before they begin anew."""
    return frozenset(node for node, _ in state.delivered) if fedbuff.waits else frozenset()


def overdue(course: Course, state: State) -> bool:
    """Whether the ledger holds a full buffer of which an earlier life made no version."""
    fedbuff = course.fedbuff(state.round)
    return fedbuff is not None and _full(fedbuff, state)


def _full(fedbuff: FedBuff, state: State) -> bool:
    return len(state.delivered) >= fedbuff.buffer and state.versions < fedbuff.versions


def transition(course: Course, fedbuff: FedBuff, state: State, at_s: float) -> tuple[State, Action | None]:
    """What only an asynchronous round does.

    Args:
        course: What does not change.
        fedbuff: The round's settings.
        state: Where the run stands.
        at_s: Now.

    Returns:
        The state after it and what to do; `None` when there is nothing of that kind.
    """
    due = state.phase == "open" and at_s - state.since_s >= course.entry(state.round).deadline_s
    if state.takes_updates and (_full(fedbuff, state) or (due and state.delivered)):
        after = msgspec.structs.replace(
            state,
            delivered=(),
            versions=state.versions + 1,
            empty=0,
            selected=() if due else state.selected,  # who has not delivered by then gives up the place
            since_s=at_s,
        )
        return after, MakeVersion(state.round, tuple(uid for _, uid in state.delivered))
    if state.phase == "open" and state.versions < fedbuff.versions:
        return _invited(course, fedbuff, state)
    return state, None


def _invited(course: Course, fedbuff: FedBuff, state: State) -> tuple[State, Action | None]:
    """The state with free places given to devices that are there; an action when one of them is new to the round."""
    wanted = course.entry(state.round).clients
    free = state.online - set(state.selected) - resting(fedbuff, state)
    places = len(free) if wanted is None else wanted - len(state.selected)
    if not free or places < 1:
        return state, None
    turn = (state.versions, len(state.delivered))
    drawn = draw(free, places, seed=course.seed, round_=state.round, attempt=state.attempt, turn=turn)
    selected = tuple(sorted({*state.selected, *drawn}))
    after = msgspec.structs.replace(state, selected=selected, invited=state.invited | set(drawn))
    if after.invited == state.invited:
        return after, None
    return after, Invite(state.round, state.attempt, selected, tuple(sorted(after.invited)))
