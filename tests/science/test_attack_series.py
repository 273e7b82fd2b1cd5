"""The ladder on series: attacks that read images off rows say that they do not apply, the others give whole series."""

from __future__ import annotations

import numpy as np
import pytest

from attack.ladder import climb
from attack.methods import METHODS
from contract.encodings import SERIES, decode, encode, intensities
from contract.task import EncodingSpec, ModelSpec, OwnData, TaskSpec
from tests.attack_updates import observe

CHANNELS, READINGS = 40, 8
GAINS = {"delta": 8.0, "integrate": 1.0}
ROWS = {"ratio", "rank1", "footprint"}
IMAGES = {"coarse_rank1", "image_lp", "span_consistency", "layer_inversion", "conv_codebook"}


def task_of(kind):
    return TaskSpec(
        dataset="own",
        own_data=OwnData(shape=(CHANNELS, 2 * READINGS), classes=4, series=True),
        encoding=EncodingSpec(kind=kind, steps=READINGS, gain=GAINS[kind]),
        model=ModelSpec(hidden=(64,), weight_bits=None),
    )


def walks():
    """One sample of random walks, two readings to a step."""
    steps = np.random.default_rng(2).normal(0, 0.12, (CHANNELS, 2 * READINGS))
    return np.clip(0.5 + steps.cumsum(axis=1), 0, 1).astype(np.float32)[None]


@pytest.mark.parametrize("kind", sorted(SERIES))
def test_the_whole_ladder_on_one_series(kind):
    task, x = task_of(kind), walks()
    rungs = climb(observe(task, x, np.array([2])), METHODS, budget_s=1.5, exhaustive=True)
    found = {rung.attack: rung.finding for rung in rungs}
    assert set(found) == set(METHODS)
    for name in ROWS:
        assert found[name].verdict == "refused"
        assert "moments of a series" in found[name].reason
    assert all(found[name].verdict == "refused" for name in IMAGES)
    assert not [f.reason for f in found.values() if "crashed" in f.reason or "of shape" in f.reason]
    given = {name: f for name, f in found.items() if f.images is not None}
    assert {"dlg", "cosine"} <= set(given)
    assert all(f.images.shape[1:] == (CHANNELS, READINGS) for f in given.values())
    assert found["label"].labels == (2,)


def test_frames_of_a_series_are_recovered_one_by_one_and_told_as_the_series():
    task, x = task_of("delta"), walks()
    observation = observe(task, x, np.array([1]))
    assert observation.image_shape == (CHANNELS, READINGS)
    (rung,) = climb(observation, {"frame_lp": METHODS["frame_lp"]}, budget_s=20.0)
    frames = encode(task.encoding, x, np.random.default_rng(0))
    assert rung.finding.verdict == "exact", rung.finding.reason
    assert (rung.finding.frames[0] == frames[:, 0]).all()
    np.testing.assert_allclose(rung.finding.images[0], decode(task.encoding, frames)[0], atol=1e-6)
    error = rung.finding.images[0] - intensities(task.encoding, x)[0]
    assert np.abs(error).max() < 0.5  # the first steps are followed late; what is left is the coding's own
