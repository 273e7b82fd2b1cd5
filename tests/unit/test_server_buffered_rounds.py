"""Asynchronous rounds: the machine that opens and ends them, and the models that the ledger makes of them."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import numpy as np
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from contract import messages, topics
from contract.codecs import decode_tensors
from contract.messages import ServerState, Update, unpack
from server.aggregation import FedBuff
from server.buffered_rounds import resting
from server.ledger import Ledger
from server.model import parameters_of
from server.rounds import (
    Admitted,
    CloseRound,
    Course,
    EmptyRound,
    Fail,
    Finish,
    Invite,
    MakeVersion,
    Offline,
    Online,
    OpenRound,
    State,
    Tick,
    advance,
)
from server.settings import ScheduleEntry
from tests.unit.server_world import RUN, World, difference, name_of, settings
from tests.unit.test_server_rounds import ALL, play

BUFFERED = ScheduleEntry(batch_size=16, deadline_s=10.0, fedbuff=FedBuff(buffer=2, versions=3, max_staleness=4))


WAITS = msgspec.structs.replace(BUFFERED, fedbuff=FedBuff(buffer=2, versions=3, max_staleness=4, waits=True))


def course(entry: ScheduleEntry = BUFFERED, *more: ScheduleEntry) -> Course:
    return Course(schedule=(entry, *more), seed=1, clients=3)


def admitted(*pairs: str, at_s: float = 1.0) -> list[Admitted]:
    return [Admitted(at_s, pair[0], pair, 1) for pair in pairs]


# --- the machine ----------------------------------------------------------------------------------------------------


def test_every_full_buffer_makes_a_version_and_the_last_one_ends_the_round():
    after = ScheduleEntry()
    state, actions = play(course(BUFFERED, after), *ALL, *admitted("a1", "a2", "b1"))
    assert actions == [OpenRound(1, 1, ("a", "b", "c"), ("a", "b", "c"), 2), MakeVersion(1, ("a1", "a2"))]
    assert (state.phase, state.versions, state.delivered) == ("open", 1, (("b", "b1"),))
    assert state.selected == ("a", "b", "c"), "who has delivered begins anew"
    state, actions = play(course(BUFFERED, after), *admitted("b1", "c1", "a3", "b2"), state=state)
    assert actions == [
        MakeVersion(1, ("b1", "c1")),
        MakeVersion(1, ("a3", "b2")),
        CloseRound(1, 1, "complete", (), ()),
        OpenRound(2, 1, ("a", "b", "c"), ("a", "b", "c"), 3),
    ]


def test_the_deadline_makes_a_version_of_what_is_there_and_runs_anew_with_each():
    state, _ = play(course(), *ALL, *admitted("a1"), Tick(9.9))
    assert state.versions == 0
    state, actions = play(course(), Tick(10.0), Tick(19.9), *admitted("b1", at_s=19.95), state=state)
    assert actions == [MakeVersion(1, ("a1",))]
    state, actions = play(course(), Tick(20.0), Tick(29.9), state=state)
    assert actions == [MakeVersion(1, ("b1",))]
    assert state.phase == "open"


def test_without_any_update_it_is_opened_again_and_given_up_like_any_other():
    state, _ = play(course(), *ALL, *admitted("a1", "b1"))
    state, actions = play(course(), Tick(11.0), state=state)
    assert [type(action) for action in actions] == [EmptyRound, OpenRound]
    assert (state.attempt, state.versions) == (2, 1), "the versions that it made count"
    state, actions = play(course(), *(Tick(11.0 + 10 * k) for k in range(1, 9)), state=state)
    assert isinstance(actions[-1], Fail)


def test_devices_that_come_later_are_added_and_those_that_left_still_deliver():
    state, actions = play(course(), *ALL, Online(1, "d"), Offline(2, "a"))
    assert actions[1:] == [Invite(1, 1, ("a", "b", "c", "d"), ("a", "b", "c", "d"))]
    assert state.selected == ("b", "c", "d")
    state, actions = play(course(), *admitted("a1", "d1"), Online(3, "a"), state=state)
    assert actions == [MakeVersion(1, ("a1", "d1"))]
    assert state.selected == ("a", "b", "c", "d")


def test_with_fewer_places_than_devices_one_that_has_delivered_gives_its_place_up():
    entry = msgspec.structs.replace(BUFFERED, clients=1, fedbuff=FedBuff(buffer=50, versions=2))
    state, _ = play(course(entry), *ALL)
    seen = []
    for number in range(30):
        (node,) = state.selected
        seen.append(node)
        state, _ = play(course(entry), Admitted(1.0, node, f"u{number}", 1), state=state)
    assert set(seen) == {"a", "b", "c"}
    assert state.invited == {"a", "b", "c"}
    late, _ = play(course(entry), Tick(10.0), state=state)
    assert len(late.selected) == 1, "who has not delivered by the deadline gives its place up too"


def test_a_life_that_finds_a_full_buffer_makes_its_version_before_all_else():
    found = State(invited=frozenset("abc"), attempt=1, delivered=(("a", "1"), ("b", "2")), versions=1)
    state, actions = advance(course(), found, Tick(1.0))
    assert actions == (MakeVersion(1, ("1", "2")),)
    assert (state.phase, state.versions) == ("waiting", 2)
    complete = msgspec.structs.replace(found, versions=2)
    _, actions = advance(course(), complete, Tick(1.0))
    assert actions == (
        MakeVersion(1, ("1", "2")),
        OpenRound(1, 2, (), ("a", "b", "c"), 2),
        CloseRound(1, 2, "complete", (), ()),
        Finish(),
    )


def test_with_waits_a_device_begins_anew_from_the_version_with_its_update():
    state, actions = play(course(WAITS), *ALL, *admitted("a1"))
    assert (actions[1:], state.selected) == ([], ("b", "c"))
    state, actions = play(course(WAITS), Offline(1, "a"), Online(1, "a"), Online(1, "d"), state=state)
    assert state.selected == ("b", "c", "d"), "to come back is no way around it"
    state, actions = play(course(WAITS), *admitted("b1"), state=state)
    assert actions == [MakeVersion(1, ("a1", "b1"))]
    assert state.selected == ("a", "b", "c", "d")
    state, actions = play(course(WAITS), *admitted("c1"), Tick(12.0), state=state)
    assert actions == [MakeVersion(1, ("c1",))], "the deadline is as ever, and ends the wait"
    assert state.selected == ("a", "b", "c", "d")


def test_who_waits_holds_no_place_and_is_not_drawn_when_the_round_opens_anew():
    entry = msgspec.structs.replace(WAITS, clients=1, fedbuff=FedBuff(buffer=3, versions=2, waits=True))
    state, _ = play(course(entry), *ALL)
    for number in range(3):
        (node,) = state.selected
        state, actions = play(course(entry), Admitted(1.0, node, f"u{number}", 1), state=state)
    assert actions == [MakeVersion(1, ("u0", "u1", "u2"))]
    found = State(invited=frozenset("abc"), attempt=1, delivered=(("a", "1"), ("c", "2")))
    _, actions = play(course(entry), *ALL, state=found)
    assert actions == [OpenRound(1, 2, ("b",), ("a", "b", "c"), 3)]


EVENTS = st.one_of(
    st.builds(Online, st.just(0.0), st.sampled_from("abcd")),
    st.builds(Offline, st.just(0.0), st.sampled_from("abcd")),
    st.builds(Admitted, st.just(0.0), st.sampled_from("abcd"), st.uuids().map(str), st.just(1)),
    st.builds(Tick, st.just(0.0)),
)


@hypothesis_settings(max_examples=60)
@given(
    steps=st.lists(st.tuples(EVENTS, st.floats(0, 6)), max_size=80),
    k=st.integers(1, 4),
    places=st.integers(1, 4),
    waits=st.booleans(),
)
def test_whatever_happens_each_update_makes_one_version(steps, k, places, waits):
    fedbuff = FedBuff(buffer=k, versions=4, waits=waits)
    entry = msgspec.structs.replace(BUFFERED, clients=places, fedbuff=fedbuff)
    the_course = Course(schedule=(entry,), seed=1, clients=2)
    state, at_s, taken, actions, makers = State(), 0.0, [], [], {}
    for event, wait_s in steps:
        at_s += wait_s
        if isinstance(event, Admitted) and (not state.takes_updates or event.node in resting(fedbuff, state)):
            continue
        if isinstance(event, Admitted):
            taken.append(event.uid)
            makers[event.uid] = event.node
        state, now = advance(the_course, state, msgspec.structs.replace(event, at_s=at_s))
        actions += now
        assert len(state.delivered) < k
        assert len(state.selected) <= places
        assert set(state.selected) <= state.invited
        assert not resting(fedbuff, state) & set(state.selected)
        free = state.online - set(state.selected) - resting(fedbuff, state)
        going = state.phase == "open" and state.versions < 4
        assert not (going and free) or len(state.selected) == places, "nobody rests who need not"
    made = [action.uids for action in actions if isinstance(action, MakeVersion)]
    assert [uid for uids in made for uid in uids] == taken[: sum(map(len, made))], "in the order of admission"
    assert all(1 <= len(uids) <= k for uids in made)
    assert not waits or all(len({makers[uid] for uid in uids}) == len(uids) for uids in made)
    assert len(made) <= 4
    assert sum(isinstance(action, CloseRound) for action in actions) == (len(made) == 4)


# --- the server -----------------------------------------------------------------------------------------------------


def started(folder: Path, entry: ScheduleEntry = BUFFERED) -> World:
    world = World(settings(folder, entry))
    for node in "abc":
        world.node(node)
    return world


def send(world: World, label: str, version: int) -> str:
    """An update that the device of the label's first letter began from a version."""
    uid = name_of(label)
    plan = world.settings.entry(1).plan
    return world.update(label[0], 1, uid=uid, plan=plan, model_version=version, tensors=difference(label))


def announced(world: World) -> ServerState:
    return messages.decode(world.wire.retained()[topics.server_state(RUN)], ServerState)


def replayed(ledger: Ledger, buffer: int) -> list[dict[str, np.ndarray]]:
    """Every version again, from the admitted updates in the order of their admission and nothing else."""
    rows = ledger.rows("SELECT object FROM updates WHERE status = 'admitted' AND round = 1 ORDER BY sequence")
    versions = [parameters_of(ledger.value("SELECT object FROM models WHERE version = 0"))]
    for start in range(0, len(rows) - buffer + 1, buffer):
        found = [unpack(row["object"], Update) for row in rows[start : start + buffer]]
        total, samples = {}, 0
        for update, views in sorted(found, key=lambda pair: pair[0].uid):
            factor = (1 + len(versions) - 1 - update.model_version) ** -0.5
            for name, value in decode_tensors(update.tensors, views).items():
                term = (value.astype(np.float64) if factor == 1 else factor * value.astype(np.float64)) * update.samples
                total[name] = total[name] + term if name in total else term
            samples += update.samples
        versions.append(
            {n: (v.astype(np.float64) - total[n] / samples).astype(np.float32) for n, v in versions[-1].items()}
        )
    return versions


def assert_follows_from_its_updates(world: World) -> None:
    versions = replayed(world.ledger, 2)
    assert len(versions) == world.model.version + 1
    for version, expected in enumerate(versions):
        held = parameters_of(world.ledger.value("SELECT object FROM models WHERE version = ?", version))
        assert {n: v.tobytes() for n, v in held.items()} == {n: v.tobytes() for n, v in expected.items()}


def test_a_round_from_its_opening_to_its_last_version(tmp_path):
    world = started(tmp_path)
    assert (announced(world).status, announced(world).plan.mode) == ("open", "asynchronous")
    one, two = send(world, "a1", 0), send(world, "a2", 0)
    assert world.model.version == 1, "a device may fill a buffer alone"
    state = announced(world)
    assert (state.status, state.round, state.model_version, state.model_sha256) == ("open", 1, 1, world.model.sha256)
    kinds = [topics.parse(topic).kind for topic, _, _ in world.wire.sent]
    assert kinds.index("ack", kinds.index("mirror")) > len(kinds) - 1 - kinds[::-1].index("model"), "the model is first"
    late = send(world, "b1", 0)
    send(world, "a3", 1)
    send(world, "c1", 0)
    send(world, "c2", 2)
    rows = world.ledger.rows("SELECT version, staleness, factor, u.uid FROM aggregated JOIN updates u USING (uid)")
    assert {row["uid"]: (row["version"], row["staleness"]) for row in rows} == {
        one: (1, 0),
        two: (1, 0),
        late: (2, 1),
        name_of("a3"): (2, 0),
        name_of("c1"): (3, 2),
        name_of("c2"): (3, 0),
    }
    assert {row["factor"] for row in rows} == {1.0, 2**-0.5, 3**-0.5}
    assert world.column("SELECT sequence FROM updates ORDER BY sequence") == [1, 2, 3, 4, 5, 6]
    row = world.ledger.row("SELECT * FROM rounds")
    assert (row["closed"], row["admitted"], row["new_version"], row["needed"]) == ("complete", 6, 3, 2)
    assert world.wire.verdicts(send(world, "b2", 3)) == [("refused", "closed")]
    assert_follows_from_its_updates(world)
    world.ledger.close()


def test_what_is_too_old_is_refused_and_an_old_model_is_published_for_the_attacker(tmp_path):
    entry = msgspec.structs.replace(BUFFERED, fedbuff=FedBuff(buffer=1, versions=9, max_staleness=4))
    world = World(settings(tmp_path, entry))
    for node in "abc":
        world.node(node)
    for number in range(4):
        send(world, f"a{number}", number)
    assert not any(topic == topics.model_chunk(RUN, 0, 0) for topic in world.wire.retained())
    assert world.wire.verdicts(send(world, "b0", 0)) == [("admitted", "")]
    assert topics.model_chunk(RUN, 0, 0) in world.wire.retained(), "its attacker needs the model that it started from"
    assert world.wire.verdicts(send(world, "c0", 0)) == [("refused", "stale")]
    world.ledger.close()


def test_a_crash_before_a_version_is_healed_before_another_update_is_looked_at(tmp_path, monkeypatch):
    world = started(tmp_path)
    send(world, "a1", 0)
    with monkeypatch.context() as patch:
        patch.setattr(type(world.model), "advance", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        try:
            send(world, "b1", 0)
        except KeyboardInterrupt:
            assert world.column("SELECT COUNT(*) FROM aggregated") == [0]
    world.restart()
    assert (world.model.version, world.state.versions, world.state.delivered) == (1, 1, ())
    assert world.wire.verdicts(send(world, "b1", 0)) == [("admitted", "")], "it is in the ledger, and said so again"
    assert world.column("SELECT COUNT(*) FROM aggregated") == [2]
    world.ledger.close()


def test_with_waits_a_second_update_is_refused_until_the_first_made_a_version_in_any_life(tmp_path):
    world = started(tmp_path, WAITS)
    assert world.wire.verdicts(send(world, "a1", 0)) == [("admitted", "")]
    assert announced(world).selected == ("b", "c")
    said = [topic for topic, _, _ in world.wire.sent]
    told = max(place for place, topic in enumerate(said) if topic == topics.server_state(RUN))
    assert told < said.index(topics.ack(RUN, "a")), "it is told so before its verdict"
    assert world.wire.verdicts(send(world, "a2", 0)) == [("refused", "second")]
    world.restart()
    for node in "abc":
        world.node(node)
    assert announced(world).selected == ("b", "c")
    assert world.wire.verdicts(send(world, "a3", 0)) == [("refused", "second")]
    send(world, "b1", 0)
    assert (world.model.version, announced(world).selected) == (1, ("a", "b", "c"))
    assert world.wire.verdicts(send(world, "a4", 1)) == [("admitted", "")]
    send(world, "c1", 0)
    rows = world.ledger.rows("SELECT u.uid, staleness, factor FROM aggregated JOIN updates u USING (uid) ORDER BY uid")
    found = {row["uid"]: (row["staleness"], row["factor"]) for row in rows}
    assert found == {name_of(n): (0, 1.0) for n in ("a1", "b1", "a4")} | {name_of("c1"): (1, 2**-0.5)}
    assert_follows_from_its_updates(world)
    world.ledger.close()


MOVES = st.one_of(
    st.tuples(st.just("update"), st.sampled_from("abc"), st.integers(0, 2)),
    st.tuples(st.just("update"), st.sampled_from("abc"), st.integers(0, 2)),
    st.tuples(st.just("again"), st.integers(0, 8), st.just(0)),
    st.just(("restart", "", 0)),
    st.just(("leave", "b", 0)),
)


@hypothesis_settings(max_examples=12)
@given(moves=st.lists(MOVES, max_size=14), entry=st.sampled_from([BUFFERED, WAITS]))
def test_any_history_with_restarts_follows_from_its_updates(moves, entry):
    with TemporaryDirectory() as folder:
        world, sent = started(Path(folder), entry), []
        for number, (move, what, behind) in enumerate(moves):
            if move == "restart":
                world.restart()
                for node in "abc":
                    world.node(node)
            elif move == "leave":
                world.node(what, "offline")
            elif move == "again" and sent:
                label, version = sent[what % len(sent)]
                send(world, label, version)
            elif move == "update":
                sent.append((f"{what}{number}", max(0, world.model.version - behind)))
                send(world, *sent[-1])
        assert world.column("SELECT uid FROM aggregated GROUP BY uid HAVING COUNT(*) > 1") == []
        once = "SELECT 1 FROM aggregated a JOIN updates USING (uid) GROUP BY a.version, node HAVING COUNT(*) > 1"
        assert entry is BUFFERED or world.column(once) == []
        assert_follows_from_its_updates(world)
        world.ledger.close()
