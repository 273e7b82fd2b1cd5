"""The update pipeline: every stage's declared properties are measured, sizes are those of the real object."""

from __future__ import annotations

import zlib

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from contract.codecs import CODECS, buffer_view, decode_tensors, encode_tensors
from contract.codecs.deflate import inflate
from contract.datasets import dataset_info
from contract.errors import WireError
from contract.messages import TensorRecord, Update, pack
from contract.models.layout import parameter_shapes
from contract.pipeline import Clip, GaussianNoise, codec_of, euclidean_norm, pipeline
from contract.task import RoundPlan, TaskSpec
from edge_client.pipeline import press

RNG = np.random.default_rng
NEAREST = [
    msgspec.structs.replace(CODECS[name], rounding="nearest") for name in ("int8", "int4", "ternary", "topk")
]  # fmt: skip
FED_BACK = [
    RoundPlan(codec=codec, error_feedback=True, share=0.05)
    for codec in ("fp16", "int8", "int4", "ternary", "sign", "topk")
]
arrays = hnp.arrays(np.float32, st.integers(0, 60), elements=st.floats(-60000, 60000, width=32))


def drawn(seed: int, **shapes) -> dict[str, np.ndarray]:
    rng = RNG(seed)
    return {name: rng.standard_normal(shape).astype(np.float32) ** 3 for name, shape in shapes.items()}


def decoded(pressed):
    return decode_tensors(pressed.records, [buffer_view(buffer) for buffer in pressed.buffers])


# --- codecs ----------


@pytest.mark.parametrize("name", ["int8", "int4", "ternary"])
def test_stochastic_rounding_is_unbiased_over_ten_thousand_draws(name):
    """One z-score per value; none beyond 5 in 41, nor their mean square beyond what chance allows."""
    draws, x = 10_000, np.linspace(-1, 1, 41, dtype=np.float32) ** 3
    tiled = np.tile(x, draws)  # all draws at once: each value of each copy has its own
    buffer, scale = CODECS[name].encode(tiled, RNG(11))
    y = CODECS[name].decode(buffer_view(buffer), tiled.shape, scale).reshape(draws, -1).astype(np.float64)
    spread = y.std(axis=0, ddof=1)
    random = spread > 1e-9
    z = (y.mean(axis=0) - x)[random] * np.sqrt(draws) / spread[random]
    assert np.abs(y.mean(axis=0) - x)[~random].max(initial=0.0) < 1e-6
    assert np.abs(z).max() < 5.0
    assert 0.3 < (z**2).mean() < 2.0
    assert random.sum() > 20


@pytest.mark.parametrize("codec", NEAREST, ids=lambda codec: codec.name)
@given(x=arrays, seed=st.integers(0, 2**32))
def test_rounding_to_the_nearest_keeps_its_bound_and_draws_nothing(codec, x, seed):
    buffer, scale = codec.encode(x, RNG(seed))
    again, _ = codec.encode(x, RNG(seed + 1))
    assert buffer_view(buffer) == buffer_view(again)
    y = codec.decode(buffer_view(buffer), x.shape, scale)
    assert np.abs(y.astype(np.float64) - x).max(initial=0.0) <= codec.error_bound(x)
    assert not codec.unbiased


@pytest.mark.parametrize("plan", FED_BACK, ids=lambda plan: plan.codec)
@given(x=arrays.filter(lambda x: x.any()))
def test_a_fed_back_codec_is_a_contraction(plan, x):
    """``|C(x) - x| < |x|``, up to rounding: what carries over cannot grow by itself."""
    codec = codec_of(plan)
    buffer, scale = codec.encode(x, RNG(0))
    y = codec.decode(buffer_view(buffer), x.shape, scale).astype(np.float64)
    assert np.linalg.norm(y - x) <= np.linalg.norm(x.astype(np.float64)) * (1 + 1e-6) + 1e-7


def test_the_share_of_the_plan_is_kept():
    x = RNG(0).standard_normal(1000).astype(np.float32)
    for share in (0.003, 0.25, 1.0):
        buffer, scale = codec_of(RoundPlan(codec="topk", share=share, kind="audit")).encode(x, RNG(1))
        y = CODECS["topk"].decode(buffer_view(buffer), x.shape, scale)
        assert np.count_nonzero(y) <= np.ceil(share * 1000)
        assert np.count_nonzero(y) > 0.95 * share * 1000 - 1


# --- clipping and noise ----------


@given(a=arrays, b=arrays, norm=st.floats(1e-3, 1e6))
def test_a_clipped_update_is_no_longer_than_the_bound_and_points_the_same_way(a, b, norm):
    update = {"a": a, "b": b}
    clip = Clip(norm=norm)
    found = clip.apply(update, RNG(0))
    assert euclidean_norm(found) <= norm or euclidean_norm(found) == euclidean_norm(update) <= norm
    for name, value in update.items():
        assert np.abs(found[name].astype(np.float64) - value).max(initial=0.0) <= clip.error_bound(update)
    if euclidean_norm(update) <= norm:
        assert all((found[name] == update[name]).all() for name in update)
    else:
        assert euclidean_norm(found) >= 0.999 * norm or euclidean_norm(found) == pytest.approx(norm, rel=1e-3)


def test_the_noise_has_the_stated_variance_and_no_mean():
    plan = RoundPlan(clip_norm=2.0, noise_multiplier=0.75)
    clip, noise = pipeline(plan).transforms
    assert (clip, noise) == (Clip(norm=2.0), GaussianNoise(std=1.5))
    draws = noise.apply({"w": np.zeros(400_000, dtype=np.float32)}, RNG(3))["w"].astype(np.float64)
    assert abs(draws.mean()) < 5 * 1.5 / np.sqrt(400_000)
    assert draws.var() == pytest.approx(1.5**2, rel=5 * np.sqrt(2 / 400_000))
    assert abs((draws**4).mean() / draws.var() ** 2 - 3) < 0.05
    assert noise.unbiased
    assert not clip.unbiased
    assert noise.error_bound({}) == np.inf


def test_noise_covers_the_clipped_update_and_precedes_the_residual():
    """With error feedback the residual is a function of noised values: exchanging the clean update changes nothing."""
    plan = RoundPlan(codec="sign", clip_norm=1.0, noise_multiplier=1.0)
    update, other = drawn(0, w=(40,)), drawn(1, w=(40,))
    noised = pipeline(plan).transforms
    first = noised[1].apply(noised[0].apply(update, RNG(0)), RNG(7))
    pressed = press(pipeline(plan), update, None, lambda purpose: RNG(7 if purpose == "noise" else 0))
    assert np.allclose(decoded(pressed)["w"] + pressed.residual["w"], first["w"], atol=1e-6)
    # The clean update never enters past its clipping: a thousand times longer, it gives the same bytes.
    longer = press(pipeline(plan), {"w": update["w"] * 1000}, None, lambda purpose: RNG(7 if purpose == "noise" else 0))
    assert np.allclose(longer.residual["w"], pressed.residual["w"], atol=1e-5)
    assert not np.allclose(
        press(pipeline(plan), other, None, lambda _purpose: RNG(7)).residual["w"], pressed.residual["w"]
    )


# --- error feedback ----------


@pytest.mark.parametrize("plan", FED_BACK, ids=lambda plan: plan.codec)
@settings(max_examples=20)
@given(seed=st.integers(0, 2**32))
def test_the_sum_telescopes(plan, seed):
    """Sum of what was decoded, plus the last residual, is the sum of the updates."""
    residual, sent, meant = None, 0.0, 0.0
    for step in range(12):
        update = drawn(seed + step, w=(7, 9), b=(5,))
        pressed = press(pipeline(plan), update, residual, lambda _purpose: RNG(0))
        residual = pressed.residual
        sent = sent + decoded(pressed)["w"].astype(np.float64)
        meant = meant + update["w"].astype(np.float64)
    assert np.abs(sent + residual["w"] - meant).max() < 1e-4 * np.abs(meant).max()


@pytest.mark.parametrize("codec", ["ternary", "sign", "topk", "int4"])
def test_the_residual_stays_bounded(codec):
    plan = RoundPlan(codec=codec, error_feedback=True, share=0.05)
    residual, lengths = None, []
    for step in range(200):
        update = drawn(step, w=(40, 40))
        residual = press(pipeline(plan), update, residual, lambda _purpose: RNG(0)).residual
        lengths.append(euclidean_norm(residual))
    assert np.mean(lengths[-20:]) < 1.3 * np.mean(lengths[80:120])


@pytest.mark.parametrize(("plan", "expected"), [
    (RoundPlan(codec="sign"), True), (RoundPlan(codec="topk"), True), (RoundPlan(codec="int8"), False),
    (RoundPlan(codec="fp16"), False), (RoundPlan(codec="ternary"), False),
    (RoundPlan(codec="ternary", error_feedback=True), True), (RoundPlan(codec="topk", error_feedback=False), False),
    (RoundPlan(kind="audit", codec="topk"), False),
])  # fmt: skip
def test_when_what_is_lost_is_fed_back(plan, expected):
    assert plan.feeds_back == expected
    pressed = press(pipeline(plan), drawn(0, w=(30,)), None, lambda _purpose: RNG(0))
    assert (pressed.residual is not None) == expected
    assert pipeline(plan).unbiased == (plan.codec in {"int8", "ternary"} and not expected)


# --- zlib ----------


@pytest.mark.parametrize("codec", sorted(CODECS))
@given(x=arrays, zeros=st.integers(0, 500))
def test_deflated_tensors_are_the_same_and_never_longer(codec, x, zeros):
    tensors = {"w": np.concatenate([x, np.zeros(zeros, dtype=np.float32)])}
    plain, buffers = encode_tensors(codec, tensors, RNG(0))
    records, streams = encode_tensors(codec, tensors, RNG(0), compression="zlib")
    assert records[0].nbytes == buffer_view(streams[0]).nbytes <= plain[0].nbytes
    assert records[0].inflated in {0, plain[0].nbytes}
    a = decode_tensors(plain, [buffer_view(buffers[0])])["w"]
    b = decode_tensors(records, [buffer_view(streams[0])])["w"]
    assert (a == b).all()


def test_the_bytes_in_the_specification():
    (record,), (stream,) = encode_tensors("int8", {"w": np.zeros(64, np.float32)}, RNG(0), compression="zlib")
    assert (bytes(stream).hex(), record.inflated) == ("789c6360a00c000000400001", 64)


@pytest.mark.parametrize(("stream", "size", "most", "match"), [
    (zlib.compress(bytes(10**6)), 10**6, 64, "at most 64"), (zlib.compress(bytes(10**6)), 64, 64, "said to hold 64"),
    (zlib.compress(bytes(60)), 64, 64, "said to hold 64"), (zlib.compress(bytes(64)) + b"x", 64, 64, "does not end"),
    (zlib.compress(bytes(64))[:-1], 64, 64, "does not end"), (b"no stream", 64, 64, "not a zlib stream"),
    (zlib.compress(bytes(64))[:-1] + b"\x00", 64, 64, "not a zlib stream"),
])  # fmt: skip
def test_a_stream_that_lies_is_refused_before_it_fills_memory(stream, size, most, match):
    with pytest.raises(WireError, match=match):
        inflate(memoryview(stream), size, most)


def test_a_bomb_in_a_record_is_refused_by_name():
    stream = zlib.compress(bytes(10**7))
    record = TensorRecord(name="w", shape=(8, 8), codec="int8", nbytes=len(stream), scale=1.0, inflated=10**7)
    with pytest.raises(WireError, match=r"'w'.*10000000 bytes: at most 64"):
        decode_tensors([record], [memoryview(stream)])


# --- size of the whole object ----------


@pytest.mark.parametrize(("codec", "most"), [("int8", 0.26), ("int4", 0.135), ("ternary", 0.068), ("topk", 0.008)])
def test_bytes_of_the_whole_update_of_the_default_network(codec, most):
    info, task = dataset_info("mnist5k"), TaskSpec()
    shapes = parameter_shapes(task, info.shape, info.classes)
    assert [tuple(shape) for shape in shapes.values()] == [(256, 784), (256,), (10, 256), (10,)]
    sizes = {}
    for name in ("fp32", codec):
        plan = RoundPlan(codec=name, local_steps=10)
        pressed = press(pipeline(plan), drawn(5, **shapes), None, lambda _purpose: RNG(1))
        update = Update(
            uid="0" * 32, node="device-000", epoch=12, round=1000, model_version=1000, task_hash="0" * 64, plan=plan,
            samples=320, loss=2.302585, tensors=pressed.records,
        )  # fmt: skip
        sizes[name] = len(pack(update, pressed.buffers))
    assert sizes[codec] <= most * sizes["fp32"]
