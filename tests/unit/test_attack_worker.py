"""The queue, the books and the worker: from a mirrored object to an answer on the wire."""

from __future__ import annotations

import numpy as np
import pytest

import attack.worker
import contract.datasets
from attack.app import chosen_methods
from attack.candidates import read_candidates
from attack.controls import Controls
from attack.desk import MODEL_PATIENCE_S, Desk
from attack.methods import METHODS
from attack.methods.dlg import DeepLeakage
from attack.methods.label import LabelRecovery
from attack.methods.ratio import Ratio
from attack.methods.row_space_membership import RowSpaceMembership
from attack.models import ModelStore
from attack.noise import noise_observation
from attack.settings import AttackSettings
from attack.threat import ThreatModel
from attack.worker import NOISE_PREFIX, Job, UpdateQueue
from contract import topics
from contract.codecs import decode_tensors
from contract.codecs.bits import decode_frames
from contract.datasets import load
from contract.encodings import encode
from contract.errors import ConfigurationError
from contract.messages import Reconstruction, Update, unpack
from contract.metrics import psnr, sample_digest
from contract.task import RoundPlan
from tests.attack_updates import (
    audit_plan,
    frames_of,
    manifest,
    model_blob,
    parameters_of,
    state,
    task_of,
    update_blob,
    worker,
)

TASK = task_of(hidden=(16,), steps=4)
CHEAP = {"label": LabelRecovery(), "ratio": Ratio()}
TRAIN = RoundPlan(local_steps=2, batch_size=2)


def samples(count=1):
    data = load("digits")
    return np.array(data.x[:count]), np.array(data.y[:count])


def job(seed=0, plan=None) -> Job:
    plan = plan or audit_plan()
    blob = update_blob(TASK, *samples(plan.batch_size * plan.local_steps), plan, seed=seed)
    update, views = unpack(blob, Update)
    return Job(update=update, views=views)


def desk(methods=CHEAP, limit=8, **options) -> Desk:
    return Desk(worker(methods, **options), UpdateQueue(limit))


def mirror(books: Desk, blob: bytes, node="device-1", round_=3) -> None:
    for index, frame in enumerate(frames_of(blob)):
        books.take(topics.mirror_chunk("test", round_, node, "0" * 32, index), frame)


def ready_desk(**options) -> Desk:
    books = desk(**options)
    books.take(topics.task_manifest("test"), manifest(TASK))
    for index, frame in enumerate(frames_of(model_blob(TASK))):
        books.take(topics.model_chunk("test", 1, index), frame)
    return books


# --- back-pressure ----------------------------------------------------------------------------------------------


def test_full_queue_gives_up_the_oldest_training_update_first():
    queue = UpdateQueue(3)
    jobs = [job(0), job(1, TRAIN), job(2), job(3, TRAIN), job(4)]
    dropped = [queue.put(each) for each in jobs]
    assert dropped == [None, None, None, jobs[1], jobs[3]]
    assert queue.dropped == 2
    assert [queue.pop() for _ in range(3)] == [jobs[0], jobs[2], jobs[4]]


def test_without_training_updates_the_oldest_goes():
    queue = UpdateQueue(2)
    jobs = [job(k) for k in range(3)]
    assert [queue.put(each) for each in jobs] == [None, None, jobs[0]]


def test_a_waiting_update_is_queued_once():
    queue = UpdateQueue(2)
    queue.put(job(0))
    assert queue.put(job(0)) is None
    assert len(queue) == 1


def test_what_is_given_up_is_answered_as_a_failure_of_each_attack():
    books = ready_desk(limit=1)
    for seed in (0, 1):
        mirror(books, update_blob(TASK, *samples(), audit_plan(), seed=seed))
    given_up, attacked = books.next_answer(0.0).message, books.next_answer(0.0).message
    assert [(r.attack, r.verdict) for r in given_up.results] == [("label", "failed"), ("ratio", "failed")]
    assert "given up" in given_up.results[0].reason
    assert attacked.results[1].verdict == "exact"


# --- from the wire to the wire ----------------------------------------------------------------------------------


def test_mirrored_update_is_reconstructed():
    books = ready_desk()
    assert books.idle
    mirror(books, update_blob(TASK, *samples(), audit_plan()))
    assert not books.idle
    found = books.next_answer(0.0)
    message, views = unpack(found.blob, Reconstruction)
    assert message == found.message
    images = decode_tensors(message.tensors, views)["ratio"]
    assert psnr(images[0], samples()[0][0]) > 100
    by_name = {result.attack: result for result in message.results}
    assert by_name["label"].labels == (int(samples()[1][0]),)
    assert by_name["ratio"].verdict == "exact"
    assert message.tensors[by_name["ratio"].images].name == "ratio"
    assert (message.node, message.round) == ("device-1", 3)
    assert books.next_answer(0.0) is None


def test_same_update_gives_the_same_answer_whatever_the_truth_is_worth(monkeypatch):
    blob = update_blob(TASK, *samples(), audit_plan())
    first = ready_desk()
    mirror(first, blob)
    tensors = unpack(first.next_answer(0.0).blob, Reconstruction)[1]

    def poisoned(*_args):
        raise AssertionError("the attacker opened a data set")

    monkeypatch.setattr(contract.datasets, "load", poisoned)
    again = ready_desk()
    mirror(again, blob)
    assert unpack(again.next_answer(0.0).blob, Reconstruction)[1] == tensors


def test_mirrored_again_after_its_answer_it_is_answered_from_memory():
    books = ready_desk()
    blob = update_blob(TASK, *samples(), audit_plan())
    mirror(books, blob)
    first = books.next_answer(0.0)
    mirror(books, blob)
    assert books.next_answer(0.0) is first


def test_update_of_an_unknown_model_fails_with_that_reason():
    books = ready_desk()
    mirror(books, update_blob(TASK, *samples(), audit_plan(), version=7))
    assert books.next_answer(3.0) is None
    assert not books.idle
    assert books.next_answer(3.0 + 0.9 * MODEL_PATIENCE_S) is None
    results = books.next_answer(3.0 + MODEL_PATIENCE_S).message.results
    assert {r.verdict for r in results} == {"failed"}
    assert "model version 7 is not at hand" in results[0].reason
    assert books.idle


def test_an_update_waits_for_a_model_that_comes_later_and_holds_up_no_other():
    books = ready_desk()
    mirror(books, update_blob(TASK, *samples(), audit_plan(), node="early", version=7))
    mirror(books, update_blob(TASK, *samples(), audit_plan()))
    assert books.next_answer(0.0).message.node == "device-1"
    assert books.next_answer(1.0) is None
    for index, frame in enumerate(frames_of(model_blob(TASK, 7))):
        books.take(topics.model_chunk("test", 7, index), frame)
    late = books.next_answer(1.1).message
    assert late.node == "early"
    assert "failed" not in {r.verdict for r in late.results}


def test_attacker_that_needs_no_weights_attacks_without_the_model():
    books = desk(threat=ThreatModel(weights=False))
    books.take(topics.task_manifest("test"), manifest(TASK))
    mirror(books, update_blob(TASK, *samples(), audit_plan(), version=7))
    ratio = books.next_answer(0.0).message.results[1]
    assert ratio.verdict == "recovered"
    assert "rank-one" in ratio.reason


def test_fellow_client_sees_no_single_update():
    books = desk(threat=ThreatModel(vantage="client"))
    books.take(topics.task_manifest("test"), manifest(TASK))
    mirror(books, update_blob(TASK, *samples(), audit_plan()))
    assert {r.verdict for r in books.next_answer(0.0).message.results} == {"refused"}


def test_update_that_does_not_fit_the_task_fails():
    other = task_of(hidden=(17,), steps=4)
    books = ready_desk()
    mirror(books, update_blob(other, *samples(), audit_plan()))
    results = books.next_answer(0.0).message.results
    assert {r.verdict for r in results} == {"failed"}
    assert "does not fit" in results[0].reason


def test_updates_wait_until_the_task_is_known():
    books = desk()
    mirror(books, update_blob(TASK, *samples(), audit_plan()))
    assert books.idle
    assert books.next_answer(0.0) is None
    books.take(topics.task_manifest("test"), manifest(TASK))
    assert books.next_answer(1.0) is None
    assert books.next_answer(1.0 + MODEL_PATIENCE_S) is not None


@pytest.mark.parametrize(
    ("topic", "payload"),
    [
        ("spikeleak/v1/test/mirror/1/n/u/0", b"rubbish"),
        ("spikeleak/v1/test/model/1/0", b"SPLK"),
        ("spikeleak/v1/test/task/manifest", b"\xc1"),
        ("spikeleak/v1/test/server/state", b"\x00"),
        ("spikeleak/v1/test/ack/n", b""),
        ("elsewhere", b""),
    ],
)
def test_rubbish_is_ignored(topic, payload):
    books = desk()
    books.take(topic, payload)
    assert books.idle


def test_finished_follows_the_servers_state():
    books = desk()
    for status, expected in (("open", False), ("finished", True), ("waiting", False)):
        books.take(topics.server_state("test"), state(status))
        assert books.finished is expected


def test_newest_models_are_kept_and_cleared_chunks_ignored():
    store = ModelStore(kept=2)
    for version in (1, 2, 3):
        done = [store.take(frame) for frame in frames_of(model_blob(TASK, version))]
        assert done[-1] == version
    assert store.take(b"") is None
    assert store.get(1) is None
    assert set(store.get(3)) == {"layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias"}


def test_a_model_that_a_waiting_update_needs_is_kept_however_old():
    store = ModelStore(kept=2)
    for version in (5, 6, 7, 1, 8):
        for frame in frames_of(model_blob(TASK, version)):
            store.take(frame, needed={1, 5})
    assert [version for version in range(10) if store.get(version)] == [1, 5, 8]


def test_optimisation_on_large_updates_is_refused():
    plan = RoundPlan(local_steps=3, batch_size=3)
    found = worker({"dlg": DeepLeakage()}).attack(
        job(0, plan), TASK, {n: np.zeros(s, np.float32) for n, s in shapes().items()}
    )
    assert [r.verdict for r in found.message.results] == ["refused"]


def shapes():
    from contract.models.layout import parameter_shapes

    return parameter_shapes(TASK, (1, 8, 8), 10)


def test_attacks_are_chosen_by_name_in_ladder_order():
    assert list(chosen_methods(("cosine", "ratio"))) == ["ratio", "cosine"]
    with pytest.raises(ConfigurationError, match=r"'ratoi'; did you mean 'ratio'"):
        chosen_methods(("ratoi",))


# --- spikes on the wire -----------------------------------------------------------------------------------------


def test_recovered_frames_travel_as_bits_beside_the_images():
    task = task_of(hidden=(64,), steps=4, kind="latency")
    blob = update_blob(task, *samples(1), audit_plan())
    head, views = unpack(blob, Update)
    answer = worker({"latency": METHODS["latency"]}).attack(Job(update=head, views=views), task, parameters_of(task))
    recon, tensors = unpack(answer.blob, Reconstruction)
    (result,) = recon.results
    assert result.verdict == "exact", result.reason
    truth = encode(task.encoding, samples(1)[0], np.random.default_rng(0))
    assert (decode_frames(recon.tensors[result.frames], tensors[result.frames])[0] == truth[:, 0]).all()
    assert recon.tensors[result.images].shape == (1, 1, 8, 8)


def test_the_first_audit_updates_get_a_noise_control_that_nothing_is_certified_on():
    books = ready_desk(noise_controls=1)
    found = []
    for seed in range(2):
        mirror(books, update_blob(TASK, *samples(), audit_plan(), seed=seed))
        found.append(books.next_answer(0.0).message)
    first, second = found
    assert [r.attack for r in first.noise] == [r.attack for r in first.results]
    assert "exact" in {r.verdict for r in first.results}
    assert "exact" not in {r.verdict for r in first.noise}
    given = [r for r in first.noise if r.images >= 0]
    assert given
    assert {first.tensors[r.images].name for r in given} == {f"noise.{r.attack}" for r in given}
    assert min(r.images for r in given) > max(r.images for r in first.results), "behind all that is found in the update"
    assert {r.frames for r in first.noise} == {-1}
    assert second.noise == ()


def test_the_control_goes_to_the_updates_that_were_named_whichever_comes_first():
    named = Controls(2, [(4, "a"), (4, "b")])
    places = [(4, "c"), (5, "a"), (4, "b"), (4, "a")]
    assert [place for place in places if named.takes("update", *place)] == [(4, "b"), (4, "a")]
    first = Controls(1)
    assert [first.takes("update", *place) for place in places] == [True, False, False, False]
    assert [named.takes("models", round_, "models") for round_ in (4, 5, 6)] == [True, True, False]


def test_noise_that_makes_an_answer_too_large_tells_its_verdicts_alone(monkeypatch):
    books = ready_desk(noise_controls=1)
    mirror(books, update_blob(TASK, *samples(), audit_plan()))
    whole = books.next_answer(0.0)
    own = sum(record.nbytes for record in whole.message.tensors if not record.name.startswith(NOISE_PREFIX))
    monkeypatch.setattr(attack.worker, "MAX_IMAGES_BYTES", attack.worker.MAX_HEAD_BYTES + own)
    books = ready_desk(noise_controls=1)
    mirror(books, update_blob(TASK, *samples(), audit_plan()))
    cut = books.next_answer(0.0).message
    assert [r.verdict for r in cut.noise] == [r.verdict for r in whole.message.noise]
    assert {(r.images, r.labels) for r in cut.noise} == {(-1, ())}
    assert [r.images for r in cut.results] == [r.images for r in whole.message.results]
    assert unpack(whole.blob, Reconstruction)[0] == whole.message


@pytest.mark.parametrize("codec", ["fp32", "int8", "topk"])
def test_noise_keeps_shapes_norms_and_codec(codec):
    observation = ready_desk().worker.observe(job(plan=audit_plan(codec=codec)), TASK, {})
    noise = noise_observation(observation, np.random.default_rng(3))
    assert {n: t.shape for n, t in noise.update.items()} == {n: t.shape for n, t in observation.update.items()}
    assert {r.codec for r in noise.records.values()} == {codec}
    for name, tensor in noise.update.items():
        size = np.linalg.norm(tensor) / np.linalg.norm(observation.update[name])
        assert 0.05 < size <= 1.5 if codec == "topk" else size == pytest.approx(1.0, rel=0.05)
        correlation = np.vdot(tensor, observation.update[name]) / np.linalg.norm(tensor)
        assert abs(correlation) < 6 * np.linalg.norm(observation.update[name]) / np.sqrt(tensor.size)


def test_candidates_are_tested_and_named_by_digest_only():
    x, y = samples(6)
    membership = {"row_space_membership": RowSpaceMembership()}
    books = ready_desk(methods=membership, threat=ThreatModel(candidates=True), candidates=x)
    mirror(books, update_blob(TASK, x[2:3], y[2:3], audit_plan()))
    (result,) = books.next_answer(0.0).message.results
    assert [test.digest for test in result.membership] == [sample_digest(sample) for sample in x]
    assert int(np.argmin([test.score for test in result.membership])) == 2
    assert result.verdict == "exact"


@pytest.mark.parametrize("bad", ["missing", "text", "range", "flat"])
def test_candidates_that_cannot_be_used_are_refused(tmp_path, bad):
    path = tmp_path / "suspects.npz"
    if bad == "text":
        path.write_text("x")
    if bad in {"range", "flat"}:
        np.savez(path, x=np.full((3, 4), 1.5) if bad == "range" else np.zeros(3))
    with pytest.raises(ConfigurationError, match="candidates = "):
        read_candidates(path)


def test_candidates_need_the_threat_model_s_permission(tmp_path):
    with pytest.raises(ValueError, match=r"threat\.candidates"):
        AttackSettings(run="r", directory=tmp_path, candidates=tmp_path / "x.npz")
