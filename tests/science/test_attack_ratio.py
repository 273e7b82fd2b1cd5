"""The ratio attack on gradients by snntorch's own neurons: the short form of `tests.benchmarks.ratio`."""

from __future__ import annotations

import inspect

import pytest
import snntorch.surrogate
import torch

from tests.benchmarks.ratio import LEAST_DB, MOST_MS, SURROGATES, trials


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_every_surrogate_of_snntorch_is_measured():
    offered = {
        name
        for name, made in vars(snntorch.surrogate).items()
        if inspect.isfunction(made) and made.__module__ == "snntorch.surrogate"
    }
    assert offered == {name.partition("(")[0] for name in SURROGATES}


@pytest.mark.parametrize(
    "cell", ["atan-10", "triangular-25", "fast_sigmoid-5-trained", "custom_surrogate-1", "ann-relu"]
)
def test_a_direct_coded_sample_falls_and_is_certified(cell):
    for one in trials(cell, 2):
        assert one.reason == ""
        assert one.db >= LEAST_DB
        assert one.attack_ms <= 4 * MOST_MS  # a busy machine is no fault of the attack; the benchmark holds the limit
        assert one.verdict == "exact"


def test_a_random_surrogate_falls_but_cannot_be_certified():
    for one in trials("SSO-5", 2):
        assert one.db >= LEAST_DB
        assert one.verdict == "recovered"


@pytest.mark.parametrize(
    ("cell", "reason"), [("SFS-10", "bias gradient is zero"), ("LSO-5", "snntorch raises TypeError")]
)
def test_what_has_no_gradient_fails_with_its_reason(cell, reason):
    for one in trials(cell, 2):
        assert one.verdict == "failed"
        assert reason in one.reason
