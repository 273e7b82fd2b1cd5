from __future__ import annotations

import hashlib
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from contract import frames, messages, topics
from contract.codecs import encode_tensors
from contract.messages import AttackResult, AttackScore, Reconstruction, ServerState, TaskManifest, Truth
from contract.task import RoundPlan
from server.aggregation import ALGORITHMS, Contribution, descend, weighted_mean
from server.model import object_of, parameters_of
from server.settings import ScheduleEntry
from tests.unit.server_world import (
    HASH,
    INITIAL,
    MODELLED,
    RUN,
    World,
    difference,
    energy_report,
    make_update,
    name_of,
    score,
    settings,
)

TRAIN = ScheduleEntry(rounds=2, batch_size=16, server_momentum=0.5, deadline_s=10.0)
AUDIT = ScheduleEntry(kind="audit", algorithm="fedsgd", batch_size=1, deadline_s=10.0)
NODES = ("a", "b", "c")


@pytest.fixture
def world(tmp_path):
    found = World(settings(tmp_path, TRAIN, AUDIT, drain_s=20.0))
    for node in NODES:
        found.node(node)
    return found


def announced(world: World) -> ServerState:
    return messages.decode(world.wire.retained()[topics.server_state(RUN)], ServerState)


def assemble_model(world: World, version: int) -> bytes:
    assembler = frames.Assembler()
    whole = None
    for topic, payload in world.wire.retained().items():
        if (parsed := topics.parse(topic)).kind == "model" and parsed.version == version:
            whole = assembler.add(payload) or whole
    assert whole is not None
    return bytes(whole.blob)


# --- a whole run ------------------------------------------------------------------------------------------------


def test_a_run_from_birth_to_drain(world):
    manifest = messages.decode(world.wire.retained()[topics.task_manifest(RUN)], TaskManifest)
    assert manifest.task_hash == HASH
    state = announced(world)
    assert (state.status, state.round, state.attempt, state.selected) == ("open", 1, 1, NODES)
    assert hashlib.sha256(assemble_model(world, 0)).hexdigest() == state.model_sha256
    sent = {}
    for round_ in (1, 2, 3):
        for node in NODES:
            sent[world.update(node)] = (node, round_)
    assert (world.model.version, announced(world).status) == (2, "closed")
    assert {ack.status for ack in world.wire.acks()} == {"admitted"}
    stored = {row["uid"]: row["object"] for row in world.ledger.rows("SELECT uid, object FROM updates")}
    assert world.wire.mirrored() == stored
    assert stored.keys() == sent.keys()
    assert world.column("SELECT COUNT(*) FROM aggregated GROUP BY round") == [3, 3], "the audit round enters no model"
    for uid, (node, round_) in sent.items():
        blob, report = energy_report(node, round_, uid)
        world.send("score", node, round_, report, blob)
        assert not world.server.drain.done
        blob, scored = score(node, round_, uid)
        world.send("score", node, round_, scored, blob)
        assert world.wire.verdicts(report) == world.wire.verdicts(scored) == [("admitted", "")]
        world.wait(0.1)
    assert world.server.drain.done
    assert world.column("SELECT text FROM events") == []


def test_an_audit_round_that_is_applied_moves_the_model_along_the_mean_gradient(tmp_path):
    entry = ScheduleEntry(kind="audit", algorithm="fedsgd", batch_size=1, learning_rate=0.5, apply=True)
    world = World(settings(tmp_path, entry, clients=1))
    world.node("a")
    world.update("a", tensors=difference("g"), samples=1)
    expected = INITIAL["layers.0.bias"].astype(np.float64) - 0.5 * difference("g")["layers.0.bias"].astype(np.float64)
    assert world.model.parameters["layers.0.bias"].tolist() == expected.astype(np.float32).tolist()


def test_the_drain_gives_up_without_news_mirrors_again_and_says_what_is_missing(world):
    for _ in range(3):
        uids = [world.update(node) for node in NODES]
    blob, uid = energy_report("a", 3, uids[0])
    world.send("score", "a", 3, uid, blob)
    world.wait(1.0)
    before = len(world.wire.mirrored())
    world.wire.sent.clear()
    world.wait(6.0)
    assert len(world.wire.mirrored()) == before == 9
    order = [(p.kind, p.version, p.round) for t, _, _ in world.wire.sent if (p := topics.parse(t)).kind != "ack"]
    expected = []
    for round_ in (1, 2, 3):
        expected += [("model", round_ - 1, -1), *[("mirror", -1, round_)] * 3]
    assert order == expected, "each model comes before the updates that start from it"
    world.wait(13.9)
    assert not world.server.drain.done
    world.wait(0.2)
    assert world.server.drain.done
    (text,) = world.column("SELECT text FROM events")
    assert "9 admitted updates are unscored, 8 are without an energy report" in text


def test_the_drain_waits_for_an_attacker_that_is_at_work(world):
    for _ in range(3):
        uids = [world.update(node) for node in NODES]
    world.wait(1.0)
    for _ in range(4):
        world.wait(15.0)
        world.server.message(topics.working(RUN, 3, "a", uids[0]), b"\1", world.at_s)
        world.wait(0.1)
    world.wait(15.0)
    assert not world.server.drain.done
    for node, name in (("b", uids[0]), ("a", "0" * 32)):  # of no update that there is
        world.server.message(topics.working(RUN, 3, node, name), b"\1", world.at_s)
    world.wait(6.0)
    assert world.server.drain.done


def test_a_run_that_gets_nothing_fails_with_its_reason(tmp_path):
    world = World(settings(tmp_path, TRAIN, clients=1, max_attempts=2))
    world.node("a")
    world.wait(10.0)
    assert announced(world).attempt == 2
    world.wait(10.0)
    assert "round 1 got no update in 2 openings" in world.server.failure
    assert world.column("SELECT closed FROM rounds") == ["empty", "empty"]
    assert world.column("SELECT level FROM events") == ["warning", "error"]


# --- the model is a function of the admitted updates --------------------------------------------------------------


def reference_model(rounds: int) -> str:
    """The same arithmetic without server, ledger and wire."""
    parameters, velocity, plan = INITIAL, None, TRAIN.plan
    for round_ in range(1, rounds + 1):
        updates = []
        for node in NODES:
            _, uid = make_update(node, round_, plan=plan, model_version=round_ - 1)
            weight = 1 + int(uid[:2], 16) % plan.batch_size
            updates.append(Contribution(uid=uid, weight=weight, tensors=difference(node, round_)))
        step = ALGORITHMS[plan.algorithm].step(weighted_mean(sorted(updates, key=lambda u: u.uid)), plan)
        parameters, velocity = descend(parameters, velocity, step, plan)
    return hashlib.sha256(object_of(parameters, rounds, HASH)).hexdigest()


BAD_UPDATES = {
    "task": {"task_hash": "1" * 64},
    "plan": {"plan": RoundPlan(batch_size=3)},
    "model": {"model_version": 77},
    "future": {"round_": 40},
    "closed": {"round_": 0},
    "finite": {"tensors": {**difference("z"), "layers.0.bias": np.array([np.nan, 0], np.float32)}},
    "norm": {"tensors": {**difference("z"), "layers.0.bias": np.array([3e4, 0], np.float32)}},
    "tensors": {"tensors": {"layers.0.bias": np.zeros(2, np.float32)}},
    "samples": {"samples": 1000},
}

AFTER_SECOND = {"finite", "norm", "tensors", "samples"}
"""Codes that are checked after "second": a device whose good update is in hears that first."""

MOVES = st.lists(
    st.one_of(
        st.sampled_from(["restart", "tick", "flap"]),
        st.tuples(st.just("again"), st.sampled_from(NODES), st.integers(1, 2)),
        st.tuples(st.just("bad"), st.sampled_from(NODES), st.sampled_from(sorted(BAD_UPDATES))),
    ),
    max_size=6,
)


@hypothesis_settings(max_examples=25, deadline=None)
@given(
    orders=st.tuples(st.permutations(NODES), st.permutations(NODES)), between=st.lists(MOVES, min_size=6, max_size=6)
)
def test_any_history_of_the_same_updates_gives_the_bit_identical_model(orders, between):
    with TemporaryDirectory() as folder:
        world = World(settings(Path(folder), TRAIN))
        for node in NODES:
            world.node(node)
        moves = iter(between)
        for round_, order in zip((1, 2), orders, strict=True):
            for node in order:
                for number, move in enumerate(next(moves)):
                    disturb(world, move, f"{round_}{node}{number}")
                world.update(node, round_)
        assert (world.model.version, world.model.sha256) == (2, reference_model(2))
        assert world.column("SELECT uid FROM aggregated GROUP BY uid HAVING COUNT(*) > 1") == []
        assert world.column("SELECT COUNT(*) FROM aggregated") == [6]
        world.ledger.close()


def disturb(world: World, move, label: str) -> None:
    if move == "restart":
        world.restart()
        for node in NODES:
            world.node(node)
    elif move == "tick":
        world.wait(0.2)
    elif move == "flap":
        world.node("b", "offline")
        world.node("b", "online")
    elif move[0] == "again":
        world.send_again(move[1], move[2])
    else:
        code, late = move[2], move[1] in {node for node, _ in world.state.delivered}
        uid = world.update(move[1], uid=name_of("bad", label), **BAD_UPDATES[code])
        assert world.wire.verdicts(uid)[-1] == ("refused", "second" if late and code in AFTER_SECOND else code)


def test_a_restart_goes_on_at_the_open_round_and_keeps_what_was_admitted(world):
    world.update("b")
    world.restart()
    assert (announced(world).status, announced(world).round) == ("waiting", 0)
    for node in NODES:
        world.node(node)
    state = announced(world)
    assert (state.status, state.round, state.attempt, state.selected) == ("open", 1, 2, ("a", "c"))
    assert state.epoch == 2
    world.update("a")
    world.update("c")
    for node in NODES:
        world.update(node)
    assert world.model.sha256 == reference_model(2)


def test_an_update_that_was_under_way_during_the_restart_is_not_lost(world):
    blob, uid = make_update("a", 1, plan=TRAIN.plan, model_version=0)
    world.restart()
    world.send("up", "a", 1, uid, blob)
    assert world.wire.verdicts(uid) == [("admitted", "")]


def test_velocity_survives_in_the_ledger_bit_for_bit(world):
    for node in NODES:
        world.update(node)
    before = {name: value.copy() for name, value in world.model.velocity.items()}
    world.restart()
    assert {k: v.tobytes() for k, v in world.model.velocity.items()} == {k: v.tobytes() for k, v in before.items()}
    assert all(value.dtype == np.float64 for value in before.values())


# --- the wire ---------------------------------------------------------------------------------------------------


def test_lost_chunks_are_asked_for_after_two_seconds(world):
    world.wire.frame_bytes = frames.HEADER.size + 100
    blob, uid = make_update("a", 1, plan=TRAIN.plan, model_version=0)
    assert len(blob) > 400
    world.send("up", "a", 1, uid, blob, chunks=[0, 3])
    world.wait(1.9)
    assert world.wire.acks() == []
    world.wait(0.2)
    (ack,) = world.wire.acks("a")
    expected = tuple(i for i in range(-(-len(blob) // 100)) if i not in {0, 3})
    assert (ack.uid, ack.status, ack.missing) == (uid, "missing", expected)
    world.send("up", "a", 1, uid, blob, chunks=ack.missing)
    assert world.wire.verdicts(uid) == [("missing", ""), ("admitted", "")]


def test_a_chunk_that_comes_after_the_verdict_is_answered_with_it(world):
    uid = world.update("a")
    blob = world.ledger.value("SELECT object FROM updates")
    world.wait(1.0)
    world.send("up", "a", 1, uid, blob)
    world.wait(10.0 - 1.5)
    assert world.wire.verdicts(uid) == [("admitted", "")] * 2
    assert world.column("SELECT redelivered FROM updates") == [1]


def test_a_refusal_is_repeated_as_it_was(world):
    uid = world.update("a", task_hash="0" * 64)
    world.wait(1.0)
    world.update("a", task_hash="0" * 64)
    first, second = (ack for ack in world.wire.acks() if ack.uid == uid)
    assert first == second
    assert (first.status, first.reason[:6]) == ("refused", "task: ")


def test_a_device_cannot_use_another_devices_uid(world):
    uid = world.update("a")
    blob = world.ledger.value("SELECT object FROM updates")
    world.send("up", "b", 1, uid, blob)
    assert [(ack.status, ack.reason[:5]) for ack in world.wire.acks("b")] == [("refused", "node:")]
    assert world.state.delivered == (("a", uid),)


def test_an_object_over_the_limit_is_refused_at_its_first_frame(world):
    uid = name_of("big")
    blob = bytes(3 * (1 << 20))
    world.wire.frame_bytes = 1 << 16
    world.send("up", "a", 1, uid, blob, chunks=[0])
    assert world.wire.verdicts(uid) == [("refused", "size")]
    assert world.column("SELECT code FROM updates") == ["size"]


def test_the_will_of_an_earlier_life_is_ignored(world):
    world.node("a", epoch=2)
    world.node("a", "offline", epoch=1)
    assert "a" in world.state.online
    world.node("a", "offline", epoch=2)
    assert "a" not in world.state.online


def test_an_update_of_an_earlier_life_is_refused(world):
    world.node("a", epoch=2)
    uid = world.update("a", epoch=1)
    assert world.wire.verdicts(uid) == [("refused", "epoch")]


def test_old_models_are_cleared_beyond_the_last_three(tmp_path):
    world = World(settings(tmp_path, ScheduleEntry(rounds=6), clients=1), at_s=0.0)
    world.node("a")
    for _ in range(5):
        world.update("a")
    count = [p.version for t, payload, _ in world.wire.sent if (p := topics.parse(t)).kind == "model" and payload]
    assert count == [0, 1, 2, 3, 4, 5], "each version is published once"
    versions = {p.version for t in world.wire.retained() if (p := topics.parse(t)).kind == "model"}
    assert versions == {3, 4, 5}
    assert parameters_of(assemble_model(world, 5)).keys() == INITIAL.keys()


def test_what_could_not_be_mirrored_is_counted_and_follows_later(world):
    world.wire.online = False
    uid = world.update("a")
    assert world.server.intake.mirror.dropped == 1
    world.wire.online = True
    world.server.up(world.at_s)
    assert world.wire.mirrored().keys() == {uid}
    assert announced(world).status == "open"


def test_after_a_restart_what_was_not_scored_is_mirrored_again(world):
    uids = {node: world.update(node) for node in NODES}
    for node in NODES[:2]:
        world.send("recon", node, 1, *reconstruction(node, 1, uids[node]))
    blob, uid = score(NODES[0], 1, uids[NODES[0]])
    world.send("score", NODES[0], 1, uid, blob)
    world.restart()
    world.wire.sent.clear()
    for node in NODES:
        world.node(node)
    assert world.wire.mirrored().keys() == {uids[node] for node in NODES[1:]}


def test_frames_of_a_device_that_was_never_born_are_left_unanswered(world):
    uid = world.update("z")
    assert world.wire.verdicts(uid) == []
    assert world.column("SELECT COUNT(*) FROM updates") == [0]
    world.node("z")
    world.update("z")
    assert world.wire.verdicts(uid) == [("refused", "uninvited")]


@hypothesis_settings(max_examples=60, deadline=None)
@given(
    topic=st.one_of(
        st.text(max_size=30),
        st.sampled_from(
            [
                topics.node_state(RUN, "a"),
                topics.update_chunk(RUN, "a", 1, "f" * 32, 0),
                topics.score(RUN, "a", 1),
                topics.truth(RUN, "a", 1),
                topics.recon_chunk(RUN, "a", 1, 0),
                topics.ack(RUN, "a"),
            ]
        ),
    ),
    payload=st.binary(max_size=200),
    framed=st.booleans(),
)
def test_no_message_can_stop_the_server(topic, payload, framed):
    world = garbage_world()
    data = next(frames.split(payload, "f" * 32)) if framed else payload
    world.server.message(topic, data, world.at_s)
    world.server.message(topic, data, world.at_s)
    assert world.state.phase == "open"


_GARBAGE: list[World] = []
_FOLDER = TemporaryDirectory()


def garbage_world() -> World:
    """One world for all examples: a fresh ledger for each is slow."""
    if not _GARBAGE:
        _GARBAGE.append(World(settings(Path(_FOLDER.name), TRAIN, clients=1)))
        _GARBAGE[0].node("a")
    return _GARBAGE[0]


# --- reports ------------------------------------------------------------------------------------------------------


def reconstruction(node: str, round_: int, update_uid: str, *, images: int = 2) -> tuple[str, bytes]:
    uid = name_of("recon", update_uid)
    pictures = np.arange(images * 4, dtype=np.float32).reshape(images, 1, 2, 2) / 10
    records, buffers = encode_tensors("fp32", {"ratio": pictures}, np.random.default_rng(1))
    results = (
        AttackResult(attack="ratio", verdict="exact", labels=(3,), images=0),
        AttackResult(attack="dlg", verdict="failed", reason="diverged", objective=float("nan")),
    )
    message = Reconstruction(uid=uid, update_uid=update_uid, node=node, round=round_, results=results, tensors=records)
    return uid, messages.pack(message, buffers)


def test_reconstructions_are_stored_without_images_of_training_rounds(world):
    for round_ in (1, 2, 3):
        uids = [world.update(node) for node in NODES]
        recon = reconstruction("a", round_, uids[0])
        world.send("recon", "a", round_, *recon)
        world.send("recon", "a", round_, *recon)
    rows = world.ledger.rows("SELECT * FROM reconstructions WHERE attack = 'ratio' ORDER BY round")
    assert [(row["round"], row["kept"], row["images"] is None) for row in rows] == [
        (1, 0, True),
        (2, 0, True),
        (3, 2, False),
    ]
    assert np.frombuffer(rows[2]["images"], np.float32).reshape(2, 1, 2, 2)[1, 0, 1, 1] == np.float32(0.7)
    assert rows[2]["shape"] == "[2,1,2,2]"
    failed = world.ledger.rows("SELECT * FROM reconstructions WHERE attack = 'dlg'")
    assert [(row["verdict"], row["objective"], row["reason"]) for row in failed] == [("failed", None, "diverged")] * 3
    assert world.wire.verdicts(reconstruction("a", 1, uids[0])[0]) == []


def test_reports_are_taken_once_and_answered_always(world):
    update = world.update("a")
    blob, uid = energy_report("a", 1, update)
    for _ in range(2):
        world.send("score", "a", 1, uid, blob)
        world.wait(1.0)
    assert world.wire.verdicts(uid) == [("admitted", "")] * 2
    other = messages.unpack(blob, messages.EnergyReport)[0]
    world.send("score", "a", 1, "e" * 32, messages.pack(messages.EnergyReport(**{**_fields(other), "uid": "e" * 32})))
    assert world.wire.verdicts("e" * 32) == [("admitted", "")]
    assert world.column("SELECT energy_j FROM energy") == [None, MODELLED.energy_j]
    assert world.column("SELECT macs FROM operations") == [5]


def _fields(message: messages.Message) -> dict:
    return {name: getattr(message, name) for name in message.__struct_fields__}


def test_reports_about_anothers_update_are_refused(world):
    update = world.update("a")
    blob, uid = score("b", 1, update)
    world.send("score", "b", 1, uid, blob)
    blob, unknown = score("b", 1, "d" * 32)
    world.send("score", "b", 1, unknown, blob)
    assert world.wire.verdicts(uid) == world.wire.verdicts(unknown) == [("refused", "schema")]
    assert world.column("SELECT COUNT(*) FROM objects") == [0]


def test_a_value_that_sqlite_cannot_hold_is_the_senders_fault(world):
    update = world.update("a")
    bad = AttackScore(attack="x", verdict="exact", sample=2**63)
    blob, uid = score("a", 1, update, bad)
    world.send("score", "a", 1, uid, blob)
    assert world.wire.verdicts(uid) == [("refused", "schema")]
    world.node("a", published=2**63)
    assert world.column("SELECT COUNT(*) FROM scores") == [0]


def test_truths_are_stored_sample_by_sample(world):
    update = world.update("a")
    uid = name_of("truth", update)
    pictures = np.linspace(0, 1, 8, dtype=np.float32).reshape(2, 1, 2, 2)
    records, buffers = encode_tensors("fp32", {"x": pictures}, np.random.default_rng(1))
    message = Truth(uid=uid, update_uid=update, node="a", round=1, indices=(4, 9), labels=(7, 1), tensors=records)
    world.send("truth", "a", 1, uid, messages.pack(message, buffers))
    rows = world.ledger.rows("SELECT * FROM truths ORDER BY sample")
    assert [(row["sample"], row["label"], row["shape"]) for row in rows] == [(4, 7, "[1,2,2]"), (9, 1, "[1,2,2]")]
    assert rows[1]["image"] == pictures[1].tobytes()


# --- several attack workers ---------------------------------------------------------------------------------------


def claimed(world: World, node: str, round_: int, uid: str) -> list[int]:
    """Chunks that a claim brings forth."""
    before = len(world.wire.sent)
    world.server.message(topics.claim(RUN, round_, node, uid), b"\1", world.at_s)
    found = [topics.parse(topic) for topic, _, _ in world.wire.sent[before:]]
    return [topic.index for topic in found if (topic.kind, topic.uid) == ("mirror", uid)]


def test_for_several_workers_first_chunks_are_mirrored_and_the_rest_is_claimed(tmp_path):
    world = World(settings(tmp_path, TRAIN, mirror="first"))
    world.wire.frame_bytes = 150
    for node in NODES:
        world.node(node)
    uid = world.update("a")
    shown = [topics.parse(topic).index for topic, _, _ in world.wire.sent if "/mirror/" in topic]
    assert shown == [0]
    assert uid not in world.wire.mirrored()
    rest = claimed(world, "a", 1, uid)
    assert rest == list(range(1, len(rest) + 1))
    assert rest
    assert world.wire.mirrored()[uid] == world.ledger.value("SELECT object FROM updates WHERE uid = ?", uid)
    assert claimed(world, "a", 1, uid) == [], "not as often as somebody likes"
    world.wait(1.0)
    assert claimed(world, "a", 1, uid) == rest
    refused = world.update("a", uid="f" * 32)
    for node, round_, name in (("b", 1, uid), ("a", 2, uid), ("a", 1, refused), ("a", 1, "0" * 32), ("z", 1, uid)):
        assert claimed(world, node, round_, name) == []
    assert world.column("SELECT mirrored FROM updates WHERE uid = ?", uid) == [1]
    world.ledger.close()
