"""Series as spikes: both encoders by hand, what their spikes say, and how series fit into the rest of the contract."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from contract.datasets import DATASETS, check_encoding, dataset_info
from contract.encodings import SERIES, decode, encode, image_shape, input_shape, intensities
from contract.errors import ConfigurationError
from contract.series import delta_frames, delta_series, integrate_frames, integrate_series, intervals, readings
from contract.task import EncodingSpec, OwnData, TaskSpec

RNG = np.random.default_rng(0)
SOME = arrays(np.float32, (2, 3, 12), elements=st.floats(0, 1, width=32))


def series(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)[None, None]


def test_delta_by_hand():
    frames = delta_frames(series(0.5, 0.75, 0.75, 1.0, 0.375), gain=4.0)  # a spike is a change of 1/4
    assert frames[:, 0, 1, 0].tolist() == [0, 1, 0, 1, 0]
    assert frames[:, 0, 0, 0].tolist() == [0, 0, 0, 0, 1]
    assert delta_series(frames, 4.0)[0, 0].tolist() == [0.5, 0.75, 0.75, 1.0, 0.75]


def test_integrate_by_hand():
    frames = integrate_frames(series(1.0, 1.0, 0.5, 0.5, 1.0, 0.0), gain=0.5)
    assert frames[:, 0, 0].tolist() == [0, 1, 0, 0, 1, 0]  # charge 0.5, 1, 0.25, 0.5, 1, 0
    between = [1, 1, 2 / 3, 2 / 3, 2 / 3, 1]
    np.testing.assert_allclose(intervals(frames[:, 0, 0], 0.5), between)
    smooth = [np.mean([between[min(max(t + d, 0), 5)] for d in (-2, -1, 0, 1, 2)]) for t in range(6)]
    np.testing.assert_allclose(integrate_series(frames, 0.5)[0, 0], smooth, rtol=1e-6)
    assert integrate_frames(series(1.0), gain=7.0).tolist() == [[[1.0]]]


def test_relaxed_frames_are_intensities_times_gain():
    np.testing.assert_allclose(integrate_series(np.full((3, 1, 1), 0.25, np.float32), 0.5)[0, 0], [0.5] * 3)


@given(x=SOME, gain=st.sampled_from([2.0, 5.0, 20.0]))
def test_delta_does_as_the_wire_s_description_says(x, gain):
    frames, found = delta_frames(x, gain), delta_series(delta_frames(x, gain), gain)
    for sample, channel in np.ndindex(x.shape[:2]):
        n = np.float32(0)
        for t, reading in enumerate(x[sample, channel]):
            gap = np.float32(gain) * (reading - np.float32(0.5)) - n
            assert frames[t, sample, :, channel].tolist() == [gap <= -1, gap >= 1]
            n += np.float32(gap >= 1) - np.float32(gap <= -1)
            assert found[sample, channel, t] == pytest.approx(0.5 + n / gain, abs=1e-5)


@given(x=SOME, gain=st.sampled_from([0.3, 1.0]))
def test_integrated_spikes_are_the_integral_rounded_down(x, gain):
    frames = integrate_frames(x, gain)
    total = np.cumsum(np.float32(gain) * np.moveaxis(x, -1, 0), axis=0)
    assert np.abs(total - np.cumsum(frames, axis=0) - 0.5).max() < 0.5 + 1e-3


def test_slow_series_are_told_within_a_step():
    t = np.linspace(0, 1, 128)
    x = (0.5 + 0.4 * np.sin(2 * np.pi * (2 * t + np.arange(3)[:, None] / 3)) * np.minimum(1, 6 * t)).astype(np.float32)[
        None
    ]
    spec = EncodingSpec(kind="delta", steps=128, gain=20.0)
    found = decode(spec, encode(spec, x, RNG))
    assert np.abs(found - intensities(spec, x))[..., 24:].max() <= 1 / 20 + 1e-6
    loud = EncodingSpec(kind="integrate", steps=128, gain=1.0)
    error = decode(loud, encode(loud, x, RNG)) - x
    assert np.sqrt(np.square(error).mean()) < 0.06


@pytest.mark.parametrize(("length", "steps"), [(140, 64), (128, 128), (7, 3), (5, 1)])
def test_a_step_sees_the_mean_of_its_readings(length, steps):
    x = RNG.random((2, 3, length))
    shares = np.arange(length) * steps // length
    expected = np.stack([x[..., shares == t].mean(-1) for t in range(steps)], axis=-1)
    np.testing.assert_allclose(readings(x, steps), expected, rtol=1e-6)


@pytest.mark.parametrize("kind", sorted(SERIES))
def test_shapes_are_as_announced(kind):
    spec = EncodingSpec(kind=kind, steps=8, gain=4.0)
    x = RNG.random((2, 3, 20), dtype=np.float32)
    frames = encode(spec, x, RNG)
    assert frames.shape == (8, 2, *input_shape(spec, (3, 20)))
    assert decode(spec, frames).shape == intensities(spec, x).shape == (2, *image_shape(spec, (3, 20)))
    levels = encode(spec, np.rint(255 * x).astype(np.uint8), RNG)
    np.testing.assert_array_equal(levels, encode(spec, (np.rint(255 * x) / 255).astype(np.float32), RNG))


@pytest.mark.parametrize("x", [np.zeros((1, 3, 7)), np.zeros((1, 8)), np.zeros((1, 2, 9), np.uint64)])
def test_what_is_no_series_is_refused(x):
    with pytest.raises(ConfigurationError, match=r"'delta' with steps = 8.*series \[channels, readings\]"):
        encode(EncodingSpec(kind="delta", steps=8, gain=4.0), x, RNG)


def test_delta_needs_a_gain():
    with pytest.raises(ValueError, match=r"gain = 1.0 with kind 'delta'.*at least 2"):
        EncodingSpec(kind="delta")


def test_only_series_are_encoded_over_their_own_time():
    spec = EncodingSpec(kind="integrate", steps=64)
    with pytest.raises(ConfigurationError, match="'mnist' holds no series; such data sets: fsdd"):
        check_encoding(spec, dataset_info("mnist"))
    with pytest.raises(ConfigurationError, match=r"steps = 65.*64 readings"):
        check_encoding(EncodingSpec(kind="integrate", steps=65), dataset_info("fsdd"))
    for info in DATASETS.values():
        if info.series:
            check_encoding(spec, info)


def test_own_data_is_declared_whole_or_not_at_all():
    with pytest.raises(ValueError, match="dataset = 'own' without own_data"):
        TaskSpec(dataset="own")
    with pytest.raises(ValueError, match="dataset = 'mnist5k' with own_data"):
        TaskSpec(own_data=OwnData(shape=(3,), classes=2))
    with pytest.raises(ValueError, match=r"shape = \[3\] with series = true"):
        OwnData(shape=(3,), classes=2, series=True)
