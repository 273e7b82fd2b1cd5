"""The best assignment against SciPy's, and spike frames as bits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.optimize import linear_sum_assignment

from contract.assignment import best_assignment
from contract.codecs.bits import decode_frames, encode_frames
from contract.errors import WireError
from contract.messages import TensorRecord


@given(
    scores=hnp.arrays(
        np.float64,
        hnp.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=12),
        elements=st.floats(-200, 200, width=16),
    )
)
def test_assignment_is_as_good_as_scipy_s(scores):
    pairs = best_assignment(scores)
    assert len(pairs) == min(scores.shape)
    assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == len(pairs)
    assert pairs == sorted(pairs)
    theirs = scores[linear_sum_assignment(scores, maximize=True)].sum()
    assert sum(scores[pair] for pair in pairs) == pytest.approx(theirs, abs=1e-6)


def test_a_score_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="finite"):
        best_assignment(np.array([[np.nan]]))


@given(
    frames=hnp.arrays(
        np.uint8, hnp.array_shapes(min_dims=3, max_dims=5, min_side=0, max_side=5), elements=st.integers(0, 1)
    )
)
def test_frames_round_trip(frames):
    record, packed = encode_frames("f", frames)
    assert record.nbytes == packed.nbytes == (frames.size + 7) // 8
    assert (decode_frames(record, memoryview(packed.tobytes())) == frames).all()


def test_frames_by_hand():
    _, packed = encode_frames("f", np.array([1, 0, 0, 0, 0, 0, 0, 1, 1, 1], dtype=np.float32).reshape(1, 2, 5))
    assert packed.tobytes().hex() == "8103"


def bits(shape=(1, 2, 5), nbytes=2, codec="bits", scale=1.0):
    return TensorRecord(name="f", shape=shape, codec=codec, nbytes=nbytes, scale=scale)


@pytest.mark.parametrize(("record", "blob", "match"), [
    (bits(codec="fp32"), "8103", "no spike frames"), (bits(scale=2.0), "8103", "no spike frames"),
    (bits(shape=(2, 5)), "8103", "no spike frames"), (bits(), "81", "1 bytes"), (bits(), "8107", "padding"),
    (bits(shape=(2**40, 2, 5)), "8103", "an object holds at most"),
])  # fmt: skip
def test_damaged_frames_are_refused(record, blob, match):
    with pytest.raises(WireError, match=match):
        decode_frames(record, memoryview(bytes.fromhex(blob)))


def test_frames_hold_zeros_and_ones_only():
    with pytest.raises(WireError, match="0 and 1"):
        encode_frames("f", np.full((1, 1, 1), 0.5))
