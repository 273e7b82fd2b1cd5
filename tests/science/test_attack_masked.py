"""The ladder on single updates under secure aggregation: no better than on noise in their place."""

from __future__ import annotations

import dataclasses

import msgspec
import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu

from attack.ladder import Rung, climb
from attack.methods import METHODS
from attack.noise import noise_observation
from attack.threat import Observation
from attack.worker import Job
from contract.datasets import load
from contract.masking import quantised, records_of
from contract.messages import Update, pack, unpack
from contract.metrics import psnr
from contract.secure import SecureAggregation
from tests.attack_updates import audit_plan, local_update, observe, parameters_of, task_of, update_blob, worker
from tests.secure_party import Party

TASK = task_of(hidden=(16,), steps=4)
SECURE = SecureAggregation()
COUNT, BUDGET_S = 20, 0.1
NAMES = ("device-1", "device-2", "device-3")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def masked_job(x, y, seed: int) -> Job:
    """The gradient of one sample as the first of three devices sends it under secure aggregation."""
    rng = np.random.default_rng(seed)
    party = Party(NAMES, SECURE)
    party.offer()
    party.deal()
    gradient = quantised(local_update(TASK, x, y, audit_plan(), rng), SECURE, rng)
    masked = party.mask(dict.fromkeys(NAMES, gradient))[NAMES[0]]
    head, _ = unpack(update_blob(TASK, x, y, audit_plan(), seed=seed), Update)
    records, buffers = records_of(masked, SECURE)
    head = msgspec.structs.replace(head, tensors=records, masks=1, loss=None)
    head, views = unpack(pack(head, buffers), Update)
    return Job(update=head, views=views)


def best_db(rungs: tuple[Rung, ...], x) -> float:
    """The worst case for the owner: the best PSNR of any image of any attack; a black image where none gave one."""
    found = [psnr(image, x[0]) for rung in rungs if rung.finding.images is not None for image in rung.finding.images]
    return max([psnr(np.zeros_like(x[0]), x[0]), *found])


def climbed(observation: Observation) -> tuple[Rung, ...]:
    return climb(observation, METHODS, budget_s=BUDGET_S, exhaustive=True)


def test_ladder_on_masked_updates_does_no_better_than_on_noise():
    data = load("digits")
    chosen = np.random.default_rng(5).choice(len(data.x), COUNT, replace=False)
    methods = worker(METHODS)
    bare, masked, unaware, noise = [], [], [], []
    verdicts: set[str] = set()
    for seed, index in enumerate(chosen):
        x, y = np.array(data.x[[index]]), np.array(data.y[[index]])
        seen = methods.observe(masked_job(x, y, seed), TASK, parameters_of(TASK))
        assert seen.masked
        assert seen.single
        rungs = climbed(seen)
        verdicts |= {rung.finding.verdict for rung in rungs}
        masked.append(best_db(rungs, x))
        blind = climbed(dataclasses.replace(seen, masked=False))
        assert all(rung.finding.verdict != "exact" for rung in blind), "no certificate, though nobody told it of masks"
        unaware.append(best_db(blind, x))
        noise.append(best_db(climbed(noise_observation(seen, np.random.default_rng(seed))), x))
        bare.append(best_db(climb(observe(TASK, x, y), {"ratio": METHODS["ratio"]}, budget_s=BUDGET_S), x))
    assert min(bare) > 60, "the positive control: without masks one line recovers each of them"
    assert verdicts <= {"failed", "refused", "partial"}
    for arm in (masked, unaware):
        assert mannwhitneyu(arm, noise, alternative="greater").pvalue > 0.01
        assert np.median(arm) < np.median(noise) + 1.5
        assert max(arm) < max(noise) + 3
