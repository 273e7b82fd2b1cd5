"""What the soak must notice: growth of memory, threads and descriptors, and not their noise."""

from __future__ import annotations

import math

import pytest

from tests.faults.chaos.soak import Sample, _steady


def samples(count: int, *, mb: float = 0.0, threads: float = 0.0, descriptors: float = 0.0) -> list[Sample]:
    """A process of 300 MB with a ripple of 0.1 MB that grows by so much in 100 rounds after its first 15 are over."""
    return [
        Sample(
            round=n,
            rss_mb=300.0 - 5.0 * (n < 15) + 0.1 * math.sin(n) + mb * n / 100,
            threads=3 + int(threads * n / 100),
            descriptors=9 + int(descriptors * n / 100) + (n % 7 == 0),
        )
        for n in range(1, count + 1)
    ]


@pytest.mark.parametrize("count", [50, 1000])
def test_a_steady_process_passes(count: int):
    assert "3 threads" in _steady("server", samples(count, mb=0.3), count)


@pytest.mark.parametrize(
    ("growth", "said"),
    [
        ({"mb": 1.5}, "MB per 100 rounds; less than 1.0 MB is allowed"),
        ({"threads": 6}, "threads went from"),
        ({"descriptors": 6}, "descriptors went from"),
    ],
)
@pytest.mark.parametrize("count", [50, 1000])
def test_growth_is_noticed(count: int, growth: dict[str, float], said: str):
    with pytest.raises(AssertionError, match=said):
        _steady("server", samples(count, **growth), count)


def test_too_few_samples_prove_nothing():
    with pytest.raises(AssertionError, match="only 10 samples"):
        _steady("server", samples(30), 30)
