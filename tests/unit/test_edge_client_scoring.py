"""Scores of hand-made reconstructions."""

from __future__ import annotations

import re

import msgspec
import numpy as np
import pytest
from onnx import TensorProto, helper
from skimage.metrics import structural_similarity

from contract.codecs import encode_tensors
from contract.codecs.bits import encode_frames
from contract.encodings import decode, encode
from contract.errors import ConfigurationError
from contract.messages import AttackResult, AttackScore, MembershipTest, Reconstruction
from contract.metrics import sample_digest
from contract.perceptual import Perceptual
from contract.task import EncodingSpec
from edge_client.scoring import Truth, named_samples, noise_score, score

SHAPE = (1, 8, 8)
RNG = np.random.default_rng(2)
X = RNG.random((12, *SHAPE), dtype=np.float32)
Y = np.arange(12) % 4
TRUTH = Truth(x=X, y=Y, samples=(5, 2, 5, 9))


def scored(pictures: np.ndarray | None, truth: Truth = TRUTH, **changes):
    tensors = {} if pictures is None else {"images": pictures}
    records, buffers = encode_tensors("fp32", {k: np.zeros_like(v) for k, v in tensors.items()}, RNG)
    views = [] if pictures is None else [memoryview(pictures.astype("<f4").tobytes())]
    assert len(buffers) == len(views)
    fields = {"attack": "a", "verdict": "recovered", "images": -1 if pictures is None else 0}
    result = AttackResult(**(fields | changes))
    recon = Reconstruction(uid="a" * 32, update_uid="b" * 32, node="n", round=1, results=(result,), tensors=records)
    (only,) = score(recon, views, truth, np.random.default_rng(0))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(only), type=AttackScore) == only
    return only


def scored_frames(found, truth, pictures=None, **changes):
    record, packed = encode_frames("frames", found)
    records, views = [record], [memoryview(packed.tobytes())]
    fields = {"attack": "a", "verdict": "exact", "frames": 0}
    if pictures is not None:
        images, buffers = encode_tensors("fp32", {"images": pictures}, RNG)
        records, views = [*records, *images], [*views, memoryview(buffers[0].tobytes())]
        fields["images"] = 1
    recon = Reconstruction(
        uid="a" * 32, update_uid="b" * 32, node="n", round=1,
        results=(AttackResult(**(fields | changes)),), tensors=tuple(records),
    )  # fmt: skip
    (only,) = score(recon, views, truth, np.random.default_rng(0))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(only), type=AttackScore) == only
    return only


def db(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(1 / np.square(a.astype(np.float64) - b).mean()))


def test_the_exact_sample_is_found_and_named_by_its_first_place():
    images = np.stack([RNG.random(SHAPE, dtype=np.float32), X[5]])
    found = scored(images)
    assert found.psnr_db == 200.0
    assert (found.candidate, found.sample) == (1, 0)
    assert found.ssim == pytest.approx(1.0)
    assert found.verdict == "recovered"


def test_best_pair_and_ssim_are_those_of_an_independent_calculation():
    images = np.clip(X[[9, 2]] + 0.1 * RNG.standard_normal((2, *SHAPE), dtype=np.float32), -0.2, 1.2).astype(np.float32)
    found = scored(images)
    clipped = np.clip(images, 0, 1)
    table = {(c, s): db(clipped[c], X[TRUTH.samples[s]]) for c in range(2) for s in range(4)}
    best = max(table, key=table.__getitem__)
    assert (found.candidate, found.sample) == best
    assert found.psnr_db == pytest.approx(table[best], abs=1e-6)
    truth = X[TRUTH.samples[best[1]]]
    assert found.ssim == pytest.approx(structural_similarity(clipped[best[0]][0], truth[0], data_range=1.0), abs=1e-5)


def test_controls_are_the_same_candidates_on_strangers_and_the_mean_image_on_the_truth():
    found = scored(X[[5]])
    others = [i for i in range(12) if i not in TRUTH.samples]
    possible = [db(X[5], X[i]) for i in others]
    assert any(found.wrong_sample_db == pytest.approx(value, abs=1e-6) for value in possible)
    mean = X.mean(axis=0)
    assert found.mean_image_db == pytest.approx(max(db(mean, X[i]) for i in (5, 2, 9)), abs=1e-4)
    assert scored(X[[5]]) == found


def test_wrong_sample_control_uses_as_many_strangers_as_there_are_samples():
    truth = Truth(x=X[:6], y=Y[:6], samples=(0, 1, 2))
    images = X[[4]]
    # All three strangers (3, 4, 5) are drawn, so the stranger that the candidate equals is among them.
    assert scored(images, truth).wrong_sample_db == 200.0
    truth = Truth(x=X[:5], y=Y[:5], samples=(0, 1, 2))
    assert scored(images, truth).wrong_sample_db is None


@pytest.mark.parametrize(
    ("labels", "right"),
    [((1, 2, 1, 1), 4), ((1, 1, 1, 1), 3), ((0, 3), 0), ((2, 2), 1), ((), None)],
)
def test_labels_agree_as_multisets(labels, right):
    # Labels of samples 5, 2, 5, 9 are 1, 2, 1, 1.
    assert scored(None, labels=labels).labels_right == right


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.full((1, *SHAPE), np.nan, dtype=np.float32), "64 values that are not finite"),
        (np.where(np.eye(8) > 0, np.inf, 0).astype(np.float32)[None, None], "8 values"),
        (np.zeros((1, 1, 8, 9), dtype=np.float32), r"shape \[1, 1, 8, 9\]: expected \[N, 1, 8, 8\]"),
        (np.zeros((1, 64), dtype=np.float32), "expected"),
        (np.zeros((0, *SHAPE), dtype=np.float32), "expected"),
        (np.zeros((), dtype=np.float32), "expected"),
    ],
)
def test_what_cannot_be_scored_has_failed_with_the_reason(images, words):
    found = scored(images, verdict="exact")
    assert found.verdict == "failed"
    assert found.psnr_db is found.ssim is found.wrong_sample_db is found.mean_image_db is None
    assert (found.sample, found.candidate) == (-1, -1)
    assert re.search(words, found.reason)


def test_an_index_beyond_the_tensors_has_failed():
    found = scored(X[[5]], images=3)
    assert found.verdict == "failed"
    assert "images = 3" in found.reason


def test_a_failure_without_images_keeps_its_own_reason():
    found = scored(None, verdict="refused", reason="needs B = 1", seconds=0.5, objective=2.0)
    assert (found.verdict, found.reason, found.seconds, found.objective) == ("refused", "needs B = 1", 0.5, 2.0)
    assert found.psnr_db is None


def test_samples_that_are_no_images_have_no_ssim():
    flat = Truth(x=X.reshape(12, 64), y=Y, samples=(1,))
    found = scored(X[[1]].reshape(1, 64), flat)
    assert found.psnr_db == 200.0
    assert found.ssim is None


def test_truth_names_few_samples_all_and_of_many_only_the_scored():
    one = scored(X[[5]])
    assert named_samples([one], 4) == (0, 1, 2, 3)
    other = msgspec.structs.replace(one, sample=30)
    failed = msgspec.structs.replace(one, sample=-1)
    assert named_samples([other, one, failed, one], 40) == (0, 30)
    assert named_samples([], 17) == ()
    assert named_samples([], 16) == tuple(range(16))


# --- batches ----------------------------------------------------------------------------------------------------


def test_the_matched_mean_counts_every_sample_and_a_missing_one_as_black():
    found = scored(np.stack([X[2], np.clip(X[5] + np.float32(0.1), 0, 1)]))
    black = db(np.zeros(SHAPE), X[9])
    assert found.matched_psnr_db == pytest.approx((200 + db(np.clip(X[5] + 0.1, 0, 1), X[5]) + black) / 3, abs=1e-4)
    assert found.unmatched == 1
    assert found.identified == pytest.approx(2 / 3)


def test_two_copies_of_one_sample_stand_for_one_only():
    found = scored(np.stack([X[2], X[2], X[2]]))
    assert found.unmatched == 0
    assert found.identified == pytest.approx(1 / 3)
    assert found.matched_psnr_db < 200 / 3 + 20


def test_a_stranger_is_not_identified():
    assert scored(X[[0]]).identified == 0.0
    duplicated = Truth(x=X[[1, 1, 3]], y=Y[:3], samples=(1,))
    assert scored(X[[1]], duplicated).identified == 1.0


# --- spikes -----------------------------------------------------------------------------------------------------

SPEC = EncodingSpec(kind="rate", steps=4)
FRAMES = encode(SPEC, X[[5, 2, 5]], RNG).swapaxes(0, 1).astype(np.uint8)
FRAMES[0, 1] = 0
SPIKING = Truth(x=X, y=Y, samples=(5, 2, 5), encoding=SPEC, frames=FRAMES)


def test_all_frames_found_in_another_order_of_samples():
    found = scored_frames(FRAMES[[2, 0, 1]], SPIKING)
    assert (found.frames_exact, found.frames_placed) == (1.0, 1.0)
    assert (found.spike_precision, found.spike_recall) == (1.0, 1.0)
    true = X[[5, 2, 5]]
    bound = np.mean([db(a, b) for a, b in zip(decode(SPEC, FRAMES.swapaxes(0, 1)), true, strict=True)])
    assert found.rate_bound_db == pytest.approx(bound, abs=1e-4)
    assert found.rate_psnr_db == pytest.approx(bound, abs=1e-4)
    assert found.psnr_db is None


def test_frames_in_the_wrong_order_are_exact_but_not_placed():
    wrong = FRAMES[:, [1, 0, 2, 3]]
    found = scored_frames(wrong, SPIKING)
    assert found.frames_exact == 1.0
    # Two of four steps stay: the empty frame of the first sample does not count.
    assert found.frames_placed == pytest.approx(6 / 11)
    assert found.spike_precision == found.spike_recall < 1


def test_what_is_missing_lowers_recall_and_what_is_invented_precision():
    one = scored_frames(FRAMES[[1]], SPIKING)
    assert (one.spike_precision, one.spike_recall) == (1.0, pytest.approx(FRAMES[1].sum() / FRAMES.sum()))
    assert one.frames_exact == pytest.approx(4 / 11)
    black = [db(np.zeros(SHAPE), X[5])] * 2
    assert one.rate_psnr_db == pytest.approx((sum(black) + db(FRAMES[1].mean(axis=0), X[2])) / 3, abs=1e-4)
    extra = np.concatenate([FRAMES, np.ones_like(FRAMES[:1])])
    more = scored_frames(extra, SPIKING)
    assert (more.frames_exact, more.spike_recall) == (1.0, 1.0)
    assert more.spike_precision == pytest.approx(FRAMES.sum() / extra.sum())


def test_nothing_claimed_and_nothing_there():
    nothing = scored_frames(np.zeros_like(FRAMES), SPIKING)
    assert (nothing.frames_exact, nothing.frames_placed) == (0.0, 0.0)
    assert (nothing.spike_precision, nothing.spike_recall) == (1.0, 0.0)
    silent = msgspec.structs.replace(SPIKING, frames=np.zeros_like(FRAMES))
    assert scored_frames(FRAMES, silent).frames_exact is None


def test_images_and_frames_are_scored_side_by_side():
    found = scored_frames(FRAMES, SPIKING, X[[5]])
    assert (found.psnr_db, found.frames_exact) == (200.0, 1.0)


@pytest.mark.parametrize(("frames", "truth", "changes", "words"), [
    (FRAMES[:, :3], SPIKING, {}, r"shape \[3, 3, 1, 8, 8\]: expected \[N, 4, 1, 8, 8\]"),
    (FRAMES[:0], SPIKING, {}, "expected"),
    (FRAMES, TRUTH, {}, "not made from spikes"),
    (FRAMES, SPIKING, {"frames": 7}, "frames = 7"),
])  # fmt: skip
def test_frames_that_cannot_be_scored_have_failed(frames, truth, changes, words):
    found = scored_frames(frames, truth, **changes)
    assert found.verdict == "failed"
    assert found.frames_exact is found.spike_recall is found.rate_bound_db is None
    assert re.search(words, found.reason)


# --- membership and LPIPS -----------------------------------------------------------------------------------------


def suspects(positions, figures):
    pairs = zip(positions, figures, strict=True)
    return tuple(MembershipTest(sample_digest(X[i]), figure) for i, figure in pairs)


@pytest.mark.parametrize(
    ("positions", "figures", "area"),
    [
        ((5, 2, 0, 1), (1e-6, 2e-6, 0.3, 0.2), 1.0),
        ((5, 2, 0, 1), (0.3, 1e-6, 0.2, 0.4), 0.75),
        ((0, 1), (0.1, 0.2), None),
        ((5, 9), (0.1, 0.2), None),
    ],
)
def test_membership_is_scored_where_the_truth_lives(positions, figures, area):
    found = scored(None, membership=suspects(positions, figures), verdict="failed")
    assert found.membership_auc == area


def graph(path):
    """A stand-in for LPIPS: the mean absolute difference of a pair."""
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 3, None, None]) for n in ("a", "b")]
    nodes = [helper.make_node("Sub", ["a", "b"], ["d"]), helper.make_node("Abs", ["d"], ["e"])]
    nodes.append(helper.make_node("ReduceMean", ["e"], ["y"], keepdims=0))
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [])
    graph_ = helper.make_graph(nodes, "g", inputs, [output])
    model = helper.make_model(graph_, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    path.write_bytes(model.SerializeToString())
    return path


def test_lpips_is_the_graph_s_value_for_the_best_pair(tmp_path):
    perceptual = Perceptual(graph(tmp_path / "lpips.onnx"))
    found = scored(X[[2]] * 0.5, msgspec.structs.replace(TRUTH, perceptual=perceptual))
    assert found.lpips == pytest.approx(float(X[2].mean()), rel=1e-5)  # half of x in [0, 1] is x away in [-1, 1]
    assert scored(X[[2]] * 0.5).lpips is None
    assert perceptual(np.zeros(5), np.zeros(5)) is None


@pytest.mark.parametrize("content", [None, b"", b"not an onnx file"])
def test_a_file_that_is_no_graph_is_refused_by_name(tmp_path, content):
    path = tmp_path / "weights.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"lpips = .*weights\.onnx"):
        Perceptual(path)


def reconstruction_of(pictures, results, noise):
    records, buffers = encode_tensors("fp32", pictures, RNG)
    place = {"uid": "a" * 32, "update_uid": "b" * 32, "node": "n", "round": 1}
    return Reconstruction(**place, results=results, noise=noise, tensors=records), [
        memoryview(b if isinstance(b, bytes) else b.tobytes()) for b in buffers
    ]


def test_noise_is_held_against_the_same_truth():
    found = AttackResult(attack="a", verdict="exact", images=0)
    blind = (AttackResult(attack="a", verdict="partial", images=1), AttackResult(attack="b", verdict="failed"))
    recon, views = reconstruction_of({"a": X[[5]], "noise.a": X[[5]] * 0.5}, (found,), blind)
    told, nothing = noise_score(recon, views, TRUTH, np.random.default_rng(0))
    assert told.psnr_db == pytest.approx(db(X[5] * 0.5, X[5]), abs=1e-4)
    assert told.psnr_db == scored(X[[5]] * 0.5).psnr_db
    assert (nothing.attack, nothing.psnr_db) == ("b", None)
    assert score(recon, views, TRUTH, np.random.default_rng(0))[0].psnr_db == 200.0


@pytest.mark.parametrize(
    ("told", "scores"),
    [
        ((), 0),
        ((AttackResult(attack="a", verdict="partial"), AttackResult(attack="b", verdict="failed")), 0),
        ((AttackResult(attack="a", verdict="failed"), AttackResult(attack="b", verdict="refused")), 2),
        ((AttackResult(attack="label", verdict="recovered", labels=(1,)),), 1),
    ],
)
def test_noise_of_which_the_verdicts_are_told_alone_has_no_score(told, scores):
    recon, views = reconstruction_of({"a": X[[5]]}, (AttackResult(attack="a", verdict="exact", images=0),), told)
    assert len(noise_score(recon, views, TRUTH, np.random.default_rng(0))) == scores
