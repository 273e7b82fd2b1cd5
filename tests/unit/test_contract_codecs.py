"""Codecs: declared properties are measured, bad bytes are refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from contract.codecs import CODECS, decode_tensors, encode_tensors, find_codec
from contract.codecs.topk import pack_gaps, unpack_gaps
from contract.errors import ConfigurationError, WireError
from contract.messages import TensorRecord
from contract.task import CodecName

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
    assert set(CODECS) == set(CodecName.__args__) == {"fp32", "fp16", "int8", "int4", "ternary", "sign", "topk"}
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
    tolerance = 6 * 0.5 * CODECS[name].error_bound(x) / np.sqrt(10_000) + 3e-7
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


def test_packed_byte_layouts():
    x = np.array([7, -7, 0, 3, -1], dtype=np.float32)
    assert (view(CODECS["int4"].encode(x, RNG(0))[0]).hex(), CODECS["int4"].encode(x, RNG(0))[1]) == ("97300f", 1.0)
    x = np.array([2, 0, -2, 2, 0, 0, 0, 0, -2], dtype=np.float32)
    packed, scale = CODECS["ternary"].encode(x, RNG(0))
    assert (view(packed).hex(), scale) == ("0d010401", 2.0)
    packed, scale = CODECS["sign"].encode(x, RNG(0))
    assert (view(packed).hex(), scale) == ("0401", 8 / 9)
    x = np.zeros(500, dtype=np.float32)
    x[[0, 3, 200, 201, 499]] = [1, -127, 64, 1, 2]
    packed, scale = CODECS["topk"].encode(x, RNG(0))
    assert (view(packed).hex(), scale) == ("05000000" + "0181400102" + "00" + "02" + "c401" + "00" + "a902", 1.0)
    assert (CODECS["topk"].decode(view(packed), (500,), 1.0) == x).all()


@pytest.mark.parametrize(("name", "most"), [("int8", 0.26), ("int4", 0.135), ("ternary", 0.068), ("topk", 0.008)])
def test_sizes_of_a_layer(name, most):
    x = RNG(0).standard_normal((256, 784), dtype=np.float32)
    assert view(CODECS[name].encode(x, RNG(1))[0]).nbytes <= most * x.nbytes


def test_topk_keeps_the_largest_and_of_ties_the_first():
    x = np.tile(np.array([1, -1, 0.5, 0], dtype=np.float32), 100)
    kept = np.flatnonzero(round_trip("topk", x, RNG(0)))
    assert kept.tolist() == [0, 1, 4, 5]
    x[399] = -9
    assert np.flatnonzero(round_trip("topk", x, RNG(0)))[-1] == 399


@given(gaps=st.lists(st.integers(0, 2**35 - 1), max_size=40))
def test_differences_round_trip_and_equal_plain_leb128(gaps):
    packed = pack_gaps(np.array(gaps, dtype=np.int64))
    plain = bytearray()
    for gap in gaps:
        rest = gap
        while rest >= 0x80:
            plain.append(rest & 0x7F | 0x80)
            rest >>= 7
        plain.append(rest)
    assert packed.tobytes() == bytes(plain)
    assert unpack_gaps(packed, len(gaps)).tolist() == gaps


@pytest.mark.parametrize("name", ["int4", "ternary", "sign", "topk"])
@given(data=st.binary(max_size=40), size=st.integers(0, 60))
def test_any_bytes_decode_or_are_refused(name, data, size):
    try:
        values = CODECS[name].decode(memoryview(data), (size,), 0.5)
    except WireError:
        return
    assert values.shape == (size,)
    assert np.isfinite(values).all()


@pytest.mark.parametrize("name", ["int4", "ternary", "sign", "topk"])
def test_every_truncation_is_refused(name):
    packed, scale = CODECS[name].encode(RNG(0).standard_normal(301, dtype=np.float32), RNG(1))
    for end in range(len(packed)):
        with pytest.raises(WireError):
            CODECS[name].decode(view(packed)[:end], (301,), scale)


@pytest.mark.parametrize(("name", "blob", "size", "match"), [
    ("int4", "80", 2, "-8"), ("int4", "08", 2, "-8"), ("int4", "11", 1, "padding"),
    ("ternary", "0001", 8, "negative and zero"), ("ternary", "0800", 3, "padding"), ("sign", "08", 3, "padding"),
    ("topk", "ffffffff", 9, "count"), ("topk", "01000000" + "05" + "09", 9, "place 9"),
    ("topk", "01000000" + "05" + "ffffffffffff00", 9, "7 bytes"), ("topk", "00000000", 2**40, "at most 67108864"),
    ("topk", "01000000" + "05" + "0000", 9, "2 differences"),
    ("topk", "0000000000", 9, "differences"), ("topk", "02000000" + "0505" + "0100" + "80", 9, "differences"),
])  # fmt: skip
def test_damaged_packing_is_refused(name, blob, size, match):
    with pytest.raises(WireError, match=match):
        CODECS[name].decode(memoryview(bytes.fromhex(blob)), (size,), 1.0)


@pytest.mark.parametrize("name", sorted(set(CODECS) - {"fp32"}))
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_without_a_code_are_refused_by_tensor_name(name, bad):
    with pytest.raises(WireError, match=r"'layers\.0\.bias'.*finite"):
        encode_tensors(name, {"layers.0.bias": np.array([0, bad], dtype=np.float32)}, RNG(0))


def test_fp16_refuses_what_would_become_infinite():
    with pytest.raises(WireError, match="65504"):
        encode_tensors("fp16", {"w": np.array([7e4], dtype=np.float32)}, RNG(0))


@pytest.mark.parametrize("name", ["int8", "int4", "ternary"])
@pytest.mark.parametrize("largest", [0.0, 1e-38, 3.4e38])
def test_the_ends_of_float32(name, largest):
    x = np.array([largest, -largest, 0], dtype=np.float32)
    assert np.allclose(round_trip(name, x, RNG(1)), x, rtol=1e-6, atol=0)


def test_int8_follows_its_generator():
    x = RNG(0).standard_normal(1000).astype(np.float32)
    assert (round_trip("int8", x, RNG(5)) == round_trip("int8", x, RNG(5))).all()
    assert (round_trip("int8", x, RNG(5)) != round_trip("int8", x, RNG(6))).any()


def record(codec="fp32", shape=(2,), nbytes=8, scale=1.0, name="w"):
    return TensorRecord(name=name, shape=shape, codec=codec, nbytes=nbytes, scale=scale)


@pytest.mark.parametrize(("bad", "data", "match"), [
    (record(codec="zip"), bytes(8), "unknown codec 'zip'"),
    (record(nbytes=7), bytes(7), "7 bytes for shape"),
    (record(shape=(2**40, 2**40)), bytes(8), "an object holds at most"),
    (record(scale=2.0), bytes(8), "scale 1"),
    (record(codec="fp16", nbytes=4, scale=float("nan")), bytes(4), "scale"),
    (record(codec="int8", nbytes=2, scale=0.0), bytes(2), "scale"),
    (record(codec="int8", nbytes=2, scale=-1.0), bytes(2), "scale"),
    (record(codec="int8", nbytes=2, scale=float("inf")), bytes(2), "scale"),
    (record(codec="int8", nbytes=2, scale=float("nan")), bytes(2), "scale"),
    (record(codec="int8", nbytes=2, scale=1e38), bytes(2), "scale"),
    (record(codec="int4", nbytes=1, scale=0.0), bytes(1), "scale"),
    (record(codec="ternary", nbytes=2, scale=float("nan")), bytes(2), "scale"),
    (record(codec="sign", nbytes=1, scale=-1.0), bytes(1), "scale"),
    (record(codec="topk", nbytes=4, scale=float("inf")), bytes(4), "scale"),
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
