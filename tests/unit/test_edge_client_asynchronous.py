"""A device in an asynchronous round: one update after the other, each from the newest model."""

from __future__ import annotations

import msgspec

from contract.task import RoundPlan
from edge_client.client import FETCH_PATIENCE_S, resumed
from edge_client.events import AckArrived, FetchModel, Idle, LeaveModel, Made, Prepared, Train, Up
from tests.unit.test_edge_client_client import READY, TASK, ack, item, kinds, model, play, server

PLAN = RoundPlan(local_steps=2, mode="asynchronous")


def at(version: int, **changes):
    return server(version=version, plan=PLAN, **changes)


def trained(actions) -> list[int]:
    return [action.model_version for action in actions if isinstance(action, Train)]


FIRST, _ = play(READY, at(0), model(0), Idle(), Made(items=(item("u1"),), model_version=0))


def test_it_makes_one_at_a_time_and_begins_anew_once_that_has_its_verdict():
    state, actions = play(FIRST, Idle(), at(1), Idle())
    assert trained(actions) == []
    assert not any(isinstance(action, FetchModel) for action in actions), "which is the newest is not known yet"
    state, actions = play(state, at(2), ack("u1"))
    assert FetchModel(version=2) in actions
    state, actions = play(state, model(2), Idle())
    assert trained(actions) == [2]
    state, actions = play(state, Made(items=(item("u2"),), model_version=2), ack("u2"), Idle())
    assert trained(actions) == [2], "with no newer model it goes on from the one that it has"


def test_a_redelivered_acknowledgement_changes_nothing():
    state, _ = play(FIRST, ack("u1"), Idle(), Made(items=(item("u2"),), model_version=0))
    assert play(state, ack("u1")) == (state, [])


def test_a_model_that_is_being_fetched_is_trained_on_though_a_newer_one_is_announced():
    state, _ = play(FIRST, at(1), ack("u1"))
    state, actions = play(state, at(2), at(3))
    assert actions == [], "models that follow each other faster than they are fetched would never let it train"
    assert trained(play(state, model(1), Idle())[1]) == [1]
    _, actions = play(state, at(4), at_s=FETCH_PATIENCE_S)
    assert actions == [LeaveModel(version=1), FetchModel(version=4)], "unless it does not come at all"


def test_a_stale_update_is_followed_by_one_from_the_newest_model():
    state, _ = play(FIRST, at(5), ack("u1", "refused", reason="stale: 5 behind"))
    _, actions = play(state, model(5), Idle())
    assert trained(actions) == [5]


def test_after_any_other_refusal_nothing_is_made_before_the_round_has_moved_on():
    state, actions = play(FIRST, ack("u1", "refused", reason="finite: a value is not finite"), Idle(), Idle())
    assert trained(actions) == []
    assert trained(play(state, at(1), model(1), Idle())[1]) == [1]
    assert trained(play(state, at(0, attempt=2), Idle())[1]) == [0]


def test_training_that_failed_is_tried_again_with_another_model_alone():
    state, actions = play(READY, at(0), model(0), Idle(), Idle(), Idle())
    assert trained(actions) == [0]
    assert trained(play(state, at(1), model(1), Idle())[1]) == [1]


def test_after_a_restart_it_goes_on_once_what_it_left_is_settled():
    left = resumed("me", (item("u1"),), {"u1": 0}, (TASK, 1, 1))
    state, actions = play(left, Up(), Prepared(task_hash=TASK), at(3), Idle())
    assert trained(actions) == []
    refusal = AckArrived(ack=msgspec.structs.replace(ack("u1").ack, status="refused", reason="epoch: born again"))
    for verdict in (ack("u1"), refusal):
        state_after, actions = play(state, verdict, model(3), Idle())
        assert trained(actions) == [3]
    settled = resumed("me", (), {}, (TASK, 1, 1))
    _, actions = play(settled, Up(), Prepared(task_hash=TASK), at(3), model(3), Idle())
    assert trained(actions) == [3], "that it has made one before says nothing"
    assert state_after.pending == ()


def test_when_it_is_not_selected_it_rests_and_the_next_round_is_as_ever():
    state, actions = play(FIRST, at(0, selected=("you",)), ack("u1"), Idle())
    assert trained(actions) == []
    state, actions = play(state, at(0), Idle(), Made(items=(item("u2"),), model_version=0), ack("u2"))
    assert trained(actions) == [0]
    state, actions = play(state, server(2, version=1), model(1), Idle())
    assert trained(actions) == [1]
    _, actions = play(state, Made(items=(item("u3", round_=2),), model_version=1), ack("u3"), Idle(), Idle())
    assert "Train" not in kinds(actions)
