"""What is seen of several devices together: made from the ledger, mirrored, scored by each device for itself."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from contract.codecs import decode_plain
from contract.messages import Aggregate, AggregatePart, AttackScore, Score, pack, unpack
from server.drain import outstanding
from server.settings import ScheduleEntry, ServerSettings
from server.summary import read_scores, summarise_ledger
from tests.secure_party import integers
from tests.unit.server_world import RUN, World, difference, name_of, settings
from tests.unit.test_server_secure_rounds import NAMES, SECURE, SHAPES, world

FEDSGD = {"algorithm": "fedsgd", "batch_size": 4, "learning_rate": 0.25, "server_learning_rate": 0.5}


def seen_of(w: World, seen: str) -> tuple[Aggregate, dict[str, np.ndarray]]:
    """What an attacker gets of it."""
    uid = w.ledger.value("SELECT uid FROM views WHERE seen = ? AND object IS NOT NULL", seen)
    head, views = unpack(w.wire.mirrored()[uid], Aggregate)
    return head, dict(decode_plain(head.tensors, views))


def score_of(node: str, update: str, seen: str, *, psnr_db: float | None) -> tuple[bytes, str]:
    uid = name_of("score", seen, update)
    attack = AttackScore(attack="ratio", verdict="partial" if psnr_db else "failed", psnr_db=psnr_db, seconds=1.0)
    message = Score(uid=uid, update_uid=update, node=node, round=1, samples=3, attacks=(attack,), seen=seen)
    return pack(message), uid


def test_the_opened_mean_is_mirrored_with_its_parts_and_each_device_scores_it(tmp_path):
    plain = integers(NAMES, SHAPES, 8, SECURE.largest)
    w = world(tmp_path)
    w.play(plain, {"n6": 3})
    head, mean = seen_of(w, "aggregate")
    assert (head.round, head.model_version, [part.node for part in head.parts]) == (1, 0, list(NAMES[:6]))
    assert head.errors == (SECURE.step,) * len(SHAPES)
    for name, value in mean.items():
        truth = np.mean([plain[node][name].view(np.int32) for node in NAMES[:6]], axis=0) * SECURE.step
        np.testing.assert_allclose(value, truth, rtol=1e-6)
    assert outstanding(w.ledger).scores == 12  # six masked updates, and six times the mean
    for part in head.parts:
        for seen, psnr_db in (("update", None), ("aggregate", 60.0)):
            blob, uid = score_of(part.node, part.uid, seen, psnr_db=psnr_db)
            w.send("score", part.node, 1, uid, blob)
            assert w.wire.verdicts(uid) == [("admitted", "")]
    assert outstanding(w.ledger).scores == 0
    assert summarise_ledger(w.ledger)["leakage"]["never_attacked"] == 0
    stranger, uid = score_of(head.parts[0].node, head.parts[0].uid, "models", psnr_db=90.0)
    w.send("score", head.parts[0].node, 1, uid, stranger)
    assert w.wire.verdicts(uid) == [("refused", "schema")]

    rows = read_scores(w.ledger)
    assert [(row.seen, row.score.psnr_db) for row in rows] == [("aggregate", 60.0)] * 6, "the better of two"
    said = summarise_ledger(w.ledger)["leakage"]
    assert (said["worst_psnr_db"], said["by_attack"]["ratio"]["n"]) == (60.0, 6)
    assert said["by_sight"]["update"]["worst_psnr_db"] is None
    assert said["by_sight"]["update"]["by_attack"]["ratio"]["failed"] == 6
    assert said["by_sight"]["aggregate"]["vantages"] == ("broker", "server")
    w.ledger.close()


def test_updates_whose_sum_nobody_attacked_are_no_trials(tmp_path):
    w = world(tmp_path)
    w.play(integers(NAMES, SHAPES, 10, SECURE.largest), {})
    head, _ = seen_of(w, "aggregate")
    for index, part in enumerate(head.parts):
        for seen in ("update", "aggregate")[: 1 if index < 3 else 2]:
            blob, uid = score_of(part.node, part.uid, seen, psnr_db=7.0)
            w.send("score", part.node, 1, uid, blob)
    said = summarise_ledger(w.ledger)["leakage"]
    assert said["never_attacked"] == 3, "a masked update alone is not what the server saw"
    assert (said["updates"], said["by_attack"]["ratio"]["n"]) == (4, 4)
    assert said["by_sight"]["update"]["by_attack"]["ratio"]["n"] == 7
    w.ledger.close()


def test_after_a_restart_what_was_not_scored_is_mirrored_again(tmp_path):
    w = world(tmp_path)
    w.play(integers(NAMES, SHAPES, 9, SECURE.largest), {})
    head, _ = seen_of(w, "aggregate")
    w.restart()
    w.wire.sent.clear()
    w.join()
    assert seen_of(w, "aggregate")[0] == head
    w.ledger.close()


def fellows(tmp_path, **changes) -> World:
    """Three devices in a round that moves the model, with a curious one among them: `a`."""
    entry = ScheduleEntry(**{**FEDSGD, **changes})
    w = World(settings(tmp_path, entry, vantages=("server", "fellow")))
    for name in ("a", "b", "c"):
        w.node(name)
    return w


@pytest.mark.parametrize("algorithm", ["fedsgd", "fedavg"])
def test_a_fellow_reads_the_others_mean_off_two_models(tmp_path, algorithm):
    w = fellows(tmp_path, algorithm=algorithm)
    for name in ("a", "b", "c"):
        w.update(name)
    head, mean = seen_of(w, "models")
    assert [part.node for part in head.parts] == ["b", "c"]
    assert "a took its own update out" in head.note
    weights = [part.samples for part in head.parts]
    for record, error in zip(head.tensors, head.errors, strict=True):
        truth = np.average([difference(n, 1)[record.name].astype(float) for n in ("b", "c")], axis=0, weights=weights)
        off = np.abs(mean[record.name] - truth).max()
        assert off <= error + 1e-6 * np.abs(truth).max()
        assert 0 < error < 1e-5
    assert outstanding(w.ledger).scores == 5
    w.ledger.close()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"server_momentum": 0.5}, "not supported: the server's optimiser has moments"),
        ({"server_optimiser": "adam", "server_learning_rate": 0.01}, "not supported: the server's optimiser"),
        ({"aggregator": "median"}, "not supported: aggregator CoordinateMedian"),
        ({"kind": "audit"}, "left the model as it was"),
    ],
)
def test_what_a_fellow_cannot_work_out_says_why(tmp_path, changes, reason):
    w = fellows(tmp_path, **changes)
    for name in ("a", "b", "c"):
        w.update(name)
    (row,) = w.ledger.rows("SELECT * FROM views")
    assert row["object"] is None
    assert reason in row["note"]
    assert outstanding(w.ledger).scores == 3, "nobody waits for what was not shown"
    (said,) = summarise_ledger(w.ledger)["leakage"]["views"]
    assert (said["shown"], said["not_shown"]) == (0, 1)
    w.ledger.close()


def test_without_a_fellow_models_are_not_looked_at_and_without_a_server_nothing_is(tmp_path):
    w = World(settings(tmp_path, ScheduleEntry(**FEDSGD)))
    for name in ("a", "b", "c"):
        w.node(name)
    for name in ("a", "b", "c"):
        w.update(name)
    assert w.column("SELECT COUNT(*) FROM views") == [0]
    w.ledger.close()
    with pytest.raises(ValueError, match="add 'server'"):
        ServerSettings(run=RUN, directory=tmp_path, vantages=("fellow",))


def test_a_device_cannot_send_an_aggregate_as_its_update(tmp_path):
    w = fellows(tmp_path)
    uid = name_of("odd")
    part = AggregatePart("a", uid, 1)
    head = Aggregate(
        uid=uid,
        seen="aggregate",
        round=1,
        model_version=0,
        task_hash="0" * 64,
        plan=w.settings.schedule[0].plan,
        parts=(part,),
        errors=(),
        tensors=(),
    )
    w.send("up", "a", 1, uid, pack(head))
    assert w.wire.verdicts(uid) == [("refused", "schema")]
    assert msgspec.json.decode(w.ledger.value("SELECT invited FROM rounds")) == ["a", "b", "c"]
    w.ledger.close()
