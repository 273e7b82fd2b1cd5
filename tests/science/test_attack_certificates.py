"""No certificate for what is not true of an update: the short form of `tests.benchmarks.controls`."""

from __future__ import annotations

import pytest
import torch

from tests.benchmarks.controls import CASES, tally, world

CHECKED = ("noise", "model one step further", "wrong scales", "decay")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("case", ["direct-4", "rate-1", "latency-1", "conv-direct-1"])
def test_no_false_certificate(case):
    total, seen = tally(), world(CASES[case], 0)
    for tamper in CHECKED:
        total.control(case, tamper, seen, 0.15)
    assert total.controls == len(CHECKED)
    assert total.false == []
    assert total.crashed == []
