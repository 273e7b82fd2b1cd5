"""What top-k and sign leave of one image: more than the plain ratio sees, and never a certificate."""

from __future__ import annotations

import numpy as np
import pytest

from attack.methods import METHODS
from attack.methods.coarse_rank1 import CoarseRankOne
from attack.methods.ratio import Ratio
from attack.threat import Observation
from contract.codecs.topk import TopK
from contract.datasets import load
from contract.metrics import psnr
from tests.science.image_updates import observe, task_of


def seen(dataset, codec, index, **options):
    data = load(dataset)
    x, y = data.x[index : index + 1], data.y[index : index + 1]
    task = task_of(dataset=dataset, hidden=(128,), seed=index + 1, **options)
    return observe(task, x, y, classes=2 if dataset == "faces" else 10, codec=codec, seed=index)[0], x


def gain_db(dataset, codec, index) -> float:
    """How much closer than the ratio's its image is."""
    observation, x = seen(dataset, codec, index)
    assert CoarseRankOne().applies(observation) is None
    finding = CoarseRankOne().run(observation, 1.0, np.random.default_rng(0))
    assert finding.verdict == "partial"
    plain = Ratio().run(observation, 1.0, np.random.default_rng(0))
    return psnr(finding.images, x) - psnr(plain.images, x)


@pytest.mark.parametrize(
    ("dataset", "codec", "least_db"),
    [("faces", TopK(share=0.1), 4.0), ("faces", TopK(share=0.01), 3.0), ("mnist5k", "sign", 2.0)],
)
def test_closer_than_the_ratio(dataset, codec, least_db):
    assert np.median([gain_db(dataset, codec, index) for index in range(5)]) > least_db


def test_signs_give_the_silhouette():
    observation, x = seen("mnist5k", "sign", 3)
    finding = CoarseRankOne().run(observation, 1.0, np.random.default_rng(0))
    assert np.array_equal(finding.images > 0, x > 0)


def test_it_is_on_the_ladder_and_says_why_it_does_not_apply():
    method = METHODS["coarse_rank1"]
    assert "codec" in (method.applies(seen("mnist5k", "int8", 0)[0]) or "")
    data = load("mnist5k")
    several, _ = observe(task_of(hidden=(16,)), data.x[:2], data.y[:2], codec="sign")
    assert "rank one" in (method.applies(several) or "")
    observation, _ = seen("mnist5k", "sign", 0)
    silent = {name: np.zeros_like(value) for name, value in observation.update.items()}
    empty = Observation(**{**observation.__dict__, "update": silent})
    assert method.run(empty, 1.0, np.random.default_rng(0)).verdict == "failed"
