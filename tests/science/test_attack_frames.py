"""Frames, order, samples and labels out of true gradients of spike batches, and nothing out of false ones."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch

from attack.ladder import attempt
from attack.methods.frame_lp import FrameLP
from attack.methods.row_space_enumeration import RowSpaceEnumeration
from attack.threat import ThreatModel
from contract.errors import ConfigurationError
from contract.models.layout import initial_parameters
from tests.frame_updates import event_task, rate_task, rate_update


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(observation, method=None, budget_s=60.0, seed=0):
    method = method or FrameLP()
    assert method.applies(observation) is None
    return method.run(observation, budget_s, np.random.default_rng(seed))


def uncertified(finding):
    return finding.verdict == "failed" or (finding.verdict == "partial" and finding.reason.startswith("0 of "))


def samples(finding):
    frames = finding.frames.reshape(*finding.frames.shape[:2], -1).astype(np.uint8)
    return {frame.tobytes(): label for frame, label in zip(frames, finding.labels, strict=True)}


@pytest.mark.parametrize("batch", [1, 4])
def test_recordings_of_an_event_camera_are_exact(batch):
    try:
        observation, truth, y = rate_update(event_task(16), batch, seed=0)
    except ConfigurationError as absent:
        pytest.skip(str(absent))
    finding = run(observation)
    assert finding.verdict == "exact", finding.reason
    assert samples(finding) == {sample.tobytes(): int(label) for sample, label in zip(truth, y, strict=True)}


@pytest.mark.parametrize("empty", [(4,), (0, 1), (7,), (0, 3, 4, 7)])
@pytest.mark.parametrize("batch", [1, 2])
def test_empty_frames_are_part_of_a_certified_sample(batch, empty):
    def change(frames):
        frames = frames.copy()
        frames[list(empty), 0] = 0
        return frames

    observation, truth, y = rate_update(rate_task(8), batch, seed=3, change=change)
    finding = run(observation)
    assert finding.verdict == "exact", finding.reason
    assert samples(finding) == {sample.tobytes(): int(label) for sample, label in zip(truth, y, strict=True)}


def repeated(frames):
    frames = frames.copy()
    frames[4, 0] = frames[3, 0]
    return frames


def shared(frames):
    frames = frames.copy()
    frames[4, 1] = frames[2, 0]
    return frames


@pytest.mark.parametrize(("batch", "change"), [(1, repeated), (2, shared)])
def test_a_frame_that_came_twice_is_put_in_both_places(batch, change):
    observation, truth, y = rate_update(rate_task(6), batch, seed=3, change=change)
    finding = attempt(RowSpaceEnumeration(), observation, 20.0)
    assert finding.verdict == "exact", finding.reason
    assert samples(finding) == {sample.tobytes(): int(label) for sample, label in zip(truth, y, strict=True)}


@pytest.mark.parametrize(
    ("batch", "steps", "options"),
    [
        (1, 8, {}),
        (1, 64, {}),
        (2, 4, {}),
        (8, 8, {}),
        (2, 8, {"hidden": 512}),
        (2, 8, {"weight_bits": 8}),
        (2, 8, {"surrogate": "fast_sigmoid"}),
        (2, 8, {"readout": "spike"}),
        (2, 8, {"reset": "zero"}),
        (2, 8, {"reset": "none"}),
    ],
)
def test_every_sample_is_exact_in_order_and_certified(batch, steps, options):
    observation, truth, y = rate_update(rate_task(steps, **options), batch, seed=0)
    finding = run(observation)
    assert finding.verdict == "exact", finding.reason
    assert samples(finding) == {sample.tobytes(): int(label) for sample, label in zip(truth, y, strict=True)}
    rates = sorted(truth.mean(axis=1).astype(np.float32).tolist())
    np.testing.assert_allclose(sorted(finding.images.reshape(batch, -1).tolist()), rates, atol=1e-6)


def test_after_training():
    observation, truth, y = rate_update(rate_task(8), 3, seed=1, updates=20)
    finding = run(observation)
    assert finding.verdict == "exact", finding.reason
    assert samples(finding) == {sample.tobytes(): int(label) for sample, label in zip(truth, y, strict=True)}


@pytest.mark.parametrize("options", [{}, {"readout": "spike", "weight_bits": 8}])
def test_local_steps_are_unrolled(options):
    observation, truth, y = rate_update(rate_task(4, **options), 2, seed=1, local_steps=3)
    finding = run(observation)
    assert finding.verdict == "exact", finding.reason
    assert samples(finding) == {sample.tobytes(): int(label) for sample, label in zip(truth, y, strict=True)}


def test_momentum_of_the_local_steps_is_unrolled():
    observation, truth, y = rate_update(rate_task(4), 2, seed=1, local_steps=3, momentum=0.9)
    finding = run(observation)
    assert finding.verdict == "exact", finding.reason
    assert samples(finding) == {sample.tobytes(): int(label) for sample, label in zip(truth, y, strict=True)}


def test_two_hidden_layers_are_completed_by_simulation():
    task = rate_task(8)
    task = msgspec.structs.replace(task, model=msgspec.structs.replace(task.model, hidden=(128, 32)))
    observation, truth, y = rate_update(task, 1, seed=2)
    for method in (FrameLP(), RowSpaceEnumeration()):
        finding = attempt(method, observation, 20.0)
        assert finding.verdict == "exact", finding.reason
        assert samples(finding) == {truth[0].tobytes(): int(y[0])}


def test_enumeration_needs_no_weights():
    observation, truth, _ = rate_update(rate_task(8), 1, seed=2, threat=ThreatModel(weights=False))
    finding = run(observation, RowSpaceEnumeration())
    assert finding.verdict == "recovered"
    found = finding.frames.reshape(8, -1).astype(np.uint8)
    assert {frame.tobytes() for frame in found} == {frame.tobytes() for frame in truth[0]}


@pytest.mark.parametrize("seed", range(3))
def test_noise_is_not_recovered(seed):
    observation, _, _ = rate_update(rate_task(8), 1, seed=seed)
    rng = np.random.default_rng(seed)
    noise = {name: rng.normal(size=value.shape).astype(np.float32) for name, value in observation.update.items()}
    finding = run(replace(observation, update=noise), budget_s=1.0)
    assert finding.verdict == "failed", finding.reason


@pytest.mark.parametrize("seed", range(3))
def test_binary_rows_of_no_network_get_no_certificate(seed):
    observation, truth, _ = rate_update(rate_task(8), 2, seed=seed)
    rng = np.random.default_rng(seed)
    rows = truth.reshape(16, -1).astype(np.float64)
    weight = observation.first_layer.name + ".weight"
    made_up = (rng.normal(size=(256, 16)) @ rows).astype(np.float32)
    finding = run(replace(observation, update={**observation.update, weight: made_up}), budget_s=1.5)
    assert uncertified(finding), finding.reason


@pytest.mark.parametrize("seed", range(3))
def test_the_wrong_model_gives_no_certificate(seed):
    task = rate_task(8)
    observation, _, _ = rate_update(task, 2, seed=seed)
    other = initial_parameters(rate_task(8, seed=99 + seed), observation.shape, observation.classes)
    finding = run(replace(observation, _parameters=other), budget_s=1.5)
    assert uncertified(finding), finding.reason


def test_what_cannot_be_attacked_says_why():
    observation, _, _ = rate_update(rate_task(8), 1, seed=0)
    full = replace(observation, samples=32)
    assert "row space is full" in (FrameLP().applies(full) or "")
    assert "enumeration takes at most" in (RowSpaceEnumeration().applies(full) or "")
