"""The device's state machine: a table of cases, and properties over any order of events."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.messages import Ack, GraphRecord, ServerState
from contract.task import RoundPlan
from edge_client import client, graphs
from edge_client.client import (
    ACK_TIMEOUT_S,
    LINGER_S,
    LONGEST_TIMEOUT_S,
    SAY_AFTER_S,
    WINDOW,
    ClientState,
    resumed,
    step,
)
from edge_client.events import (
    AckArrived,
    Action,
    Announce,
    Down,
    Event,
    FetchGraph,
    FetchModel,
    Finish,
    GraphArrived,
    Idle,
    KeepGraph,
    LeaveGraph,
    LeaveModel,
    Lost,
    Made,
    ModelArrived,
    Prepared,
    PrepareTask,
    ReconstructionArrived,
    ReportEnergy,
    ScoreReconstruction,
    Send,
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

ME, TASK = "me", "t" * 64
PLAN = RoundPlan(local_steps=2)


def server(round_: int = 1, *, attempt: int = 1, version: int = 0, status: str = "open", **changes) -> StateArrived:
    fields = {
        "run": "r",
        "status": status,
        "epoch": 1,
        "round": round_,
        "attempt": attempt,
        "plan": PLAN,
        "model_version": version,
        "model_sha256": f"{version:064x}",
        "task_hash": TASK,
        "selected": ("you", ME),
    }
    return StateArrived(state=ServerState(**(fields | changes)))


def model(version: int = 0) -> ModelArrived:
    return ModelArrived(version=version, sha256=f"{version:064x}")


def item(uid: str = "u1", kind: str = "update", round_: int = 1) -> SpoolItem:
    return SpoolItem(uid=uid, kind=kind, round=round_, blob=b"bytes")


def ack(uid: str = "u1", status: str = "admitted", **changes) -> AckArrived:
    return AckArrived(ack=Ack(uid=uid, status=status, **changes))


def play(state: ClientState, *events: Event, at_s: float = 0.0) -> tuple[ClientState, list[Action]]:
    actions: list[Action] = []
    for event in events:
        state, new = step(state, event, at_s)
        actions += new
    return state, actions


TRAINING, INFERENCE = (GraphRecord(name=n, sha256=s * 64, nbytes=9) for n, s in (("training", "a"), ("inference", "b")))
RENEWED = GraphRecord(name="training", sha256="c" * 64, nbytes=9)


def task(*missing: GraphRecord) -> TaskArrived:
    return TaskArrived(task_hash=TASK, missing=missing)


def graph(record: GraphRecord, sha256: str = "") -> GraphArrived:
    return GraphArrived(name=record.name, sha256=sha256 or record.sha256)


WAITING, _ = play(ClientState(node=ME), Up(), task(TRAINING, INFERENCE))
READY, _ = play(ClientState(node=ME), Up(), Prepared(task_hash=TASK))
HELD, _ = play(READY, server(), model())
TRAINED, _ = play(HELD, Idle())
PUBLISHED, _ = play(TRAINED, Made(items=(item(),), model_version=0))
TRAIN = Train(round=1, attempt=1, plan=PLAN, model_version=0)


def kinds(actions: Iterable[Action]) -> list[str]:
    return [type(action).__name__ for action in actions]


CASES: dict[str, tuple[ClientState, Event, list[Action]]] = {
    "a connection is announced": (ClientState(node=ME, task_hash=TASK), Up(), [Announce()]),
    "a device without its task is not ready, and says nothing": (ClientState(node=ME), Up(), []),
    "a device that is ready says so": (ClientState(node=ME), Prepared(task_hash=TASK), [Announce()]),
    "a task without graphs, or with graphs that are here": (
        ClientState(node=ME),
        task(),
        [PrepareTask(task_hash=TASK)],
    ),
    "graphs that are not here are fetched": (
        ClientState(node=ME),
        task(TRAINING, INFERENCE),
        [FetchGraph(name="training"), FetchGraph(name="inference")],
    ),
    "the same task again changes nothing": (WAITING, task(TRAINING, INFERENCE), []),
    "one of two graphs": (WAITING, graph(INFERENCE), [LeaveGraph(name="inference"), KeepGraph(record=INFERENCE)]),
    "the last graph": (
        play(WAITING, graph(INFERENCE))[0],
        graph(TRAINING),
        [LeaveGraph(name="training"), KeepGraph(record=TRAINING), PrepareTask(task_hash=TASK)],
    ),
    "a graph again": (play(WAITING, graph(INFERENCE))[0], graph(INFERENCE), []),
    "a graph that nobody asked for": (ClientState(node=ME), graph(TRAINING), []),
    "a graph that the server made anew": (
        play(WAITING, graph(INFERENCE))[0],
        task(RENEWED),
        [LeaveGraph(name="training"), FetchGraph(name="training")],
    ),
    "the old graph after that": (
        play(WAITING, task(RENEWED))[0],
        graph(TRAINING),
        [
            Warn(
                text=f"graph 'training' refused: its SHA-256 is {'a' * 64}, the task's manifest says {'c' * 64}; "
                "no training until the right one comes"
            )
        ],
    ),
    "a task whose graphs are here after all": (
        WAITING,
        task(),
        [LeaveGraph(name="training"), LeaveGraph(name="inference"), PrepareTask(task_hash=TASK)],
    ),
    "no training while a graph is missing": (play(WAITING, server(), model())[0], Idle(), []),
    "selected: the model is fetched": (READY, server(), [FetchModel(version=0)]),
    "not selected": (READY, server(selected=("you",)), []),
    "closed": (READY, server(status="closed"), []),
    "waiting": (READY, server(status="waiting"), []),
    "the server vanished": (READY, server(status="offline"), []),
    "another task than the prepared one": (READY, server(task_hash="x" * 64), []),
    "not prepared yet": (ClientState(node=ME, connected=True), server(), []),
    "the model is there": (play(READY, server())[0], model(), [LeaveModel(version=0)]),
    "another version's model": (play(READY, server())[0], model(3), []),
    "the round closes while the model comes": (
        play(READY, server())[0],
        server(status="closed"),
        [LeaveModel(version=0)],
    ),
    "the next round opens while the model comes": (
        play(READY, server())[0],
        server(2, version=1),
        [LeaveModel(version=0), FetchModel(version=1)],
    ),
    "training waits for a quiet moment": (HELD, Idle(), [TRAIN]),
    "one update a round": (TRAINED, Idle(), []),
    "the same state again changes nothing": (TRAINED, server(), []),
    "the round closed before training began": (play(HELD, server(status="closed"))[0], Idle(), []),
    "a held model serves the next round": (
        play(PUBLISHED, ack(), server(2))[0],
        Idle(),
        [msgspec.structs.replace(TRAIN, round=2)],
    ),
    "another attempt of a round that failed": (
        play(TRAINED, server(attempt=2))[0],
        Idle(),
        [msgspec.structs.replace(TRAIN, attempt=2)],
    ),
    "a pending update serves another attempt": (play(PUBLISHED, server(attempt=2))[0], Idle(), []),
    "an admitted update serves every later attempt": (
        play(PUBLISHED, server(attempt=2), ack(), server(attempt=2))[0],
        Idle(),
        [],
    ),
    "made: stored before sent": (
        TRAINED,
        Made(items=(item(),), model_version=0),
        [SpoolPut(item=item()), Announce(), Send(uid="u1")],
    ),
    "made while offline: stored only": (
        play(TRAINED, Down())[0],
        Made(items=(item(),), model_version=0),
        [SpoolPut(item=item()), Announce()],
    ),
    "admitted: energy report before the update is forgotten": (
        PUBLISHED,
        ack(),
        [ReportEnergy(uid="u1", admitted=True, sent_s=0.0), SpoolDelete(uid="u1")],
    ),
    "refused: logged with its reason, deleted": (
        PUBLISHED,
        ack(status="refused", reason="norm 9 over 5"),
        [
            Warn(text="update u1 of round 1 refused: norm 9 over 5"),
            ReportEnergy(uid="u1", admitted=False, sent_s=0.0),
            SpoolDelete(uid="u1"),
        ],
    ),
    "refused for its time: taken back before it is deleted": (
        PUBLISHED,
        ack(status="refused", reason="closed: round 1 is closed"),
        [
            Warn(text="update u1 of round 1 refused: closed: round 1 is closed"),
            TakeBack(uid="u1"),
            ReportEnergy(uid="u1", admitted=False, sent_s=0.0),
            SpoolDelete(uid="u1"),
        ],
    ),
    "missing: only these chunks": (
        PUBLISHED,
        ack(status="missing", missing=(2, 5)),
        [Send(uid="u1", chunks=(2, 5))],
    ),
    "missing without chunks: all": (PUBLISHED, ack(status="missing"), [Send(uid="u1")]),
    "a stranger's acknowledgement": (PUBLISHED, ack("u9"), []),
    "an acknowledged score is just deleted": (
        play(HELD, Made(items=(item("s1", "score"),)))[0],
        ack("s1"),
        [SpoolDelete(uid="s1")],
    ),
    "reconnected: nothing before the server's word": (play(PUBLISHED, Down())[0], Up(), [Announce()]),
    "and then everything again": (play(PUBLISHED, Down(), Up())[0], server(), [Send(uid="u1")]),
    "the server's word again on one connection: its own is new": (PUBLISHED, server(), [Send(uid="u1")]),
    "another word of the server's": (PUBLISHED, server(deadline_s=9.0), []),
    "its word again, while the update is on its way": (play(PUBLISHED, Idle(sending=True))[0], server(), []),
    "the server is gone": (PUBLISHED, server(status="offline"), []),
    "the server is back in the same life": (
        play(PUBLISHED, server(status="offline"))[0],
        server(),
        [Send(uid="u1")],
    ),
    "what the broker kept of a server that is gone is a word too": (
        play(PUBLISHED, Down(), Up())[0],
        server(status="offline"),
        [Send(uid="u1")],
    ),
    "a reconstruction waits for a quiet moment": (READY, ReconstructionArrived(uid="r1"), []),
    "and is scored then": (play(READY, ReconstructionArrived(uid="r1"))[0], Idle(), [ScoreReconstruction(uid="r1")]),
    "training comes before scoring": (play(HELD, ReconstructionArrived(uid="r1"))[0], Idle(), [TRAIN]),
    "scoring waits for the data": (
        play(ClientState(node=ME, connected=True), ReconstructionArrived(uid="r1"))[0],
        Idle(),
        [],
    ),
    "finished with nothing pending": (play(READY, server(status="finished"))[0], Idle(), [Finish()]),
    "finished, but an object is pending": (play(PUBLISHED, server(status="finished"))[0], Idle(), []),
    "finished, then the server's farewell": (
        play(READY, server(status="finished"), server(status="offline"))[0],
        Idle(),
        [Finish()],
    ),
    "finished, but a reconstruction waits": (
        play(READY, ReconstructionArrived(uid="r1"), server(status="finished"))[0],
        Idle(),
        [ScoreReconstruction(uid="r1")],
    ),
    "a damaged object is given up": (PUBLISHED, Lost(uid="u1"), []),
    "an object made twice is stored once": (PUBLISHED, Made(items=(item(),), model_version=0), []),
}


@pytest.mark.parametrize("case", CASES)
def test_table(case):
    state, event, expected = CASES[case]
    assert list(step(state, event, 0.0)[1]) == expected


def test_what_was_acknowledged_is_said_soon_or_with_the_next_update():
    settled, _ = play(PUBLISHED, ack())
    assert "Announce" not in kinds(play(settled, Idle(), at_s=SAY_AFTER_S / 2)[1])
    said, actions = play(settled, Idle(), at_s=SAY_AFTER_S)
    assert kinds(actions) == ["Announce"]
    assert "Announce" not in kinds(play(said, Idle(), at_s=9.0)[1])
    again, actions = play(settled, server(2), Made(items=(item("u2", round_=2),), model_version=0))
    assert kinds(actions).count("Announce") == 1
    assert "Announce" not in kinds(play(again, Idle(), at_s=SAY_AFTER_S)[1])
    away, _ = play(settled, Down())
    assert "Announce" not in kinds(play(away, Idle(), at_s=SAY_AFTER_S)[1])


def test_a_model_with_another_hash_is_not_trained_on():
    waiting, _ = play(READY, server())
    after, (warning,) = step(waiting, ModelArrived(version=0, sha256="f" * 64), 0.0)
    assert isinstance(warning, Warn)
    assert "f" * 64 in warning.text
    assert step(after, Idle(), 0.0)[1] == ()


def test_repetitions_back_off():
    (state, _), at_s, waits = step(PUBLISHED, server(status="offline"), 0.0), 0.0, []
    for _ in range(7):
        due_s = state.pending[0].due_s
        assert step(state, Idle(), due_s - 0.001)[1] == ()
        state, actions = step(state, Idle(), due_s)
        assert actions == (Send(uid="u1"),)
        waits.append(due_s - at_s)
        at_s = due_s
    assert waits == [5, 10, 20, 40, 60, 60, 60]
    assert (ACK_TIMEOUT_S, LONGEST_TIMEOUT_S) == (5, 60)
    state, _ = play(state, Down(), Up(), server(status="offline"), at_s=at_s)
    assert state.pending[0].due_s - at_s == ACK_TIMEOUT_S


def test_a_graph_that_does_not_come_is_asked_for_again():
    state, at_s, waits = WAITING, 0.0, []
    for _ in range(6):
        due_s = state.awaited.due_s
        assert step(state, Idle(), due_s - 0.001)[1] == ()
        state, actions = step(state, Idle(), due_s)
        assert kinds(actions) == ["Warn", "LeaveGraph", "FetchGraph", "LeaveGraph", "FetchGraph"]
        waits.append(due_s - at_s)
        at_s = due_s
    assert waits == [5, 10, 20, 40, 60, 60]
    assert (graphs.FIRST_WAIT_S, graphs.LONGEST_WAIT_S) == (5, 60)
    state, actions = play(state, graph(TRAINING), graph(INFERENCE), at_s=at_s)
    assert kinds(actions)[-1] == "PrepareTask"
    assert step(state, Idle(), at_s + 1000)[1] == ()


def test_the_end_is_not_waited_for_for_ever():
    state, _ = play(PUBLISHED, server(status="finished"), at_s=100.0)
    assert "Finish" not in kinds(step(state, Idle(), 100.0 + LINGER_S - 0.01)[1])
    state, actions = step(state, Idle(), 100.0 + LINGER_S)
    assert actions[-1] == Finish(undelivered=1)
    assert state.finished
    assert step(state, Up(), 200.0) == (state, ())


def test_an_acknowledgement_extends_the_wait_at_the_end():
    two, _ = play(PUBLISHED, Made(items=(item("s1", "score"),)), server(status="finished"))
    state, _ = play(two, ack("s1"), at_s=LINGER_S - 1)
    assert "Finish" not in kinds(step(state, Idle(), LINGER_S + 1)[1])


def test_a_resumed_run_is_not_over():
    state, _ = play(READY, server(status="finished"), server(2, version=1), model(1))
    assert kinds(step(state, Idle(), 0.0)[1]) == ["Train"]


def test_no_more_than_a_window_is_in_flight():
    items = tuple(item(f"e{n}", "energy") for n in range(WINDOW + 5))
    state, actions = play(HELD, Made(items=items))
    assert [a.uid for a in actions if isinstance(a, Send)] == [i.uid for i in items[:WINDOW]]
    state, actions = play(state, ack("e3"))
    assert [a.uid for a in actions if isinstance(a, Send)] == [f"e{WINDOW}"]
    state, actions = play(state, Down(), Up(), server())
    assert [a.uid for a in actions if isinstance(a, Send)] == [i.uid for i in items if i.uid != "e3"][:WINDOW]


def test_after_a_restart_a_stored_update_is_sent_and_not_made_again():
    stored = (item("u1"), item("s0", "score", 0))
    state = resumed(ME, stored, {"u1": 0}, None)
    state, actions = play(state, server(), Prepared(task_hash=TASK), Up(), model(), Idle())
    assert [a for a in actions if isinstance(a, Send)] == [Send(uid="u1"), Send(uid="s0")]
    assert "Train" not in kinds(actions)
    state, actions = play(state, ack("u1"), Idle())
    assert "Train" not in kinds(actions)
    state, actions = play(state, server(2), model(), Idle())
    assert "Train" in kinds(actions)


def test_after_a_restart_a_round_that_was_done_is_not_done_again():
    state = resumed(ME, (), {}, (TASK, 1, 1))
    _, actions = play(state, Up(), Prepared(task_hash=TASK), server(), model(), Idle())
    assert kinds(actions) == ["Announce"]
    _, actions = play(state, Up(), Prepared(task_hash=TASK), server(attempt=2), model(), Idle())
    assert "Train" in kinds(actions)


def test_a_round_whose_stored_update_is_refused_for_its_former_life_is_answered_anew():
    state = resumed(ME, (item("u1"),), {"u1": 0}, (TASK, 1, 1))
    state, actions = play(state, Up(), Prepared(task_hash=TASK), server(), model(), Idle())
    assert "Train" not in kinds(actions)
    state, actions = play(state, ack("u1", "refused", reason="epoch: epoch 1, the device was born again with 2"))
    assert kinds(actions)[:5] == ["Warn", "TakeBack", "AnswerAnew", "ReportEnergy", "SpoolDelete"]
    state, actions = play(state, model(), Idle())
    assert [action for action in actions if isinstance(action, Train)] == [TRAIN]
    state, actions = play(state, Made(items=(item("u2"),), model_version=0))
    _, actions = play(state, ack("u2", "refused", reason="epoch: epoch 2, the device was born again with 9"), Idle())
    assert not {"AnswerAnew", "Train"} & set(kinds(actions)), "another device of that name lives a later life"


@pytest.mark.parametrize(("round_", "code"), [(1, "closed"), (2, "epoch")])
def test_other_refusals_leave_the_round_answered(round_, code):
    state = resumed(ME, (item("u1"),), {"u1": 0}, (TASK, round_, 1))
    _, actions = play(state, Up(), Prepared(task_hash=TASK), server(round_), ack("u1", "refused", reason=f"{code}: so"))
    assert "TakeBack" in kinds(actions)
    assert "AnswerAnew" not in kinds(actions)


def test_a_new_life_of_the_server_gets_what_was_under_way_to_the_last_one():
    state, actions = play(PUBLISHED, server(status="offline"))
    assert actions == []
    state, actions = play(state, server(attempt=2, epoch=2))
    assert actions == [Send(uid="u1")]
    _, actions = play(state, server(attempt=2, epoch=2, deadline_s=9.0))
    assert actions == [], "the same life again"


def test_a_round_that_opens_once_more_gets_the_update_that_nobody_heard_of():
    state, actions = play(PUBLISHED, server(attempt=2))
    assert actions == [Send(uid="u1")]
    _, actions = play(state, server(attempt=2, deadline_s=9.0))
    assert actions == [], "the same opening again"


def test_a_stored_update_of_another_model_does_not_stand_for_the_round():
    state = resumed(ME, (item("u1"),), {"u1": 7}, None)
    _, actions = play(state, Up(), Prepared(task_hash=TASK), server(), model(), Idle())
    assert "Train" in kinds(actions)


def test_too_many_reconstructions_are_dropped_with_a_warning():
    state = msgspec.structs.replace(READY, unscored=tuple(f"r{n}" for n in range(client.LARGEST_BACKLOG)))
    state, actions = play(state, ReconstructionArrived(uid="one more"), ReconstructionArrived(uid="r0"))
    assert kinds(actions) == ["Warn"]
    assert len(state.unscored) == client.LARGEST_BACKLOG


ROUNDS = st.integers(1, 3)
EVENTS = st.one_of(
    st.sampled_from([Up(), Down(), Prepared(task_hash=TASK), Idle(), Idle(), Idle()]),
    st.sampled_from([task(), task(TRAINING), task(RENEWED), graph(TRAINING), graph(RENEWED), graph(INFERENCE)]),
    st.builds(
        lambda r, a, v, s: server(r, attempt=a, version=v, status=s),
        ROUNDS,
        st.integers(1, 2),
        st.integers(0, 1),
        st.sampled_from(["open", "open", "open", "closed", "finished", "offline"]),
    ),
    st.builds(model, st.integers(0, 1)),
    st.builds(
        lambda n, status: ack(f"u{n}", status), st.integers(0, 6), st.sampled_from(["admitted", "refused", "missing"])
    ),
    st.builds(lambda n: ReconstructionArrived(uid=f"r{n}"), ROUNDS),
    st.builds(lambda n: Lost(uid=f"u{n}"), st.integers(0, 6)),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(EVENTS, st.floats(0, 20)), max_size=60))
def test_any_order_of_events_keeps_what_was_promised(history):  # noqa: C901, PLR0912, PLR0915 - a check per action
    """Events in any order, lost and repeated, with training carried out as the device would."""
    state = ClientState(node=ME)
    stored: dict[str, SpoolItem] = {}
    subscribed: set[int] = set()
    asked: set[str] = set()
    now_s, made, last, finished = 0.0, 0, None, False
    for event, wait_s in history:
        now_s += wait_s
        queue: list[Event] = [event]
        while queue:
            current = queue.pop(0)
            state, actions = step(state, current, now_s)
            assert not (finished and actions)
            for action in actions:
                if isinstance(action, Train):
                    held = state.server
                    assert isinstance(current, Idle)
                    assert held.status == "open"
                    assert ME in held.selected
                    assert state.model == (held.model_version, held.model_sha256)
                    assert (action.round, action.attempt) == (held.round, held.attempt) != last
                    assert not any(
                        i.round == action.round and i.note == bytes([held.model_version]) for i in stored.values()
                    )
                    last = (action.round, action.attempt)
                    new = SpoolItem(uid=f"u{made}", kind="update", round=action.round, note=bytes([held.model_version]))
                    made += 1
                    queue.append(Made(items=(new,), model_version=held.model_version))
                elif isinstance(action, SpoolPut):
                    stored[action.item.uid] = action.item
                elif isinstance(action, SpoolDelete):
                    assert isinstance(current, AckArrived)
                    assert current.ack.uid == action.uid
                    assert current.ack.status != "missing"
                    del stored[action.uid]
                elif isinstance(action, Send):
                    assert state.connected
                    assert action.uid in stored
                elif isinstance(action, FetchModel):
                    subscribed.add(action.version)
                elif isinstance(action, LeaveModel):
                    subscribed.remove(action.version)
                elif isinstance(action, FetchGraph):
                    asked.add(action.name)
                elif isinstance(action, LeaveGraph):
                    asked.remove(action.name)
                elif isinstance(action, KeepGraph):
                    assert current == graph(action.record)
                elif isinstance(action, PrepareTask):
                    assert state.awaited is None
                elif isinstance(action, Finish):
                    finished = True
                    assert action.undelivered == len(stored)
            if isinstance(current, Lost):
                stored.pop(current.uid, None)
            assert {p.uid for p in state.pending} == set(stored)
            assert len(subscribed) <= 1
            assert finished or asked == {r.name for r in (state.awaited.records if state.awaited else ())}
            assert sum(p.due_s is not None for p in state.pending) <= WINDOW
            if state.connected and not finished:
                assert all(p.due_s is not None for p in state.pending)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(EVENTS, st.floats(0, 20)), max_size=40))
def test_the_same_events_give_the_same_actions_and_states_are_values(history):
    def run() -> list[object]:
        state, out, now_s = ClientState(node=ME), [], 0.0
        for event, wait_s in history:
            now_s += wait_s
            before = msgspec.msgpack.encode(state)
            new, actions = step(state, event, now_s)
            assert msgspec.msgpack.encode(state) == before
            out.append((new, actions))
            state = new
        return out

    assert run() == run()
