"""Rounds with secure aggregation: the part of the round machine that is theirs. Pure; the sum itself: `unmasking`.

    open: keys --> shares --> updates --> reveals --> unmasking --> closed
            `---------`----------`-----------`-----------`--too few devices, or a fault--> opened again, or given up

Each stage ends when all have answered that are waited for, or after its time with those that did; with fewer than the
threshold the opening comes to nothing. Nothing of an opening fits into the next: its updates stay in the ledger as they
came, masked for ever, and devices make others.
"""

from __future__ import annotations

import msgspec

from contract.secure import LEAST_DEVICES, SecureAggregation
from server.course import (
    Action,
    Admitted,
    Course,
    EmptyRound,
    Event,
    Fail,
    Offline,
    Online,
    Relay,
    Spoke,
    State,
    Unmask,
    Unmasked,
)
from server.exchange import Exchange

__all__ = ["LEAST_DEVICES", "absorb", "begun", "settled", "transition"]

_replace = msgspec.structs.replace


def begun(secure: SecureAggregation, selected: int, at_s: float) -> Exchange:
    """The exchange of a round that opens to so many devices."""
    return Exchange(threshold=secure.needed(selected), since_s=at_s)


def absorb(state: State, event: Event) -> State:
    """The state with what an event tells."""
    if isinstance(event, Online):
        return _replace(state, online=state.online | {event.node})
    if isinstance(event, Offline):
        state = _replace(state, online=state.online - {event.node})
    exchange = state.exchange
    if exchange is None:
        return state
    if isinstance(event, Spoke):
        return _spoken(state, exchange, event)
    if isinstance(event, Admitted):
        return _admitted(state, exchange, event)
    if isinstance(event, Offline) and exchange.stage in {"keys", "shares"}:
        exchange = _replace(exchange, gone=exchange.gone | {event.node})
    elif isinstance(event, Unmasked) and exchange.stage == "unmasking":
        exchange = _replace(exchange, fault=event.fault)
    return _replace(state, exchange=exchange)


def _admitted(state: State, exchange: Exchange, event: Admitted) -> State:
    fits = exchange.stage == "updates" and event.round == state.round and event.node in exchange.members
    if not fits or any(event.node == node for node, _ in state.delivered):
        return state
    return _replace(state, delivered=(*state.delivered, (event.node, event.uid)))


def _spoken(state: State, exchange: Exchange, event: Spoke) -> State:
    said = event.message
    if (said.round, said.attempt) != (state.round, state.attempt) or not exchange.awaits(said):
        return state
    if said.node not in state.selected:
        return state
    kind = {"keys": "offers", "shares": "shares", "reveals": "reveals"}[exchange.stage]
    return _replace(state, exchange=_replace(exchange, **{kind: (*getattr(exchange, kind), said)}))


def transition(course: Course, secure: SecureAggregation, state: State, at_s: float) -> tuple[State, Action | None]:
    """What an open round with secure aggregation does next, but for its closing (`settled`).

    Args:
        course: What does not change.
        secure: The round's settings.
        state: Where the run stands.
        at_s: Now.

    Returns:
        The state after it and what to do; `None` when there is nothing to be done.
    """
    exchange = state.exchange
    assert exchange is not None, "an open round with secure aggregation has an exchange"
    if exchange.stage in {"keys", "shares"}:
        return _leave_setup(course, secure, state, exchange, at_s)
    if exchange.stage == "updates":
        return _leave_updates(course, state, exchange, at_s)
    if exchange.stage == "reveals":
        return _leave_reveals(course, secure, state, exchange, at_s)
    return _failed(course, state, at_s, exchange.fault) if exchange.fault else (state, None)


Next = tuple[State, Action | None]


def _leave_setup(course: Course, secure: SecureAggregation, state: State, exchange: Exchange, at_s: float) -> Next:
    asked = set(state.selected) if exchange.stage == "keys" else exchange.roster
    there = exchange.roster if exchange.stage == "keys" else exchange.members
    if asked - there - exchange.gone and at_s - exchange.since_s < secure.patience_s:
        return state, None
    if len(there) < exchange.threshold:
        return _failed(
            course, state, at_s, f"{exchange.stage} of {len(there)} devices, {exchange.threshold} are needed"
        )
    return _next_stage(course.entry(state.round).min_updates, state, exchange, at_s)


def _leave_reveals(course: Course, secure: SecureAggregation, state: State, exchange: Exchange, at_s: float) -> Next:
    there = len(exchange.reveals)
    if there >= exchange.threshold:
        state = _replace(state, exchange=_replace(exchange, stage="unmasking", since_s=at_s))
        return state, Unmask(state.round, state.attempt, tuple(sorted(uid for _, uid in state.delivered)))
    if at_s - exchange.since_s < secure.patience_s:
        return state, None
    return _failed(course, state, at_s, f"shares from {there} survivors, {exchange.threshold} are needed")


def _next_stage(min_updates: int | None, state: State, exchange: Exchange, at_s: float) -> tuple[State, Action]:
    if exchange.stage == "keys":
        after = _replace(exchange, stage="shares", since_s=at_s)
        return _replace(state, exchange=after), Relay(state.round, state.attempt, tuple(sorted(after.roster)))
    after = _replace(exchange, stage="updates", since_s=at_s)
    members = len(after.members)
    needed = members if min_updates is None else max(after.threshold, min(min_updates, members))
    state = _replace(state, exchange=after, needed=needed)
    return state, Relay(state.round, state.attempt, tuple(sorted(after.members)))


def _leave_updates(course: Course, state: State, exchange: Exchange, at_s: float) -> Next:
    complete = len(state.delivered) >= state.needed
    if not complete and at_s - exchange.since_s < course.entry(state.round).deadline_s:
        return state, None
    if len(state.delivered) < exchange.threshold:
        return _failed(
            course, state, at_s, f"updates of {len(state.delivered)} devices, {exchange.threshold} are needed"
        )
    survivors = tuple(sorted(node for node, _ in state.delivered))
    reason = "complete" if complete else "deadline"
    after = _replace(exchange, stage="reveals", survivors=survivors, reason=reason, since_s=at_s)
    return _replace(state, exchange=after), Relay(state.round, state.attempt, survivors)


def settled(state: State) -> str | None:
    """Why the round can close: its sum is unmasked; `None` before."""
    exchange = state.exchange
    return exchange.reason if exchange is not None and exchange.fault == "" else None


def _failed(course: Course, state: State, at_s: float, text: str) -> tuple[State, Action]:
    """The opening came to nothing."""
    selected, empty = state.selected, state.empty + 1
    after = _replace(
        state, exchange=None, delivered=(), invited=frozenset(), selected=(), needed=0, empty=empty, since_s=at_s
    )
    if empty >= course.max_attempts:
        reason = (
            f"round {state.round}: secure aggregation failed in {empty} openings, at last with {text}: see the "
            "devices' logs, lower secure.threshold, or give secure.patience_s and deadline_s more time"
        )
        return _replace(after, phase="failed"), Fail(reason)
    reason = f"secure aggregation failed with {text}; it is opened again"
    return _replace(after, phase="waiting"), EmptyRound(state.round, state.attempt, selected, reason)
