"""GRNN: its generator, its distance, and what it makes of true updates."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import wasserstein_distance

from attack.methods.grnn import GenerativeRegression
from attack.optimisation.generator import LATENT, Generator
from attack.optimisation.objectives import wasserstein
from contract.datasets import load
from contract.metrics import psnr
from contract.task import RoundPlan
from tests.attack_updates import audit_plan, observe, task_of


@given(st.integers(0, 1000), st.integers(1, 50))
def test_the_distance_is_scipys(seed, size):
    rng = np.random.default_rng(seed)
    found, target = rng.normal(size=size), rng.normal(size=size)
    ours = float(wasserstein([torch.tensor(found)], [torch.tensor(target)]))
    assert ours == pytest.approx(wasserstein_distance(found, target) / np.abs(target).mean())


def test_a_generator_gives_frames_in_the_box_and_label_probabilities():
    rng = np.random.default_rng(0)
    latent = torch.as_tensor(rng.standard_normal((2, LATENT)))
    generator = Generator(latent=latent, steps=3, shape=(1, 4, 4), classes=5)
    frames, labels = generator(20 * generator.start(rng))
    assert frames.shape == (3, 2, 1, 4, 4)
    assert 0 <= float(frames.min()) < float(frames.max()) <= 1
    np.testing.assert_allclose(labels.sum(dim=1), 1)


@pytest.mark.parametrize("options", [{"family": "ann", "activation": "sigmoid"}, {}, {"kind": "rate", "steps": 3}])
def test_it_estimates_image_and_label_from_the_gradient_alone(options):
    data, rng = load("digits"), np.random.default_rng(0)
    x, y = np.array(data.x[:1]), np.array(data.y[:1])
    seen = observe(task_of(**{"steps": 4, "hidden": (32,)} | options), x, y)
    finding = GenerativeRegression().run(seen, 3.0, rng)
    assert finding.verdict in {"partial", "recovered"}
    assert finding.labels == (int(y[0]),)
    assert psnr(finding.images[0], x[0]) > psnr(np.full_like(x[0], 0.5), x[0])


def test_what_it_cannot_fit_is_refused_and_a_zero_gradient_fails():
    data = load("digits")
    x, y = np.array(data.x[:16]), np.array(data.y[:16])
    task = task_of(steps=4, hidden=(16,))
    assert "16 samples" in GenerativeRegression().applies(observe(task, x, y, RoundPlan(batch_size=16)))
    one = observe(task, x[:1], y[:1], audit_plan())
    zero = type(one)(
        **{name: getattr(one, name) for name in one.__dataclass_fields__}
        | {"update": {name: np.zeros_like(value) for name, value in one.update.items()}}
    )
    assert GenerativeRegression().run(zero, 1.0, np.random.default_rng(0)).verdict == "failed"
    assert msgspec.structs.asdict(GenerativeRegression())["name"] == "grnn"
