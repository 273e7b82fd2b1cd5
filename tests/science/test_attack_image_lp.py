"""The cone attack: bitwise images of batches, labels, and no certificate where nothing is to be had."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from attack.clock import now_s
from attack.images.search import ImageSearch
from attack.method import Finding
from attack.methods.image_lp import ImageLp
from attack.threat import Observation, ThreatModel
from contract.datasets import load
from contract.metrics import psnr_matrix
from tests.science.image_updates import observe, task_of


def draw(dataset, count, seed):
    data = load(dataset)
    chosen = np.random.default_rng(seed).choice(len(data.x), count, replace=False)
    return data.x[chosen], data.y[chosen]


def run(observation: Observation, budget_s: float = 60.0) -> Finding:
    return ImageLp().run(observation, budget_s, np.random.default_rng(0))


def best_db(finding: Finding, x) -> np.ndarray:
    return psnr_matrix(finding.images.reshape(len(finding.images), -1), x.reshape(len(x), -1)).max(0)


@pytest.mark.parametrize("surrogate", ["atan", "fast_sigmoid"])
def test_batch_is_recovered_bit_for_bit_with_labels(surrogate):
    x, y = draw("mnist5k", 16, 0)
    observation, _ = observe(task_of(surrogate=surrogate, hidden=(128,)), x, y)
    finding = run(observation)
    assert finding.verdict == "exact"
    key = {image.tobytes(): int(label) for image, label in zip(x, y, strict=True)}
    assert [key.get(image.tobytes()) for image in finding.images] == list(finding.labels)
    assert len(finding.images) == 16


def test_quantised_weights_and_two_layers_do_not_help():
    x, y = draw("mnist5k", 6, 1)
    observation, _ = observe(task_of(hidden=(96, 48), weight_bits=8, steps=6), x, y)
    finding = run(observation)
    assert finding.verdict == "exact"
    assert {image.tobytes() for image in finding.images} == {image.tobytes() for image in x}


def test_weight_difference_and_unknown_weights_need_no_subtracting():
    x, y = draw("mnist5k", 12, 2)
    observation, _ = observe(task_of(hidden=(128,)), x, y, local_steps=3)
    finding = run(observation)
    assert finding.verdict == "exact"
    assert finding.labels == ()
    blind, _ = observe(task_of(hidden=(128,)), x, y, threat=ThreatModel(weights=False, neuron=False))
    assert run(blind).verdict == "exact"


def test_without_bias_the_scale_comes_from_the_grid():
    x, y = draw("mnist5k", 8, 3)
    observation, _ = observe(task_of(hidden=(128,)), x, y)
    batch = ImageSearch(observation.first_layer.weight, None, 8).run(now_s() + 20, np.random.default_rng(0))
    assert {np.float32(image).tobytes() for image in batch.images} == {image.tobytes() for image in x}


def test_int8_update_gives_images_at_the_quantisation_floor():
    x, y = draw("mnist5k", 8, 4)
    observation, _ = observe(task_of(), x, y, codec="int8")
    finding = run(observation)
    assert finding.verdict == "recovered"
    assert np.median(best_db(finding, x)) > 50


def test_fp16_update_still_sits_on_the_grid():
    x, y = draw("mnist5k", 4, 5)
    observation, _ = observe(task_of(), x, y, codec="fp16")
    finding = run(observation)
    assert finding.verdict == "recovered"
    assert best_db(finding, x).min() > 150


def test_digits_sit_on_a_grid_of_sixteen():
    x, y = draw("digits", 5, 6)
    observation, _ = observe(task_of(dataset="digits", hidden=(64,)), x, y)
    finding = run(observation)
    assert finding.verdict == "exact"
    assert best_db(finding, x).min() > 150


@pytest.mark.parametrize("kind", ["faces", "noise images", "noise update"])
def test_no_certificate_without_sparse_images(kind):
    rng = np.random.default_rng(7)
    if kind == "faces":
        x, y = draw("faces", 4, 7)
        observation, _ = observe(task_of(dataset="faces", hidden=(64,)), x, y, classes=2)
    else:
        x, y = rng.random((4, 1, 28, 28), dtype=np.float32), np.arange(4)
        observation, _ = observe(task_of(hidden=(64,)), x, y)
    if kind == "noise update":
        noise = {name: rng.normal(size=value.shape).astype(np.float32) for name, value in observation.update.items()}
        observation = Observation(**{**observation.__dict__, "update": noise})
    finding = run(observation, budget_s=1.0)
    assert finding.verdict in {"failed", "partial"}


def test_zero_update_and_wrong_encoding_are_refused_with_a_reason():
    x, y = draw("mnist5k", 2, 8)
    observation, _ = observe(task_of(hidden=(16,)), x, y)
    silent = {name: np.zeros_like(value) for name, value in observation.update.items()}
    assert "zero" in run(Observation(**{**observation.__dict__, "update": silent})).reason
    task = task_of(hidden=(16,), encoding="rate")
    rate, _ = observe(task, x, y)
    assert "frames, not images" in (ImageLp().applies(rate) or "")
    crowd = msgspec.structs.replace(rate.plan, batch_size=16)
    full = Observation(**{**observation.__dict__, "samples": 16, "_plan": crowd})
    assert "16 samples" in (ImageLp().applies(full) or "")


def test_clipping_hides_the_gradients_length_and_no_image():
    x, y = draw("mnist5k", 6, 9)
    observation, _ = observe(task_of(hidden=(64,)), x, y, clip=0.3)
    finding = run(observation)
    assert finding.verdict == "exact"
    key = {image.tobytes(): int(label) for image, label in zip(x, y, strict=True)}
    assert [key.get(image.tobytes()) for image in finding.images] == list(finding.labels)


def test_int8_batch_of_ten_comes_out_whole():
    x, y = draw("mnist5k", 10, 10)
    observation, _ = observe(task_of(), x, y, codec="int8")
    finding = run(observation)
    assert finding.verdict == "recovered"
    assert best_db(finding, x).min() > 35
