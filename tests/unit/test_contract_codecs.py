"""Codecs: declared properties are measured, bad bytes are refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from contract.codecs import CODECS, decode_tensors, encode_tensors, find_codec
from contract.errors import ConfigurationError, WireError
from contract.messages import TensorRecord

RNG = np.random.default_rng


def view(buffer):
    return memoryview(buffer.tobytes()) if isinstance(buffer, np.ndarray) else memoryview(buffer)


def round_trip(name, x, rng):
    records, buffers = encode_tensors(name, {"w": x}, rng)
    assert records[0].nbytes == view(buffers[0]).nbytes
    return decode_tensors(records, [view(b) for b in buffers])["w"]


arrays = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
    elements=st.floats(-60000, 60000, width=32),
)


def test_family_is_not_empty_and_named_by_its_keys():
    assert set(CODECS) == {"fp32", "fp16", "int8"}
    assert all(codec.name == name for name, codec in CODECS.items())


@pytest.mark.parametrize("name", sorted(CODECS))
@given(x=arrays, seed=st.integers(0, 2**32))
def test_error_stays_within_the_declared_bound(name, x, seed):
    y = round_trip(name, x, RNG(seed))
    assert y.shape == x.shape
    assert y.dtype == np.float32
    assert np.abs(y.astype(np.float64) - x).max(initial=0.0) <= CODECS[name].error_bound(x)


@pytest.mark.parametrize("name", sorted(CODECS))
def test_unbiased_codecs_are_and_biased_ones_are_not(name):
    x = np.linspace(-1, 1, 41, dtype=np.float32) ** 3
    rng = RNG(4)
    mean = np.mean([round_trip(name, x, rng) for _ in range(10_000)], axis=0, dtype=np.float64)
    # One draw is off by at most a step s, with variance at most s²/4: six standard errors of the mean.
    tolerance = 6 * 0.5 * CODECS[name].error_bound(x) / np.sqrt(10_000) + 1e-7
    assert (np.abs(mean - x).max() <= tolerance) == CODECS[name].unbiased


def test_fp32_copies_nothing():
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    buffer, scale = CODECS["fp32"].encode(x, RNG(0))
    assert np.shares_memory(buffer, x)
    blob = bytearray(x.tobytes())
    decoded = CODECS["fp32"].decode(memoryview(blob), (3, 4), scale)
    assert np.shares_memory(decoded, np.frombuffer(blob, dtype=np.float32))
    assert not decoded.flags.writeable


def test_fp32_passes_every_bit_pattern():
    x = np.array([np.nan, np.inf, -0.0, 1e-45], dtype=np.float32)
    assert round_trip("fp32", x, RNG(0)).tobytes() == x.tobytes()


def test_byte_layouts():
    x = np.array([1.0, -2.0, 0.5], dtype=np.float32)
    for name, expected in (("fp32", "0000803f000000c00000003f"), ("fp16", "003c00c00038")):
        assert view(CODECS[name].encode(x, RNG(0))[0]).hex() == expected
    exact = np.array([127, -127, 0, 64], dtype=np.float32)
    codes, scale = CODECS["int8"].encode(exact, RNG(0))
    assert (view(codes).hex(), scale) == ("7f810040", 1.0)


@pytest.mark.parametrize("name", ["fp16", "int8"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_without_a_code_are_refused_by_tensor_name(name, bad):
    with pytest.raises(WireError, match=r"'layers\.0\.bias'.*finite"):
        encode_tensors(name, {"layers.0.bias": np.array([0, bad], dtype=np.float32)}, RNG(0))


def test_fp16_refuses_what_would_become_infinite():
    with pytest.raises(WireError, match="65504"):
        encode_tensors("fp16", {"w": np.array([7e4], dtype=np.float32)}, RNG(0))


@pytest.mark.parametrize("largest", [0.0, 1e-45, 1e-38, 3.4e38])
def test_int8_at_the_ends_of_float32(largest):
    x = np.array([largest, -largest, 0], dtype=np.float32)
    assert np.allclose(round_trip("int8", x, RNG(1)), x, rtol=1e-6, atol=0)


def test_int8_follows_its_generator():
    x = RNG(0).standard_normal(1000).astype(np.float32)
    assert (round_trip("int8", x, RNG(5)) == round_trip("int8", x, RNG(5))).all()
    assert (round_trip("int8", x, RNG(5)) != round_trip("int8", x, RNG(6))).any()


def record(codec="fp32", shape=(2,), nbytes=8, scale=1.0, name="w"):
    return TensorRecord(name=name, shape=shape, codec=codec, nbytes=nbytes, scale=scale)


@pytest.mark.parametrize(("bad", "data", "match"), [
    (record(codec="zip"), bytes(8), "unknown codec 'zip'"),
    (record(nbytes=7), bytes(7), "7 bytes for shape"),
    (record(shape=(2**40, 2**40)), bytes(8), "8 bytes for shape"),
    (record(scale=2.0), bytes(8), "scale 1"),
    (record(codec="fp16", nbytes=4, scale=float("nan")), bytes(4), "scale"),
    (record(codec="int8", nbytes=2, scale=0.0), bytes(2), "scale"),
    (record(codec="int8", nbytes=2, scale=-1.0), bytes(2), "scale"),
    (record(codec="int8", nbytes=2, scale=float("inf")), bytes(2), "scale"),
    (record(codec="int8", nbytes=2, scale=float("nan")), bytes(2), "scale"),
    (record(codec="int8", nbytes=2, scale=1e38), bytes(2), "scale"),
])  # fmt: skip
def test_bad_records_are_refused(bad, data, match):
    with pytest.raises(WireError, match=f"'w'.*{match}"):
        decode_tensors([bad], [memoryview(data)])


def test_a_name_that_comes_twice_is_refused():
    with pytest.raises(WireError, match="twice"):
        decode_tensors([record(), record()], [memoryview(bytes(8))] * 2)


def test_unknown_codec_of_the_user():
    with pytest.raises(ConfigurationError, match="known codecs: fp32, fp16, int8"):
        find_codec("gzip")
