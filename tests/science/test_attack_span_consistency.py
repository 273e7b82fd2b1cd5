"""Dense images of batches: exact from the two spans of the gradient, and nothing from a wrong one."""

from __future__ import annotations

import numpy as np
import pytest

from attack.methods.span_consistency import SpanConsistency
from attack.threat import Observation
from contract.datasets import load
from contract.metrics import psnr_matrix
from tests.science.image_updates import observe, task_of


def draw(dataset, count, seed):
    data = load(dataset)
    chosen = np.random.default_rng(seed).choice(len(data.x), count, replace=False)
    return data.x[chosen], data.y[chosen]


def run(observation: Observation, budget_s: float = 60.0):
    assert SpanConsistency().applies(observation) is None
    return SpanConsistency().run(observation, budget_s, np.random.default_rng(0))


def matched_db(finding, x, y):
    """Best PSNR of each sample, and whether that image came with its label."""
    matrix = psnr_matrix(finding.images.reshape(len(finding.images), -1), x.reshape(len(x), -1))
    best = matrix.argmax(0)
    return matrix.max(0), np.array(finding.labels)[best] == y


@pytest.mark.parametrize("options", [{}, {"surrogate": "fast_sigmoid"}, {"readout": "spike"}])
def test_faces_of_a_batch_of_four_are_exact(options):
    x, y = draw("faces", 4, 0)
    observation, _ = observe(task_of(dataset="faces", **options), x, y, classes=2)
    finding = run(observation)
    assert finding.verdict == "recovered"
    psnr, labelled = matched_db(finding, x, y)
    assert psnr.min() > 100
    assert labelled.all()


def test_the_sigmoid_twin_is_inverted_too():
    x, y = draw("mnist5k", 2, 0)
    observation, _ = observe(task_of(family="ann", activation="sigmoid", hidden=(64,)), x, y)
    finding = run(observation)
    assert finding.verdict == "recovered"
    assert matched_db(finding, x, y)[0].min() > 100


def test_two_hidden_layers_and_int8_weights():
    x, y = draw("mnist5k", 3, 1)
    observation, _ = observe(task_of(hidden=(64, 32), weight_bits=8, steps=6), x, y)
    finding = run(observation)
    assert finding.verdict == "recovered"
    psnr, labelled = matched_db(finding, x, y)
    assert psnr.min() > 100
    assert labelled.all()


def test_a_gradient_of_other_weights_gives_nothing():
    x, y = draw("faces", 3, 2)
    observation, _ = observe(task_of(dataset="faces", hidden=(64,), seed=1), x, y, classes=2)
    other, _ = observe(task_of(dataset="faces", hidden=(64,), seed=2), x, y, classes=2)
    wrong = Observation(**{**observation.__dict__, "update": other.update})
    assert run(wrong, budget_s=2.0).verdict == "failed"


def test_refusals_say_why():
    x, y = draw("faces", 4, 3)
    task = task_of(dataset="faces", hidden=(64,))
    assert "weight difference" in (SpanConsistency().applies(observe(task, x, y, classes=2, local_steps=2)[0]) or "")
    assert "blurred" in (SpanConsistency().applies(observe(task, x, y, classes=2, codec="int8")[0]) or "")


def test_clipped_faces_are_exact():
    x, y = draw("faces", 3, 4)
    observation, _ = observe(task_of(dataset="faces", hidden=(128,)), x, y, classes=2, clip=0.5)
    finding = run(observation)
    assert finding.verdict == "recovered"
    psnr, labelled = matched_db(finding, x, y)
    assert psnr.min() > 100
    assert labelled.all()
