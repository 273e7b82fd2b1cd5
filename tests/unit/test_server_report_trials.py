"""Statistics over trials: hand-computed cases, an independent bootstrap, and properties."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.messages import AttackScore
from server.report.attack_tables import percent
from server.report.data import ScoreRow
from server.report.trials import bootstrap_median, gives_images, median, spread, worst_by_update, worst_case

PSNR = st.one_of(st.none(), st.floats(0, 200))


def row(psnr_db: float | None, *, verdict: str = "partial", attack: str = "dlg", update: str = "u", **more) -> ScoreRow:
    score = AttackScore(attack=attack, verdict=verdict, psnr_db=psnr_db, **more)
    return ScoreRow(update=update, node="a", round=1, kind="audit", samples=1, score=score)


def test_failures_rank_below_every_image() -> None:
    found = spread([row(10.0), row(20.0), row(None, verdict="failed"), row(None, verdict="failed")])
    assert (found.trials, found.failed, found.median_db, found.max_db) == (4, 2, None, 20.0)
    found = spread([row(10.0), row(20.0), row(None, verdict="failed")])
    assert (found.trials, found.failed, found.median_db, found.min_db, found.max_db) == (3, 1, 10.0, None, 20.0)


def test_refusals_are_no_trials() -> None:
    found = spread([row(30.0), row(None, verdict="refused"), row(None, verdict="refused")])
    assert (found.trials, found.failed, found.refused, found.median_db) == (1, 0, 2, 30.0)
    found = spread([row(None, verdict="refused")])
    assert (found.trials, found.failed, found.median_db, found.seconds) == (0, 0, None, None)


def test_a_single_trial_has_no_interval() -> None:
    found = spread([row(30.0)])
    assert (found.median_db, found.low_db, found.high_db) == (30.0, None, None)


def test_a_failed_verdict_counts_even_with_an_image() -> None:
    found = spread([row(5.0, verdict="failed"), row(6.0, verdict="failed")])
    assert (found.failed, found.max_db) == (2, 6.0)


def test_a_label_attack_is_not_a_failed_image_attack() -> None:
    rows = [row(None, verdict="recovered", labels_right=1), row(None, verdict="recovered", labels_right=0)]
    found = spread(rows)
    assert not gives_images(rows)
    assert (found.trials, found.failed, found.median_db, found.max_db) == (2, 0, None, None)
    assert (found.labels_right, found.labels_of) == (1, 2)


def test_shares_of_frames_are_means_over_all_trials_and_a_crash_found_none() -> None:
    rows = [
        row(30.0, frames_exact=1.0, frames_placed=0.5, identified=1.0),
        row(None, verdict="failed"),
        row(None, verdict="refused"),
    ]
    found = spread(rows)
    assert (found.frames_exact, found.frames_placed, found.identified) == (0.5, 0.25, 0.5)
    assert spread([row(30.0)]).frames_exact is None


@pytest.mark.parametrize(("share", "text"), [
    (1.0, "100 %"), (0.999, "99.9 %"), (0.66667, "67 %"), (0.001, "0.1 %"), (0.0, "0 %"), (None, "—"),
])  # fmt: skip
def test_only_all_are_a_hundred_percent(share: float | None, text: str) -> None:
    assert percent(share) == text


def test_a_label_attack_that_crashes_once_counts_that_failure() -> None:
    rows = [row(None, verdict="recovered", labels_right=1), row(None, verdict="failed")]
    assert spread(rows).failed == 1


def test_interval_agrees_with_an_independent_bootstrap() -> None:
    values = np.random.default_rng(1).normal(20, 5, size=21)
    low, high = bootstrap_median(values, np.random.default_rng(2), resamples=4000)
    rng = np.random.default_rng(3)
    medians = [statistics.median(rng.choice(values, size=values.size)) for _ in range(4000)]
    assert low == pytest.approx(np.percentile(medians, 2.5), abs=0.7)
    assert high == pytest.approx(np.percentile(medians, 97.5), abs=0.7)


def test_interval_covers_the_true_median_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(4)
    intervals = [bootstrap_median(rng.normal(0, 1, 25), rng, resamples=400) for _ in range(300)]
    covered = sum(low <= 0 <= high for low, high in intervals) / len(intervals)
    assert 0.89 < covered < 0.995


def test_bootstrap_over_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no values"):
        bootstrap_median(np.zeros(0), np.random.default_rng(0))


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30))
def test_median_agrees_with_the_standard_library(values: list[float]) -> None:
    assert median(values) == pytest.approx(statistics.median(values), abs=1e-9)


@given(st.lists(PSNR, min_size=1, max_size=15))
def test_no_interval_or_median_is_nan_and_order_holds(values: list[float | None]) -> None:
    found = spread([row(value) for value in values])
    ends = [found.low_db, found.median_db, found.high_db, found.max_db]
    ranked = [-math.inf if end is None else end for end in ends]
    assert not any(math.isnan(end) for end in ranked)
    assert ranked[1] <= ranked[3]
    assert len(values) == 1 or ranked[0] <= ranked[1] <= ranked[2] <= ranked[3]
    assert found.trials == len(values)
    assert found.failed == sum(value is None for value in values)


@given(st.lists(PSNR, min_size=1, max_size=15), st.integers(0, 5))
def test_a_further_failure_never_raises_the_median(values: list[float | None], more: int) -> None:
    before = spread([row(value) for value in values])
    after = spread([row(value) for value in [*values, *[None] * more]])
    rank = [-math.inf if found.median_db is None else found.median_db for found in (before, after)]
    assert rank[1] <= rank[0]


def test_worst_case_is_over_all_attacks() -> None:
    rows = [row(5.0), row(140.0, attack="ratio"), row(None, attack="cosine", verdict="failed"), row(9.0, update="v")]
    worst = worst_case(rows)
    assert worst is not None
    assert (worst.psnr_db, worst.attack) == (140.0, "ratio")
    assert worst_by_update(rows) == {"u": 140.0, "v": 9.0}
    assert worst_case([row(None)]) is None
    assert worst_by_update([row(None)]) == {"u": -math.inf}
