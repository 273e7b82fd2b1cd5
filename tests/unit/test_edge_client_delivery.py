"""When an object is sent again and when it is cut smaller: cases, and a broker that drops what is large in silence."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.frames import CHUNK_BYTES
from contract.link_limits import FrameLimit
from contract.messages import Ack, ServerState
from contract.task import RoundPlan
from edge_client import delivery
from edge_client.client import ClientState, step
from edge_client.delivery import ACK_TIMEOUT_S, CUTS, TRIES, WINDOW, Pending
from edge_client.events import AckArrived, Action, CutSmaller, Down, Idle, Lost, Made, Send, StateArrived, Up
from edge_client.spool import SpoolItem

UID = "u1"


def server(status: str = "open") -> StateArrived:
    plan = RoundPlan(local_steps=1)
    return StateArrived(state=ServerState(run="r", status=status, epoch=1, plan=plan))


def started(status: str = "open") -> ClientState:
    state = ClientState(node="me")
    made = Made(items=(SpoolItem(uid=UID, kind="update", round=1, blob=b"x"),), model_version=0)
    for event in (Up(), server(status), made):
        state, _ = step(state, event, 0.0)
    assert state.pending[0].due_s == ACK_TIMEOUT_S
    return state


def missing(*chunks: int) -> AckArrived:
    return AckArrived(ack=Ack(uid=UID, status="missing", missing=chunks))


def silence(state: ClientState, sendings: int) -> tuple[ClientState, list[tuple[Action, ...]]]:
    """So many times nobody answers."""
    seen = []
    for _ in range(sendings):
        state, actions = step(state, Idle(), state.pending[0].due_s or 0.0)
        seen.append(actions)
    return state, seen


CUT = (CutSmaller(uid=UID), Send(uid=UID))


def test_two_sendings_in_vain_cut_and_so_on_until_size_is_not_what_is_wrong() -> None:
    state, seen = silence(started(), TRIES * CUTS + 5)
    assert seen == [(Send(uid=UID),), CUT] * CUTS + [(Send(uid=UID),)] * 5
    assert state.pending[0].cuts == CUTS


def test_a_new_cut_is_given_as_much_time_as_a_first_sending() -> None:
    state, _ = silence(started(), TRIES)
    assert state.pending[0].due_s == 5 + 10 + ACK_TIMEOUT_S


@pytest.mark.parametrize("status", ["offline"])
def test_silence_of_a_server_that_is_not_there_tells_nothing(status: str) -> None:
    _, seen = silence(started(status), 20)
    assert seen == [(Send(uid=UID),)] * 20


def test_nothing_is_sent_before_the_server_was_heard() -> None:
    state, _ = step(ClientState(node="me"), Up(), 0.0)
    state, actions = step(state, Made(items=(SpoolItem(uid=UID, kind="score", round=1, blob=b"x"),)), 0.0)
    assert Send(uid=UID) not in actions
    for at_s in range(100):
        state, actions = step(state, Idle(), float(at_s))
        assert actions == ()
    state, actions = step(state, server(), 100.0)
    assert actions == (Send(uid=UID),)
    assert (state.pending[0].due_s, state.pending[0].tries) == (100 + ACK_TIMEOUT_S, 1)


def test_the_same_chunks_missing_again_and_again_cut() -> None:
    state = started()
    state, first = step(state, missing(0, 1, 2), 2.0)
    state, second = step(state, missing(0, 1, 2), 4.0)
    state, third = step(state, missing(0, 1, 2), 6.0)
    assert [first, second, third] == [(Send(uid=UID, chunks=(0, 1, 2)),)] * 2 + [CUT]
    assert state.pending[0].missing is None


def test_fewer_missing_is_progress() -> None:
    state = started()
    for left in range(9, 0, -1):
        state, actions = step(state, missing(*range(left)), 1.0)
        assert actions == (Send(uid=UID, chunks=tuple(range(left))),)
        state, actions = step(state, missing(*range(left)), 1.0)
        assert actions == (Send(uid=UID, chunks=tuple(range(left))),)


def test_what_is_still_on_its_way_is_neither_late_nor_missing() -> None:
    state = started()
    for at_s in range(1, 100):
        state, actions = step(state, Idle(sending=True), float(at_s))
        assert actions == ()
        state, actions = step(state, missing(0, 1), float(at_s))
        assert actions == ()
    assert state.pending[0].due_s == 99 + ACK_TIMEOUT_S
    state, actions = step(state, Idle(), 99 + ACK_TIMEOUT_S)
    assert actions == (Send(uid=UID),)


def test_a_reconnection_begins_anew() -> None:
    state, _ = silence(started(), TRIES * CUTS)
    for event in (Down(), Up(), server()):
        state, actions = step(state, event, 1000.0)
    assert actions == (Send(uid=UID),)
    item = state.pending[0]
    assert (item.tries, item.fruitless, item.cuts, item.missing) == (1, 0, 0, None)


def test_the_window_is_filled_oldest_first() -> None:
    many = tuple(Pending(uid=f"{i:03d}", kind="score", round=1) for i in range(WINDOW + 5))
    filled, actions = delivery.filled(many, 0.0)
    assert actions == [Send(uid=p.uid) for p in many[:WINDOW]]
    assert [p.due_s is not None for p in filled] == [True] * WINDOW + [False] * 5
    assert delivery.filled(filled, 0.0) == (filled, [])


@given(st.integers(4_096, 300_000), st.integers(1, 1_000_000))
def test_an_object_gets_through_a_broker_that_drops_in_silence(taken: int, nbytes: int) -> None:
    """A broker that drops frames above `taken` bytes and says nothing; the server asks for what it misses."""
    limit, state, now_s = FrameLimit(CHUNK_BYTES, "b"), started(), 0.0
    for _ in range(200):
        frame = limit.frame_bytes
        sizes = [min(frame, nbytes - at) for at in range(0, nbytes, frame)]
        lacking = tuple(i for i, size in enumerate(sizes) if size > taken)
        if not lacking:
            return
        if len(lacking) < len(sizes):
            now_s += 2.0
            state, actions = step(state, missing(*lacking), now_s)
        else:
            now_s = state.pending[0].due_s or now_s
            state, actions = step(state, Idle(), now_s)
        if any(isinstance(action, CutSmaller) for action in actions):
            limit.cut_smaller()
        assert now_s < 100, f"after {now_s} s still frames of {frame} bytes"
    raise AssertionError(f"{nbytes} bytes do not pass a broker that takes {taken}")


def test_what_was_lost_from_the_disk_is_not_sent() -> None:
    state, _ = step(started(), Lost(uid=UID), 1.0)
    assert silence_of(state) == ()


def silence_of(state: ClientState) -> tuple[Action, ...]:
    return step(state, Idle(), 1e6)[1]
