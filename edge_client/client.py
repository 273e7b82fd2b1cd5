"""The device as a pure state machine: an event and the time in, a new state and actions out. No I/O, no clock.

Before all else a task is prepared, once the graphs are here that its engine wants (`graphs`).
An update lives through: wanted → model fetched → trained → stored → sent → acknowledged → deleted. Objects are sent
again after each reconnection, the device's own or the server's, when the server misses chunks, and when no
acknowledgement came in time (`delivery`).
Work that takes long (training, scoring) is asked for by `Idle` alone, when every message that waited has been seen: a
device that fell behind never trains for a round that it already knows to be over.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from contract.messages import Ack, ServerState
from contract.pipeline import RETURNED
from edge_client import delivery, graphs
from edge_client.delivery import ACK_TIMEOUT_S, LONGEST_TIMEOUT_S, WINDOW, Pending
from edge_client.events import (
    AckArrived,
    Action,
    Announce,
    AnswerAnew,
    Down,
    Event,
    FetchModel,
    Finish,
    GraphArrived,
    Idle,
    LeaveModel,
    Lost,
    Made,
    MasksReady,
    ModelArrived,
    Prepared,
    ReconstructionArrived,
    ReportEnergy,
    ScoreReconstruction,
    SpoolDelete,
    SpoolPut,
    StateArrived,
    TakeBack,
    TaskArrived,
    Train,
    Up,
    Warn,
)
from edge_client.spool import SpoolItem

__all__ = [
    "ACK_TIMEOUT_S",
    "LONGEST_TIMEOUT_S",
    "WINDOW",
    "ClientState",
    "Pending",
    "ready",
    "resumed",
    "step",
    "wanted",
]

LINGER_S = 30.0
"""After the end of the run, how long a device waits for an acknowledgement before it leaves its objects on disk."""
LARGEST_BACKLOG = 256
"""Reconstructions that may wait to be scored."""
FETCH_PATIENCE_S = 60.0
"""In an asynchronous round, how long a device goes on fetching a model that is not the newest any more."""
SAY_AFTER_S = 1.0
"""How long a device whose update was acknowledged waits before it says so: mostly the next update says it too."""
STALE = "stale"
"""Refusal of an update of an asynchronous round that came too late; one from the newest model would be taken."""
FORMER_LIFE = "epoch"
"""Refusal of an update that an earlier life of this device made: the round still waits for one of this life."""


# --- state ----------------------------------------------------------------------------------------------------------


class ClientState(msgspec.Struct, frozen=True, kw_only=True):
    """All that the device knows. Times are on the caller's monotonic clock.

    Attributes:
        heard: Whether the server's word came on this connection, be it one that the broker kept. Before that nothing is
            sent: after a broker's restart the server may not be there yet, and the broker would drop it.
        awaited: Graphs without which the task cannot be prepared.
        made: Task hash, round and attempt for which an update was made last. In an asynchronous round one follows the
            other, and it says nothing.
        begun: Task hash, round, attempt and model version of an update of an asynchronous round that is being made. It
            stays when training failed or the update was refused, so that no other is made before there is a new model.
        masks: Task hash, round and attempt for which masks are agreed upon.
        model: Version and SHA-256 of the model that is held.
        goal: Version and SHA-256 of the model that the next update starts from.
        goal_s: When that was decided.
        fetching: Version whose chunks are subscribed to.
        sending: Whether the network still handed over what it was given, when last looked at.
        unscored: Reconstructions that wait, oldest first.
        unsaid_s: By when to say what was acknowledged since the device last spoke of itself; `None`: nothing was.
        progress_s: Last sign of progress after the end of the run.
    """

    node: str
    connected: bool = False
    heard: bool = False
    task_hash: str = ""
    awaited: graphs.Awaited | None = None
    server: ServerState | None = None
    model: tuple[int, str] | None = None
    goal: tuple[int, str] | None = None
    goal_s: float = 0.0
    fetching: int | None = None
    made: tuple[str, int, int] | None = None
    masks: tuple[str, int, int] | None = None
    begun: tuple[str, int, int, int] | None = None
    pending: tuple[Pending, ...] = ()
    sending: bool = False
    unscored: tuple[str, ...] = ()
    unsaid_s: float | None = None
    progress_s: float | None = None
    finished: bool = False


Step = tuple[ClientState, list[Action]]


def resumed(
    node: str, items: tuple[SpoolItem, ...], versions: dict[str, int], made: tuple[str, int, int] | None
) -> ClientState:
    """The state after a start.

    Args:
        node: The device.
        items: What the spool holds, oldest first.
        versions: Model version per update among them.
        made: Task hash, round and attempt of the last update, from the journal.
    """
    pending = tuple(
        Pending(uid=i.uid, kind=i.kind, round=i.round, model_version=versions.get(i.uid, -1), inherited=True)
        for i in items
    )
    return ClientState(node=node, pending=pending, made=made)


def step(state: ClientState, event: Event, now_s: float) -> tuple[ClientState, tuple[Action, ...]]:
    """One transition.

    Args:
        state: Before.
        event: What happened.
        now_s: Time of it on a monotonic clock.

    Returns:
        The state after it, and what to do, in this order.
    """
    if state.finished:
        return state, ()
    state, actions = _HANDLERS[type(event)](state, event, now_s)
    state, more = _tend_model(state, now_s)
    actions += more
    state, more = _fill_window(state, now_s)
    return state, (*actions, *more)


_replace = msgspec.structs.replace


def wanted(state: ClientState) -> ServerState | None:
    """The open round for which this device still owes an update, if there is one."""
    server = state.server
    if server is None or server.status != "open" or state.node not in server.selected:
        return None
    if server.task_hash != state.task_hash:
        return None
    if server.plan.secure is not None:  # what waits wears the masks of another opening
        return server if state.masks == _key(server) != state.made else None
    waiting = [p for p in state.pending if p.kind == "update" and p.round == server.round]
    if server.plan.mode == "asynchronous":
        return None if waiting or state.begun == (*_key(server), server.model_version) else server
    if state.made == _key(server) or any(p.model_version == server.model_version for p in waiting):
        return None
    return server


def ready(state: ClientState) -> ServerState | None:
    """The open round for which the next `Idle` makes an update, if there is one."""
    server = wanted(state)
    return server if server is not None and state.goal is not None and state.model == state.goal else None


def _key(server: ServerState) -> tuple[str, int, int]:
    return (server.task_hash, server.round, server.attempt)


def _aimed(state: ClientState, now_s: float) -> ClientState:
    """The state with the model that the next update starts from: the newest.

    In an asynchronous round models may follow each other faster than a device fetches one: then it goes on with the one
    that it began to fetch.
    """
    server = wanted(state)
    newest = None if server is None else (server.model_version, server.model_sha256)
    if newest == state.goal:
        return state
    late = server is not None and server.plan.mode == "asynchronous" and state.goal is not None
    if late and now_s - state.goal_s < FETCH_PATIENCE_S:
        return state
    return _replace(state, goal=newest, goal_s=now_s)


def _tend_model(state: ClientState, now_s: float) -> Step:
    """Subscribes to the model that is wanted and to no other."""
    state = _aimed(state, now_s)
    target = state.goal[0] if state.goal is not None and state.model != state.goal else None
    if target == state.fetching:
        return state, []
    actions: list[Action] = []
    if state.fetching is not None:
        actions.append(LeaveModel(version=state.fetching))
    if target is not None:
        actions.append(FetchModel(version=target))
    return _replace(state, fetching=target), actions


def _fill_window(state: ClientState, now_s: float) -> Step:
    if not (state.connected and state.heard):
        return state, []
    pending, actions = delivery.filled(state.pending, now_s)
    return (_replace(state, pending=pending), actions) if actions else (state, [])


# --- one handler per event ------------------------------------------------------------------------------------------


def _up(state: ClientState, _event: Up, _now_s: float) -> Step:
    # A device that cannot train yet is not announced: the first round would open, and its time run, without it.
    actions: list[Action] = [Announce()] if state.task_hash else []
    return _replace(state, connected=True, pending=delivery.waiting(state.pending), unsaid_s=None), actions


def _down(state: ClientState, event: Down, _now_s: float) -> Step:
    actions: list[Action] = [Warn(text=f"connection lost: {event.reason or 'no reason given'}")]
    return _replace(state, connected=False, heard=False, pending=delivery.waiting(state.pending)), actions


def _about_graphs(change: Callable[..., graphs.Step], state: ClientState, event: Event, now_s: float) -> Step:
    awaited, actions = change(state.awaited, event, now_s)
    return _replace(state, awaited=awaited), actions


def _prepared(state: ClientState, event: Prepared, _now_s: float) -> Step:
    return _replace(state, task_hash=event.task_hash, model=None), [Announce()]


def _state_arrived(state: ClientState, event: StateArrived, now_s: float) -> Step:
    over = event.state.status == "finished"
    progress_s = (now_s if state.progress_s is None else state.progress_s) if over else None
    if event.state.status == "offline" and state.server is not None and state.server.status == "finished":
        return _replace(state, heard=True), []  # the farewell after the end changes nothing
    pending = delivery.waiting(state.pending) if _unheard(state, event.state) else state.pending
    return _replace(state, heard=True, server=event.state, progress_s=progress_s, pending=pending), []


def _unheard(state: ClientState, now: ServerState) -> bool:
    """Whether what is under way has come to nobody: to wait for its acknowledgement would hold up the next one.

    The server died since, or it opens the same round once more, as it does when it has no update. Or its connection is
    a new one: then it is back after its will, or says once more what it had said on this connection.
    """
    before = state.server
    if before is None or now.status == "offline":
        return False
    again = now.status == "open" and now.round == before.round and now.attempt > before.attempt
    back = before.status == "offline" or (state.heard and now == before)
    return before.epoch != now.epoch or again or (back and not state.sending)


def _model_arrived(state: ClientState, event: ModelArrived, _now_s: float) -> Step:
    if state.goal is None or event.version != state.goal[0]:
        return state, []
    if event.sha256 != state.goal[1]:
        text = f"model {event.version} has SHA-256 {event.sha256}, announced {state.goal[1]}: waiting on"
        return state, [Warn(text=text)]
    return _replace(state, model=(event.version, event.sha256)), []


def _ack_arrived(state: ClientState, event: AckArrived, now_s: float) -> Step:
    ack = event.ack
    item = next((p for p in state.pending if p.uid == ack.uid), None)
    if item is None:
        return state, []
    if ack.status == "missing":
        again, sends = delivery.missing(item, ack, now_s, sending=state.sending)
        return _replace(state, pending=tuple(again if p is item else p for p in state.pending)), sends
    actions: list[Action] = []
    if ack.status == "refused":
        actions.append(Warn(text=f"{item.kind} {item.uid} of round {item.round} refused: {ack.reason or 'no reason'}"))
        if item.kind == "update" and ack.reason.partition(":")[0] in RETURNED:
            actions.append(TakeBack(uid=item.uid))
        if _of_former_life(state, item, ack):
            state = _replace(state, made=None)
            actions.append(AnswerAnew())
        state = _held_back(state, item, ack)
    if item.kind == "update":
        actions.append(ReportEnergy(uid=item.uid, admitted=ack.status == "admitted", sent_s=item.sent_s))
    actions.append(SpoolDelete(uid=item.uid))
    if item.kind == "update" and state.unsaid_s is None:
        state = _replace(state, unsaid_s=now_s + SAY_AFTER_S)
    server = state.server
    of_opening = server is not None and server.plan.secure is not None  # it may be that of an earlier one
    settled = (
        not of_opening
        and item.kind == "update"
        and ack.status == "admitted"
        and server is not None
        and server.round == item.round
    )
    return _replace(
        state,
        pending=tuple(p for p in state.pending if p is not item),
        made=_key(server) if settled and server is not None else state.made,
        progress_s=None if state.progress_s is None else now_s,
    ), actions


def _held_back(state: ClientState, item: Pending, ack: Ack) -> ClientState:
    """After a refusal that would meet the next update too, an asynchronous round gets none before it has moved on."""
    server = state.server
    if server is None or item.kind != "update" or item.inherited or ack.reason.partition(":")[0] == STALE:
        return state
    return _replace(state, begun=(*_key(server), server.model_version))


def _of_former_life(state: ClientState, item: Pending, ack: Ack) -> bool:
    """Whether the refused update is an earlier life's, and the one by which its round counts as answered.

    An update of this life that is refused so is not made again: the server knows of a later life than this one.
    """
    code, round_ = ack.reason.partition(":")[0], None if state.made is None else state.made[1]
    return item.inherited and item.kind == "update" and code == FORMER_LIFE and item.round == round_


def _masks_ready(state: ClientState, event: MasksReady, _now_s: float) -> Step:
    return _replace(state, masks=event.key), []


def _reconstruction_arrived(state: ClientState, event: ReconstructionArrived, _now_s: float) -> Step:
    if event.uid in state.unscored:
        return state, []
    if len(state.unscored) >= LARGEST_BACKLOG:
        text = f"{LARGEST_BACKLOG} reconstructions wait to be scored: {event.uid} is dropped"
        return state, [Warn(text=text)]
    return _replace(state, unscored=(*state.unscored, event.uid)), []


def _made(state: ClientState, event: Made, _now_s: float) -> Step:
    known = {p.uid for p in state.pending}
    items = [item for item in event.items if item.uid not in known]
    actions: list[Action] = [SpoolPut(item=item) for item in items]
    if any(item.kind == "update" for item in items):
        actions.append(Announce())
        state = _replace(state, unsaid_s=None)
    fresh = tuple(
        Pending(
            uid=item.uid,
            kind=item.kind,
            round=item.round,
            model_version=event.model_version if item.kind == "update" else -1,
        )
        for item in items
    )
    begun = None if any(item.kind == "update" for item in items) else state.begun
    return _replace(state, pending=(*state.pending, *fresh), begun=begun), actions


def _lost(state: ClientState, event: Lost, _now_s: float) -> Step:
    return _replace(state, pending=tuple(p for p in state.pending if p.uid != event.uid)), []


def _idle(state: ClientState, event: Idle, now_s: float) -> Step:
    pending, actions = delivery.overdue(state.pending, state.server, now_s, sending=event.sending)
    state = _replace(state, pending=pending, sending=event.sending)
    state, more = _about_graphs(graphs.overdue, state, event, now_s)
    actions += more
    if state.unsaid_s is not None and now_s >= state.unsaid_s and state.connected:
        actions.append(Announce())
        state = _replace(state, unsaid_s=None)
    server, goal = ready(state), state.goal
    if server is not None and goal is not None:
        actions.append(Train(round=server.round, attempt=server.attempt, plan=server.plan, model_version=goal[0]))
        begun = (*_key(server), server.model_version)
        return _replace(state, made=_key(server), begun=begun, goal=None), actions
    if state.unscored and state.task_hash:
        actions.append(ScoreReconstruction(uid=state.unscored[0]))
        return _replace(state, unscored=state.unscored[1:]), actions
    return _finish(state, actions, now_s)


def _finish(state: ClientState, actions: list[Action], now_s: float) -> Step:
    if state.server is None or state.server.status != "finished" or state.progress_s is None:
        return state, actions
    if state.pending and now_s - state.progress_s < LINGER_S:
        return state, actions
    return _replace(state, finished=True), [*actions, Finish(undelivered=len(state.pending))]


_HANDLERS: dict[type, Callable[[ClientState, Any, float], Step]] = {
    Up: _up,
    Down: _down,
    TaskArrived: partial(_about_graphs, graphs.task_arrived),
    GraphArrived: partial(_about_graphs, graphs.graph_arrived),
    Prepared: _prepared,
    StateArrived: _state_arrived,
    ModelArrived: _model_arrived,
    AckArrived: _ack_arrived,
    MasksReady: _masks_ready,
    ReconstructionArrived: _reconstruction_arrived,
    Made: _made,
    Lost: _lost,
    Idle: _idle,
}
