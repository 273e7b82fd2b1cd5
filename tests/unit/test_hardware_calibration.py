"""Fitting joules per operation: recovery within the intervals, coverage, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from hardware.calibration import (
    SPARE_WINDOWS,
    Window,
    _non_negative,
    calibrated_profile,
    fit,
    student_t,
)
from hardware.errors import MeterError
from hardware.profile import OPERATIONS, prices_j

TRUE_J = np.array([3e-10, 1e-10, 8e-10, 2e-10, 5e-11])
BASELINE_W = 2.5


def measured(rng, n=30, noise_w=0.05, joules=TRUE_J, idle=6):
    """Windows of a board with known constants, of work whose operations vary independently."""
    rates = rng.uniform(0, 1, (n, 5)) * np.array([2e9, 4e9, 5e8, 3e9, 8e9])
    rates[:idle] = 0
    duration_s = rng.uniform(1, 2, n)
    counts = np.rint(rates * duration_s[:, None]).astype(int)
    power_w = BASELINE_W + (counts / duration_s[:, None]) @ joules + rng.normal(0, noise_w, n)
    return [
        Window(energy_j=float(p * t), duration_s=float(t), counts=tuple(map(int, c)))
        for p, t, c in zip(power_w, duration_s, counts, strict=True)
    ]


def test_known_constants_lie_within_their_intervals_in_about_95_of_100_fits():
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(120):
        found = fit(measured(rng))
        inside += [
            abs(found.joules[op] - e) <= found.half_width_j[op] for op, e in zip(OPERATIONS, TRUE_J, strict=True)
        ]
    assert 0.92 <= np.mean(inside) <= 0.98


def test_without_noise_constants_and_baseline_are_exact():
    found = fit(measured(np.random.default_rng(1), noise_w=0.0))
    assert found.baseline_w == pytest.approx(BASELINE_W, rel=1e-6)
    assert list(found.joules.values()) == pytest.approx(TRUE_J, rel=1e-6)
    assert found.r2 == pytest.approx(1.0)
    assert found.residual_w < 1e-6


def test_least_squares_without_negatives_equal_scipys():
    rng = np.random.default_rng(2)
    for _ in range(20):
        design, power = rng.random((15, 5)), rng.normal(0, 1, 15) + 0.5
        np.testing.assert_allclose(_non_negative(design, power), scipy.optimize.nnls(design, power)[0], atol=1e-9)


@pytest.mark.parametrize("freedom", [3, 4, 5, 10, 30, 1000])
def test_students_quantile(freedom):
    assert student_t(freedom) == pytest.approx(scipy.stats.t.ppf(0.975, freedom), abs=0.01)


def test_an_operation_that_costs_nothing_is_inside_the_others():
    joules = TRUE_J.copy()
    joules[1] = 0.0
    windows = measured(np.random.default_rng(8), joules=joules)
    found = fit(windows)
    assert found.joules["ac"] == 0.0
    assert 0 < found.half_width_j["ac"] < TRUE_J[0]
    profile = calibrated_profile(found, name="b", title="B", meter="m", date="2026-01-01", no_radio="none")
    assert prices_j(profile)["ac"] == 0.0
    assert "at most" in profile.notes["ac"]


def test_an_operation_that_never_occurred_is_absent():
    windows = [
        Window(
            energy_j=w.energy_j - TRUE_J[2] * w.counts[2],
            duration_s=w.duration_s,
            counts=(*w.counts[:2], 0, *w.counts[3:]),
        )
        for w in measured(np.random.default_rng(3))
    ]
    found = fit(windows)
    assert found.never == ("membrane_update",)
    profile = calibrated_profile(found, name="b", title="B", meter="m", date="2026-01-01", no_radio="none")
    assert profile.absent == {"membrane_update": "did not occur in the measured work"}
    assert set(prices_j(profile)) == set(OPERATIONS) - {"membrane_update"}


def test_work_in_one_proportion_is_refused():
    rng = np.random.default_rng(4)
    windows = [
        Window(energy_j=2.5 + n * 1e-9, duration_s=1.0, counts=(n, n, n // 10, 2 * n, 5 * n))
        for n in (10 * rng.integers(1e7, 1e8, 20)).tolist()
    ]
    with pytest.raises(MeterError, match="cannot be told apart"):
        fit(windows)


def test_windows_without_rest_of_constant_rates_are_refused():
    windows = [Window(energy_j=5.0 + 0.01 * i, duration_s=1.0, counts=(10**9, 0, 0, 0, 0)) for i in range(20)]
    with pytest.raises(MeterError, match=r"baseline and mac .*cannot be told apart"):
        fit(windows)


def test_a_meter_that_does_not_follow_the_work_is_refused():
    rng = np.random.default_rng(5)
    windows = [
        Window(energy_j=float(rng.normal(5, 1)) * w.duration_s, duration_s=w.duration_s, counts=w.counts)
        for w in measured(rng)
    ]
    with pytest.raises(MeterError, match="does not follow the work"):
        fit(windows)


@pytest.mark.parametrize("constant_w", [0.0, 5.0])
def test_constant_power_is_refused(constant_w):
    windows = [
        Window(energy_j=constant_w * w.duration_s, duration_s=w.duration_s, counts=w.counts)
        for w in measured(np.random.default_rng(6))
    ]
    with pytest.raises(MeterError, match="does not follow the work"):
        fit(windows)


@pytest.mark.parametrize("n", [0, 1, 6 + SPARE_WINDOWS - 1])
def test_too_few_windows_are_refused(n):
    with pytest.raises(MeterError, match="at least"):
        fit(measured(np.random.default_rng(7), n=max(n, 1), idle=0)[:n])


def test_a_residual_is_a_root_mean_square():
    found = fit(measured(np.random.default_rng(9), n=400))
    assert found.residual_w == pytest.approx(0.05, rel=0.1)
    assert 0 < 1 - found.r2 < 0.05
    assert math.isfinite(found.baseline_w)
