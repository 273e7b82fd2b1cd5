from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.rounds import (
    Admitted,
    CloseRound,
    Course,
    EmptyRound,
    Event,
    Fail,
    Finish,
    Offline,
    Online,
    OpenRound,
    State,
    Tick,
    advance,
    draw,
)
from server.settings import ScheduleEntry, ServerSettings

TRAIN = ScheduleEntry(deadline_s=10.0)


def course(*entries: ScheduleEntry, **changes: object) -> Course:
    return Course(**{"schedule": entries or (TRAIN,), "seed": 1, "clients": 3, **changes})  # type: ignore[arg-type]


def play(the_course: Course, *events: Event, state: State | None = None) -> tuple[State, list[object]]:
    state, actions = state or State(), []
    for event in events:
        state, now = advance(the_course, state, event)
        actions += now
    return state, actions


ALL = (Online(0, "a"), Online(0, "b"), Online(0, "c"))


def test_the_first_round_waits_for_all_expected_devices():
    state, actions = play(course(), *ALL[:2], Tick(1e6))
    assert (state.phase, actions) == ("waiting", [])
    state, actions = play(course(), ALL[2], state=state)
    assert actions == [OpenRound(1, 1, ("a", "b", "c"), ("a", "b", "c"), 3)]


def test_with_start_with_it_waits_for_the_grace_time_only():
    the_course = course(start_with=2, grace_s=5.0)
    state, actions = play(the_course, *ALL[:2], Tick(4.9))
    assert actions == []
    _, actions = play(the_course, Tick(5.0), state=state)
    assert actions == [OpenRound(1, 1, ("a", "b"), ("a", "b"), 2)]
    _, actions = play(the_course, ALL[0], Tick(100.0))
    assert actions == [], "one device is fewer than start_with"


def test_a_round_closes_at_its_k_of_n_and_the_next_opens():
    entry = ScheduleEntry(min_updates=2, rounds=2)
    state, actions = play(course(entry, entry), *ALL, Admitted(1, "c", "9", 1))
    assert state.phase == "open"
    state, actions = play(course(entry, entry), Admitted(2, "a", "3", 1), state=state)
    assert actions == [
        CloseRound(1, 1, "complete", ("3", "9"), ("b",)),
        OpenRound(2, 1, ("a", "b", "c"), ("a", "b", "c"), 2),
    ]


def test_k_is_never_more_than_were_drawn():
    state, actions = play(course(ScheduleEntry(min_updates=5, clients=2)), *ALL)
    assert state.needed == 2
    assert len(actions[0].selected) == 2


def test_a_dead_device_is_waited_for_until_the_deadline_and_may_come_back():
    state, actions = play(course(TRAIN, TRAIN), *ALL, Admitted(1, "a", "1", 1), Offline(2, "b"), Tick(9.9))
    assert state.phase == "open"
    _, actions = play(course(TRAIN, TRAIN), Tick(10.0), state=state)
    assert actions[0] == CloseRound(1, 1, "deadline", ("1",), ("b", "c"))
    assert actions[1].selected == ("a", "c"), "the dead device is not drawn again"
    _, actions = play(
        course(TRAIN, TRAIN), Online(5, "b"), Admitted(6, "b", "2", 1), Admitted(7, "c", "3", 1), state=state
    )
    assert actions[0] == CloseRound(1, 1, "complete", ("1", "2", "3"), ())
    assert actions[1].selected == ("a", "b", "c")


def test_a_round_without_any_update_is_opened_again_and_after_five_times_the_run_fails():
    state, _ = play(course(), *ALL)
    seen: list[object] = []
    for k in range(1, 8):
        state, now = play(course(), Tick(10.0 * k), state=state)
        seen += now
    kinds = [type(action) for action in seen]
    assert kinds == [EmptyRound, OpenRound] * 4 + [Fail]
    assert [action.attempt for action in seen if isinstance(action, OpenRound)] == [2, 3, 4, 5]
    assert "round 1 got no update in 5 openings of 10 s" in seen[-1].reason
    assert state.phase == "failed"


def test_a_life_that_finds_its_round_complete_waits_for_its_devices_before_the_next():
    the_course = course(ScheduleEntry(rounds=2), TRAIN)
    found = State(invited=frozenset("abc"), attempt=1, delivered=(("a", "1"), ("b", "2"), ("c", "3")))
    state, actions = play(the_course, Tick(1.0), state=found)
    assert actions == [
        OpenRound(1, 2, (), ("a", "b", "c"), 3),
        CloseRound(1, 2, "complete", ("1", "2", "3"), ()),
    ]
    state, actions = play(the_course, *ALL[:2], Tick(2.0), state=state)
    assert actions == [], "the third was in that round, and may be the next to be heard"
    _, actions = play(the_course, ALL[2], state=state)
    assert actions == [OpenRound(2, 1, ("a", "b", "c"), ("a", "b", "c"), 3)]


def test_no_opening_is_spent_while_nobody_is_online():
    state, _ = play(course(), *ALL, *(Offline(1, n) for n in "abc"))
    state, actions = play(course(), Tick(10.0), *(Tick(t) for t in range(11, 1000, 10)), state=state)
    assert [type(action) for action in actions] == [EmptyRound]
    _, actions = play(course(), Online(1001, "b"), state=state)
    assert actions == [OpenRound(1, 2, ("b",), ("a", "b", "c"), 1)]


def test_an_update_that_comes_between_two_openings_counts():
    state, _ = play(course(), *ALL, *(Offline(1, n) for n in "abc"), Tick(10.0))
    state, actions = play(course(), Admitted(11, "a", "1", 1), Online(12, "a"), state=state)
    assert actions == [OpenRound(1, 2, (), ("a", "b", "c"), 1), CloseRound(1, 2, "complete", ("1",), ()), Finish()]


def test_the_end_of_the_schedule():
    _, actions = play(course(), *ALL, *(Admitted(1, n, n, 1) for n in "cab"), Tick(99.0))
    assert actions[1:] == [CloseRound(1, 1, "complete", ("a", "b", "c"), ()), Finish()]


def test_an_update_of_another_round_and_a_second_of_a_device_do_not_count():
    state, _ = play(course(), *ALL, Admitted(1, "a", "1", 2), Admitted(1, "b", "2", 1), Admitted(1, "b", "3", 1))
    assert state.delivered == (("b", "2"),)


@given(
    nodes=st.lists(st.text("abcdefgh", min_size=1, max_size=3), unique=True, max_size=12),
    count=st.integers(1, 12),
    seed=st.integers(0, 2**40),
    data=st.data(),
)
def test_the_draw_depends_on_the_set_of_devices_only(nodes, count, seed, data):
    drawn = draw(nodes, count, seed=seed, round_=3, attempt=1)
    assert drawn == draw(data.draw(st.permutations(nodes)), count, seed=seed, round_=3, attempt=1)
    assert len(drawn) == len(set(drawn)) == min(count, len(nodes))
    assert list(drawn) == sorted(drawn)
    assert set(drawn) <= set(nodes)


def test_the_draw_is_fair_over_rounds_and_differs_between_openings():
    nodes = [f"n{i}" for i in range(10)]
    counts = dict.fromkeys(nodes, 0)
    for round_ in range(1000):
        for node in draw(nodes, 3, seed=1, round_=round_, attempt=1):
            counts[node] += 1
    assert all(240 <= n <= 360 for n in counts.values()), counts  # 300 ± 4 σ
    assert len({draw(nodes, 3, seed=1, round_=1, attempt=a) for a in range(20)}) > 10


EVENTS = st.one_of(
    st.builds(Online, st.just(0.0), st.sampled_from("abcd")),
    st.builds(Offline, st.just(0.0), st.sampled_from("abcd")),
    st.builds(Admitted, st.just(0.0), st.sampled_from("abcd"), st.sampled_from("0123456789"), st.integers(1, 4)),
    st.builds(Tick, st.just(0.0)),
)


@given(steps=st.lists(st.tuples(EVENTS, st.floats(0, 8)), max_size=120), k=st.integers(1, 4), drawn=st.integers(1, 4))
def test_whatever_happens_rounds_follow_each_other(steps, k, drawn):
    entry = ScheduleEntry(min_updates=k, clients=drawn, deadline_s=10.0)
    the_course = course(entry, entry, entry, clients=2)
    state, at_s, actions = State(), 0.0, []
    for event, wait_s in steps:
        at_s += wait_s
        state, now = advance(the_course, state, msgspec.structs.replace(event, at_s=at_s))
        actions += now
        if state.phase == "open":
            assert at_s - state.since_s < entry.deadline_s or not state.delivered
    opened = [(a.round, a.attempt) for a in actions if isinstance(a, OpenRound)]
    closed = [a for a in actions if isinstance(a, CloseRound)]
    assert opened == sorted(set(opened))
    assert [a.round for a in closed] == list(range(1, len(closed) + 1))
    assert all(len(a.uids) >= 1 and a.uids == tuple(sorted(set(a.uids))) for a in closed)
    assert sum(isinstance(a, Finish | Fail) for a in actions) <= 1
    for before, after in pairwise(actions):
        if isinstance(before, OpenRound):
            assert isinstance(after, CloseRound | EmptyRound | Fail)


def test_the_schedule_is_written_out():
    entries = (ScheduleEntry(rounds=2), ScheduleEntry(kind="audit", algorithm="fedsgd", rounds=3))
    found = ServerSettings(run="r", directory="/tmp", schedule=entries)  # type: ignore[arg-type]
    assert found.rounds == 5
    assert [found.entry(r).kind for r in range(1, 6)] == ["train", "train", "audit", "audit", "audit"]
    assert not found.entry(3).plan.applied
    with pytest.raises(IndexError):
        found.entry(6)
