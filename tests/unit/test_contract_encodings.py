"""Encodings by hand: when each input spikes, and what frames say of it."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.encodings import ENCODINGS, decode, encode, frame_weights, intensities
from contract.errors import ConfigurationError
from contract.task import EVENT_BINS, EncodingSpec

RNG = np.random.default_rng


def test_every_kind_of_the_task_has_its_encoder():
    (kinds,) = (f.type for f in msgspec.structs.fields(EncodingSpec) if f.name == "kind")
    assert set(kinds.__args__) == set(ENCODINGS)


def test_latency_by_hand():
    x = np.array([[0.0, 1.0, 0.75, 0.74, 0.5, 0.01]], dtype=np.float32)
    frames = encode(EncodingSpec(kind="latency", steps=4), x, RNG(0))
    # p = 1 and .75 < p < 1 in the first quarter of the window; 0.75 is the first intensity of the second.
    assert frames[:, 0].T.tolist() == [
        [0, 0, 0, 0],
        [1, 0, 0, 0],
        [0, 1, 0, 0],
        [0, 1, 0, 0],
        [0, 0, 1, 0],
        [0, 0, 0, 1],
    ]


@given(steps=st.integers(1, 60), gain=st.floats(0.25, 4), seed=st.integers(0, 99))
def test_latency_spikes_once_earlier_when_brighter_and_decodes_within_half_a_step(steps, gain, seed):
    spec = EncodingSpec(kind="latency", steps=steps, gain=gain)
    x = RNG(seed).random((2, 30), dtype=np.float32) * (RNG(seed + 1).random((2, 30)) < 0.7)
    frames = encode(spec, x.astype(np.float32), RNG(0))
    assert (frames.sum(axis=0) == (x > 0)).all()
    times = frames.argmax(axis=0)
    order = np.argsort(x[0][x[0] > 0])
    assert (np.diff(times[0][x[0] > 0][order]) <= 0).all()
    error = np.abs(decode(spec, frames) * gain - np.minimum(gain * x, 1))
    assert error[gain * x < 1].max(initial=0) <= 0.5 / steps + 1e-5


def mask_of(*spans):
    return sum(1 << span for span in spans)


def test_events_by_hand():
    x = np.array([[0, mask_of(0), mask_of(63), mask_of(3, 4), mask_of(*range(64))]], dtype=np.uint64)
    frames = encode(EncodingSpec(kind="events", steps=16), x, RNG(0))
    assert frames.shape == (16, 1, 5)
    assert [np.flatnonzero(column).tolist() for column in frames[:, 0].T] == [[], [0], [15], [0, 1], list(range(16))]
    assert intensities(EncodingSpec(steps=16), x)[0].tolist() == [0, 1 / 16, 1 / 16, 2 / 16, 1]


@given(steps=st.integers(1, EVENT_BINS), seed=st.integers(0, 99))
def test_events_fall_into_one_step_each_and_decode_to_the_intensities(steps, seed):
    spec = EncodingSpec(kind="events", steps=steps)
    single = (np.uint64(1) << np.arange(EVENT_BINS, dtype=np.uint64))[None]
    assert (encode(spec, single, RNG(0)).sum(axis=0) == 1).all()
    x = RNG(seed).integers(0, 2**64, size=(2, 3), dtype=np.uint64)
    assert decode(spec, encode(spec, x, RNG(0))) == pytest.approx(intensities(spec, x), abs=1e-6)


@pytest.mark.parametrize("kind", ["direct", "rate", "latency"])
def test_recordings_can_be_encoded_as_images(kind):
    x = np.array([[0, mask_of(0, 20, 40)]], dtype=np.uint64)
    spec = EncodingSpec(kind=kind, steps=8)
    image = intensities(spec, x)
    assert (encode(spec, x, RNG(1)) == encode(spec, image, RNG(1))).all()


def test_images_are_no_events():
    with pytest.raises(ConfigurationError, match="'nmnist'"):
        encode(EncodingSpec(kind="events"), np.ones((1, 4), dtype=np.float32), RNG(0))


@pytest.mark.parametrize(("fields", "match"), [({"gain": 0.5}, "gain = 0.5"), ({"steps": 65}, "64 time bins")])
def test_events_refuse_what_they_would_ignore(fields, match):
    with pytest.raises(ValueError, match=match):
        EncodingSpec(kind="events", **fields)


@pytest.mark.parametrize("kind", ["rate", "events"])
def test_counted_spikes_weigh_alike(kind):
    assert frame_weights(EncodingSpec(kind=kind), 5).tolist() == [pytest.approx(0.2)] * 5


def test_direct_decodes_to_the_input():
    x = RNG(3).random((2, 1, 4, 4), dtype=np.float32)
    spec = EncodingSpec(kind="direct", gain=2.0)
    assert decode(spec, encode(spec, x, RNG(0))) == pytest.approx(x, abs=1e-6)
