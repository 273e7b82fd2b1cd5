"""Scores against scikit-image and against arithmetic by hand; encodings and random streams."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from contract.encodings import encode
from contract.metrics import (
    PSNR_CAP_DB,
    area_under_roc,
    psnr,
    psnr_matrix,
    sample_digest,
    spike_precision_recall,
    ssim,
)
from contract.streams import stream
from contract.task import EncodingSpec

RNG = np.random.default_rng


@given(shape=st.sampled_from([(7, 7), (8, 8), (28, 28), (1, 25, 25), (3, 9, 13)]), seed=st.integers(0, 999))
def test_ssim_and_psnr_equal_scikit_image(shape, seed):
    rng = RNG(seed)
    a = rng.random(shape)
    b = np.clip(a + rng.uniform(0, 0.5) * rng.standard_normal(shape), 0, 1)
    axis = 0 if len(shape) == 3 else None
    assert ssim(a, b) == pytest.approx(structural_similarity(a, b, data_range=1.0, channel_axis=axis), abs=1e-6)
    assert psnr(a, b) == pytest.approx(peak_signal_noise_ratio(a, b, data_range=1.0), abs=1e-9)


@pytest.mark.parametrize(("side", "window"), [(5, 5), (6, 5), (4, 3), (3, 3)])
def test_small_images_get_the_largest_odd_window(side, window):
    a, b = RNG(1).random((2, side, 9))
    assert ssim(a, b) == pytest.approx(structural_similarity(a, b, data_range=1.0, win_size=window), abs=1e-9)


def test_one_pixel_images_are_compared_by_luminance():
    assert ssim(np.array([[0.5]]), np.array([[0.25]])) == pytest.approx((0.25 + 1e-4) / (0.25 + 0.0625 + 1e-4))
    assert ssim(np.zeros((2, 2)), np.zeros((2, 2))) == 1.0


def test_psnr_by_hand():
    a = np.zeros((2, 5))
    assert psnr(a, a + 0.1) == pytest.approx(20.0)
    assert psnr(a, a + 25.5, data_range=255) == pytest.approx(20.0)
    assert psnr(a, a) == PSNR_CAP_DB
    assert psnr(np.zeros(4, dtype=np.uint8), np.full(4, 1, dtype=np.uint8)) == pytest.approx(0.0)


def test_matrix_equals_pairs():
    recon, truth = RNG(2).random((3, 1, 4, 4)), RNG(3).random((2, 1, 4, 4))
    truth[1] = recon[2] + 1e-7
    found = psnr_matrix(recon, truth)
    assert found.shape == (3, 2)
    assert np.allclose(found, [[psnr(r, t) for t in truth] for r in recon], rtol=1e-12)
    assert psnr_matrix(np.zeros((0, 4)), np.zeros((2, 4))).shape == (0, 2)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_failed_reconstructions_have_no_score(bad):
    good = np.zeros((1, 8, 8))
    broken = good.copy()
    broken[0, 0, 0] = bad
    for metric in (psnr, psnr_matrix, ssim):
        with pytest.raises(ValueError, match="not finite"):
            metric(broken, good)


@pytest.mark.parametrize("metric", [psnr, ssim, spike_precision_recall])
def test_shapes_must_agree(metric):
    with pytest.raises(ValueError, match="shapes"):
        metric(np.zeros((8, 8)), np.zeros((8, 9)))


def test_precision_and_recall_by_hand():
    found, true = np.array([1, 1, 0, 0, 1.0]), np.array([1, 0, 1, 0, 1.0])
    assert spike_precision_recall(found, true) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    silent = np.zeros(5)
    assert spike_precision_recall(silent, true) == (1.0, 0.0)
    assert spike_precision_recall(found, silent) == (0.0, 1.0)
    with pytest.raises(ValueError, match="0 and 1"):
        spike_precision_recall(found * 0.5, true)


def test_direct_is_one_frame():
    x = RNG(0).random((4, 1, 5, 5), dtype=np.float32)
    frames = encode(EncodingSpec(kind="direct", steps=9, gain=2.0), x, RNG(0))
    assert frames.shape == (1, 4, 1, 5, 5)
    assert frames.dtype == np.float32
    assert (frames[0] == 2 * x).all()


def test_rate_is_bernoulli():
    x = np.array([[0.0, 0.1, 0.5, 1.0]], dtype=np.float32)
    frames = encode(EncodingSpec(kind="rate", steps=1000), np.repeat(x, 40, axis=0), RNG(0))
    assert frames.shape == (1000, 40, 4)
    assert set(np.unique(frames)) == {0.0, 1.0}
    assert np.abs(frames.mean(axis=(0, 1)) - x[0]).max() < 6 * 0.5 / 200
    assert (frames[:, :, 0] == 0).all()
    assert (frames[:, :, 3] == 1).all()
    clipped = encode(EncodingSpec(kind="rate", steps=50, gain=20.0), x, RNG(0))
    assert (clipped[:, 0, 1] == 1).all()


def test_rate_follows_its_generator():
    x, spec = np.full((2, 30), 0.5, dtype=np.float32), EncodingSpec(kind="rate", steps=5)
    assert (encode(spec, x, RNG(1)) == encode(spec, x, RNG(1))).all()
    assert (encode(spec, x, RNG(1)) != encode(spec, x, RNG(2))).any()


def test_streams_are_apart_and_fixed():
    draws = {key: stream(3, *key).integers(1 << 60) for key in [("a",), ("b",), ("a", 1), ("a", 2), ("a", "a")]}
    assert len(set(draws.values())) == len(draws)
    # Every party must draw the same on every machine and version: a golden value.
    assert stream(1, "parameters").integers(1 << 32) == GOLDEN_DRAW


GOLDEN_DRAW = 1614356446


# --- membership -------------------------------------------------------------------------------------------------


def test_area_under_roc_counts_pairs():
    rng = np.random.default_rng(4)
    for _ in range(50):
        scores, members = rng.integers(0, 6, 12).astype(float), rng.random(12) < 0.4
        inside, outside = scores[members], scores[~members]
        if not len(inside) or not len(outside):
            assert area_under_roc(scores, members) is None
            continue
        pairs = np.mean((inside[:, None] < outside[None]) + 0.5 * (inside[:, None] == outside[None]))
        assert area_under_roc(scores, members) == pytest.approx(pairs, abs=1e-12)


def test_area_under_roc_at_its_ends():
    assert area_under_roc(np.array([0.1, 0.2, 0.9]), np.array([True, True, False])) == 1.0
    assert area_under_roc(np.array([0.1, np.nan]), np.array([False, True])) == 0.0
    assert area_under_roc(np.array([0.1, 0.2]), np.array([True, True])) is None


def test_a_digest_names_a_sample_through_float_rounding_and_no_other():
    rng = np.random.default_rng(5)
    sample = rng.integers(0, 256, (1, 8, 8)) / 255
    assert sample_digest(sample.astype(np.float32)) == sample_digest(sample)
    other = sample.copy()
    other[0, 3, 3] = 1 - other[0, 3, 3]
    assert sample_digest(other) != sample_digest(sample)
