"""int8 updates of one rate-coded sample: every frame, in order; nothing certified from a wrong update."""

from __future__ import annotations

import numpy as np
import pytest

from attack.methods.quantized_alternation import QuantizedAlternation
from attack.threat import Observation
from contract.datasets import load
from tests.science.image_updates import observe, task_of


def rate_observation(seed, codec="int8", **options):
    data = load("mnist5k")
    task = task_of(encoding="rate", seed=seed, **options)
    return observe(task, data.x[seed : seed + 1], data.y[seed : seed + 1], codec=codec, seed=seed)


@pytest.mark.parametrize("surrogate", ["atan", "fast_sigmoid"])
def test_all_frames_come_out_in_order(surrogate):
    observation, frames = rate_observation(0, surrogate=surrogate, steps=8)
    assert QuantizedAlternation().applies(observation) is None
    finding = QuantizedAlternation().run(observation, 60.0, np.random.default_rng(0))
    assert finding.verdict == "recovered"
    assert np.array_equal(finding.frames[0], frames[:, 0])


def test_half_precision_hides_no_frame():
    observation, frames = rate_observation(3, "fp16", steps=6)
    finding = QuantizedAlternation().run(observation, 60.0, np.random.default_rng(0))
    assert finding.verdict == "recovered"
    assert np.array_equal(finding.frames[0], frames[:, 0])


def test_int4_gives_an_estimate_and_claims_nothing():
    observation, _ = rate_observation(4, "int4", steps=4)
    finding = QuantizedAlternation().run(observation, 2.0, np.random.default_rng(0))
    assert finding.verdict == "partial"
    assert finding.frames is not None


def test_wrong_update_is_not_recovered():
    observation, _ = rate_observation(1, steps=6, hidden=(64,))
    other, _ = rate_observation(2, steps=6, hidden=(64,))
    wrong = Observation(**{**observation.__dict__, "update": other.update, "_records": other._records})
    finding = QuantizedAlternation().run(wrong, 1.0, np.random.default_rng(0))
    assert finding.verdict != "recovered"


def test_refusals_say_why():
    assert "codec is none of" in (QuantizedAlternation().applies(rate_observation(0, "fp32", steps=4)[0]) or "")
    assert "2^T" in (QuantizedAlternation().applies(rate_observation(0, steps=13, hidden=(16,))[0]) or "")
