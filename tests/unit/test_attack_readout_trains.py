"""Hidden spike trains out of the readout's gradient, against the trains of the true forward pass."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attack.methods.readout_subset_sum import ReadoutSubsetSum
from attack.readout_trains import decode_trains
from attack.threat import Observation
from contract.models.neurons import mean_membrane_weights
from tests.attack_updates import audit_plan, observe, parameters_of, task_of
from tests.frame_updates import rate_task, rate_update


def true_trains(observation, frames):
    """`[T, hidden]` of snntorch's Leaky, stepped here in float32."""
    weight, bias = (observation.parameters[f"{observation.first_layer.name}.{kind}"] for kind in ("weight", "bias"))
    membrane, spikes = np.zeros(len(bias), np.float32), []
    for frame in frames:
        fired = (membrane > 1).astype(np.float32)
        membrane = np.float32(0.9) * membrane + weight @ frame + bias - fired
        spikes.append(membrane > 1)
    return np.array(spikes)


@given(st.integers(2, 14), st.sampled_from([0.5, 0.9, 0.95]), st.integers(0, 1000))
def test_sums_are_told_apart_by_a_gradient_in_double_precision(steps, beta, seed):
    rng = np.random.default_rng(seed)
    trains, error = rng.integers(0, 2, (steps, 30)), rng.normal(size=10)
    weights = np.array(mean_membrane_weights(steps, beta))
    found = decode_trains(np.outer(error, weights @ trains), error * weights.sum(), steps, beta)
    assert found.explained.all()
    assert found.residual < 1e-9
    np.testing.assert_array_equal(found.spikes[:, found.unique], trains[:, found.unique])


@pytest.mark.parametrize("steps", [5, 10, 15])
def test_trains_of_a_true_update_are_the_forward_pass_ones(steps):
    observation, truth, _ = rate_update(rate_task(steps), 1, seed=steps, updates=20)
    readout = observation.readout
    found = decode_trains(readout.weight, readout.bias, steps, 0.9)
    expected = true_trains(observation, truth[0].astype(np.float32))
    assert expected.any()
    assert found.explained.all()
    np.testing.assert_array_equal(found.spikes[:, found.unique], expected[:, found.unique])
    assert found.unique.mean() > (0.95 if steps < 15 else 0.5)


def test_the_method_counts_trains_and_shows_no_image():
    observation, *_ = rate_update(rate_task(8), 1, seed=0, updates=20)
    method = ReadoutSubsetSum()
    assert method.applies(observation) is None
    finding = method.run(observation, 1.0, np.random.default_rng(0))
    assert finding.verdict == "partial"
    assert finding.images is None
    assert finding.reason.startswith("256 of 256 hidden spike trains of 8 steps")


def test_a_coarse_codec_leaves_no_train_without_doubt():
    task, rng = task_of("digits", hidden=(32,), steps=16), np.random.default_rng(0)
    seen: Observation = observe(task, rng.random((1, 1, 8, 8), np.float32), np.array([3]), audit_plan(codec="int8"))
    finding = ReadoutSubsetSum().run(seen, 1.0, rng)
    assert finding.verdict == "failed" or not finding.reason.startswith("32 of")


@pytest.mark.parametrize(
    ("options", "word"),
    [({"readout": "spike"}, "temporal"), ({"steps": 40}, "dense"), ({"family": "ann"}, "temporal")],
)
def test_what_it_cannot_decode_is_refused(options, word):
    task = task_of("digits", **options)
    seen = observe(task, np.ones((1, 1, 8, 8), np.float32), np.array([1]), parameters=parameters_of(task))
    assert word in ReadoutSubsetSum().applies(seen)
