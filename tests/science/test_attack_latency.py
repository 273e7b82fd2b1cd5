"""Latency-coded samples from one gradient: frames by equal columns, times by the causal chain, certified."""

from __future__ import annotations

import numpy as np
import pytest

from attack.frames.latency import partition
from attack.ladder import climb
from attack.methods.footprint import Footprint
from attack.methods.latency import Latency
from attack.methods.row_space_membership import RowSpaceMembership
from attack.threat import ThreatModel
from contract.datasets import load
from contract.encodings import decode, encode
from tests.attack_updates import audit_plan, observe, task_of

RNG = np.random.default_rng


def sample(seed, name="mnist5k", count=1):
    data = load(name)
    rows = RNG(seed).choice(len(data.y), size=count, replace=False)
    return np.array(data.x[rows]), np.array(data.y[rows])


def attacked(method, seen):
    (rung,) = climb(seen, {method.name: method}, budget_s=30.0)
    return rung.finding


@pytest.mark.parametrize(("hidden", "steps", "model"), [
    ((256,), 10, {}),
    ((128,), 32, {}),
    ((256,), 16, {"surrogate": "fast_sigmoid"}),
    ((256,), 10, {"readout": "spike"}),
    ((256, 128), 8, {}),
])  # fmt: skip
def test_every_spike_time_is_found_and_certified(hidden, steps, model):
    task = task_of("mnist5k", hidden=hidden, steps=steps, kind="latency", **model)
    for seed in range(4):
        x, y = sample(seed)
        truth = encode(task.encoding, x, RNG(0))
        found = attacked(Latency(), observe(task, x, y, seed=seed))
        assert found.verdict == "exact", found.reason
        assert (found.frames[0] == truth[:, 0]).all()
        assert found.images == pytest.approx(decode(task.encoding, truth), abs=1e-6)
        assert found.labels == (int(y[0]),)


def test_empty_steps_are_found_where_they_are():
    task = task_of("mnist5k", hidden=(128,), steps=12, kind="latency")
    x, y = sample(7)
    x = np.round(x * 3) / 3 * np.float32(0.7)
    truth = encode(task.encoding, x, RNG(0))
    assert (~truth.any(axis=(1, 2, 3, 4))).sum() >= 6
    found = attacked(Latency(), observe(task, x, y))
    assert found.verdict == "exact", found.reason
    assert (found.frames[0] == truth[:, 0]).all()


def test_a_codec_of_eight_bits_leaves_the_partition_exact():
    task = task_of("mnist5k", hidden=(256,), steps=10, kind="latency")
    for seed in range(4):
        x, y = sample(seed)
        seen = observe(task, x, y, audit_plan(codec="int8"), seed=seed)
        groups = partition(seen.first_layer.weight, seen.error_bound("layers.0.weight"), most=10)
        frames = encode(task.encoding, x, RNG(0)).reshape(10, -1)
        assert {mask.tobytes() for mask in groups.masks} == {f.astype(bool).tobytes() for f in frames if f.any()}


def test_without_weights_the_order_is_a_guess():
    task = task_of("mnist5k", hidden=(256,), steps=10, kind="latency")
    found = attacked(Latency(), observe(task, *sample(0), threat=ThreatModel(weights=False)))
    assert found.verdict == "partial"
    assert "norms" in found.reason


@pytest.mark.parametrize("count", [1, 4])
def test_another_network_or_noise_is_never_certified(count):
    task = task_of("mnist5k", hidden=(128,), steps=8, kind="latency")
    x, y = sample(3, count=count)
    honest = observe(task, x, y)
    noise = {name: RNG(1).standard_normal(g.shape).astype(np.float32) for name, g in honest.update.items()}
    other = {
        name: w + 0.01 * RNG(2).standard_normal(w.shape).astype(np.float32) for name, w in honest.parameters.items()
    }
    for changed in ({"update": noise}, {"_parameters": other}):
        fields = {name: getattr(honest, name) for name in honest.__dataclass_fields__}
        assert attacked(Latency(), type(honest)(**fields | changed)).verdict != "exact"


@pytest.mark.parametrize(("kind", "steps"), [("direct", 10), ("latency", 8)])
def test_membership_names_the_attacker_s_own_samples(kind, steps):
    task = task_of("mnist5k", hidden=(64,), steps=steps, kind=kind)
    x, y = sample(5, count=40)
    seen = observe(task, x[:3], y[:3], threat=ThreatModel(candidates=True))
    fields = {name: getattr(seen, name) for name in seen.__dataclass_fields__}
    found = attacked(RowSpaceMembership(), type(seen)(**fields | {"_candidates": x}))
    assert found.verdict == "recovered", found.reason
    assert {image.tobytes() for image in found.images} == {image.tobytes() for image in x[:3]}
    none = attacked(RowSpaceMembership(), type(seen)(**fields | {"_candidates": x[3:]}))
    assert none.verdict == "failed"
    assert none.reason.startswith("0 of 37")


def test_footprint_is_the_union_of_the_samples():
    task = task_of("mnist5k", hidden=(64,), steps=10, kind="latency")
    x, y = sample(5, count=3)
    found = attacked(Footprint(), observe(task, x, y))
    assert found.verdict == "partial"
    assert ((found.images[0] > 0) == (x > 0).any(axis=0)).all()


def test_footprint_of_a_batch_that_is_active_everywhere_says_nothing():
    task = task_of("mnist5k", hidden=(64,), steps=4, kind="direct")
    x, y = sample(5, count=2)
    found = attacked(Footprint(), observe(task, np.maximum(x, np.float32(0.1)), y))
    assert (found.verdict, found.images) == ("failed", None)


def test_membership_is_refused_without_candidates_or_with_drawn_frames():
    x, y = sample(5)
    task = task_of("mnist5k", hidden=(64,), steps=4, kind="rate")
    seen = observe(task, x, y, threat=ThreatModel(candidates=True))
    assert attacked(RowSpaceMembership(), seen).reason.startswith("needs candidates")
    fields = {name: getattr(seen, name) for name in seen.__dataclass_fields__}
    assert "draws its frames" in attacked(RowSpaceMembership(), type(seen)(**fields | {"_candidates": x})).reason
