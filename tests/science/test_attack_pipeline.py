"""What noise, sparse codecs and error feedback leave never certifies falsely; clipping alone hides nothing."""

from __future__ import annotations

import numpy as np
import pytest

from attack.methods import METHODS
from tests.attack_updates import task_of
from tests.benchmarks.pipeline import PLANS, observations, sweep, trial

CLOSED = ("label", "footprint", "ratio", "rank1", "row_space_enumeration", "quantized_alternation", "image_lp")
LADDER = {name: METHODS[name] for name in CLOSED}
DIRECT, RATE = task_of(kind="direct", steps=5), task_of(kind="rate", steps=4)


@pytest.mark.parametrize("name", sorted(PLANS))
def test_no_false_certificate_with_direct_coding(name, capsys):
    with capsys.disabled():
        trials = sweep(DIRECT, name, 10, LADDER, 0.05)
    assert not [attack for one in trials for attack in one.false]
    certified = sum(bool(one.certified) for one in trials)
    assert certified >= 9 if name in {"fp32", "clip"} else certified == 0 or name in {"fp16", "int8", "clip, int8"}


@pytest.mark.parametrize("name", ["fp32", "clip", "ternary", "topk 10 %", "clip, noise 1e-2", "sign, fed back"])
def test_no_false_certificate_with_rate_coding(name, capsys):
    with capsys.disabled():
        trials = sweep(RATE, name, 10, LADDER, 0.05)
    assert not [attack for one in trials for attack in one.false]


@pytest.mark.parametrize("name", sorted(PLANS))
def test_the_error_bound_holds_of_the_decoded_update(name):
    plain = observations(DIRECT, PLANS["fp32"], 3, seed=4)
    for (clean, _), (seen, _) in zip(plain, observations(DIRECT, PLANS[name], 3, seed=4), strict=True):
        for key, gradient in clean.update.items():
            if PLANS[name].noise_multiplier or PLANS[name].feeds_back:
                assert seen.error_bound(key) == np.inf
                continue
            if PLANS[name].clip_norm is not None:
                length = np.sqrt(sum(float((value.astype(np.float64) ** 2).sum()) for value in clean.update.values()))
                gradient = gradient * min(1.0, PLANS[name].clip_norm / length)  # noqa: PLW2901
            error = np.abs(gradient - seen.update[key]).max()
            assert error <= seen.error_bound(key) + 1e-6 * np.abs(gradient).max()
        break  # draws of the codec move the later samples


def test_the_guard_is_what_holds_back_a_sparse_update(monkeypatch):
    """Without `distortion` the same updates are taken for gradients: the tests above can fail."""
    from attack import ladder

    monkeypatch.setattr(ladder, "sober", lambda _observation, finding: finding)
    rungs = [
        rung.finding.verdict
        for name in ("topk 10 %", "topk 1 %", "topk 50 %")
        for observation, _ in observations(DIRECT, PLANS[name], 10)
        for rung in ladder.climb(observation, {"image_lp": METHODS["image_lp"]}, budget_s=0.1, exhaustive=True)
    ]
    assert {"exact", "recovered"} & set(rungs)


def test_distortion_is_named_in_the_verdict():
    for name in ("topk 1 %", "sign", "clip, noise 1", "topk 10 %, fed back"):
        observation, truth = observations(DIRECT, PLANS[name], 1)[0]
        assert observation.distortion
        assert not trial(observation, truth, LADDER, 0.2).certified
