"""Spiking networks beside their twins: figures, intervals and what is said of the claim, from tables made up here."""

from __future__ import annotations

import numpy as np
import pytest

from deploy import parquet
from deploy.sweep import baselines, comparison
from deploy.sweep.estimates import mean_by_seed
from deploy.sweep.plan import load_sweep, points
from deploy.sweep.report import claim
from deploy.sweep.table import ATTACK_COLUMNS, RUN_COLUMNS

SEEDS, UPDATES = (1, 2), 16


def tables(networks):
    """Runs and attacks of (label, arm, accuracy, dB by the literature, dB by the ladder, exact)."""
    runs, attacks = [], []
    for label, arm, accuracy, published, ladder, exact in networks:
        for seed in SEEDS:
            place = {"run": f"{label}-{seed}", "arm": arm, "seed": seed}
            figures = {"dataset": "digits", "family": "ann" if arm == "twin" else "snn", "accuracy": accuracy}
            row = {**place, "axis.network": label, **figures, "noise_attacks": 9, "noise_certified": 0}
            runs.append({**dict.fromkeys(RUN_COLUMNS), **row})
            rng = np.random.default_rng(seed)
            for at in range(UPDATES):
                update = {"update": f"{label}-{arm}-{seed}-{at}", "node": f"n{at % 4}", "round": at // 4, "samples": 1}
                controls = {"wrong_sample_db": 8.0, "mean_image_db": 12.0, "reason": ""}
                best = None if ladder is None else float(ladder + rng.normal())
                verdict = "failed" if best is None else "exact" if exact else "partial"
                for attack, figure, told in (("dlg", published, "partial"), ("ratio", best, verdict)):
                    one = {"attack": attack, "verdict": told, "psnr_db": figure}
                    known = None if figure is None else float(figure > 30)
                    attacks.append(
                        {**dict.fromkeys(ATTACK_COLUMNS), **place, **update, **controls, **one, "identified": known}
                    )
    return runs, attacks


INVERTED = [("open door", "main", 0.9, 6.0, 150.0, True), ("open door", "twin", 0.91, 110.0, 150.0, True)]
CLOSED = [("deep", "main", 0.8, 7.0, 9.0, False), ("deep", "twin", 0.9, 40.0, 45.0, False)]
BARELY = [("sparse", "main", 0.9, 7.0, 15.0, False), ("sparse", "twin", 0.9, 40.0, 45.0, False)]


def test_figures_of_a_network_and_its_twin():
    (pair,) = comparison.pairs(*tables(INVERTED))
    assert (pair.snn.updates, pair.ann.updates, pair.snn.seeds) == (32, 32, 2)
    assert pair.snn.literature_db.value == 6.0
    assert pair.ann.literature_db.value == 110.0
    assert pair.snn.ladder_db.value == pytest.approx(150.0, abs=1.0)
    assert pair.snn.ladder_db.low < pair.snn.ladder_db.value < pair.snn.ladder_db.high
    assert pair.snn.ladder_gain_db.value == pytest.approx(pair.snn.ladder_db.value - 12.0)
    assert pair.snn.literature_gain_db.high == -6.0
    assert (pair.snn.exact.value, pair.snn.identified.value) == (1.0, 1.0)
    assert pair.literature.value == -104.0  # the same device, round and seed
    assert pair.ladder.value == pytest.approx(0.0)


def test_an_update_without_an_image_leaves_a_median_and_no_mean():
    runs, attacks = tables(CLOSED)
    attacks = [row | {"psnr_db": None} if row["attack"] == "dlg" and row["round"] == 3 else row for row in attacks]
    (pair,) = comparison.pairs(runs, attacks)
    assert pair.snn.literature_none == 8
    assert pair.snn.literature_db.value is None
    assert pair.snn.literature_median_db.value == 7.0
    assert pair.literature.value is None


def test_the_interval_is_that_of_seeds_and_not_of_updates_alone():
    alike = [(seed, float(value)) for seed in (1, 2) for value in np.random.default_rng(seed).normal(size=50)]
    apart = [(seed, value + 20.0 * seed) for seed, value in alike]
    near, far = mean_by_seed(alike), mean_by_seed(apart)
    assert near.high - near.low < 0.8
    assert far.high - far.low > 15.0  # another seed could lie as far away again
    assert mean_by_seed([(1, 3.0)]).low is None
    assert mean_by_seed([(1, 3.0), (1, None)]).value is None
    assert mean_by_seed([]).n == 0


def test_what_is_said_of_the_claim_follows_from_the_figures():
    published, ladder, falls, left, rests = claim.paragraphs(comparison.pairs(*tables(INVERTED + CLOSED + BARELY)))
    assert "6.0 to 7.0 dB on spiking networks, 40.0 to 110.0 dB on their ANN twins" in published
    assert "gives away less in 3 of 3 pairs" in published
    assert "On 3 of 3 spiking networks these attacks come no nearer" in published
    assert "less in 2 of 3 pairs, more in 0" in ladder
    assert "does not hold under the ladder in 1 of 3 networks: open door (100.0" in falls
    assert "In 1 more the ladder beats the mean sample" in falls
    assert "sparse" in falls
    assert "It remains open in 1: deep." in left
    assert "no evidence of privacy" in left
    assert "at least 32 attacked gradients of a single sample over 2 seeds" in rests
    assert "more than 3 points in 1 pair: deep" in rests
    assert "Of 108 attacks on noise in an update's place 0 certified" in rests


def test_a_ladder_that_finds_nothing_contradicts_nothing():
    *_, falls, left, _ = claim.paragraphs(comparison.pairs(*tables(CLOSED)))
    assert "does not contradict the claim" in falls
    assert "open in 1" in left
    assert claim.paragraphs(()) == []


def test_the_table_has_a_row_for_each_network(tmp_path):
    rows = comparison.rows(comparison.pairs(*tables(INVERTED + CLOSED)))
    parquet.write(tmp_path / "networks.parquet", rows, comparison.columns(["network"]))
    held = parquet.read(tmp_path / "networks.parquet")
    assert [(row["axis.network"], row["family"]) for row in held] == [
        ("open door", "snn"), ("open door", "ann"), ("deep", "snn"), ("deep", "ann"),
    ]  # fmt: skip
    assert set(rows[0]) <= set(held[0])
    assert held[0]["dlg_db"] == 6.0
    assert held[0]["grnn_db"] is None
    assert (held[0]["updates"], held[0]["ladder_none"], held[0]["noise_attacks"]) == (32, 0, 18)


def test_accuracy_is_told_beside_guessing_and_a_regression(tmp_path):
    path = tmp_path / "sweep.toml"
    path.write_text('name = "s"\n[study.task]\ndataset = "digits"\n[[study.schedule]]\n')
    found = points(load_sweep(path), path)
    baselines.write(found, tmp_path / "b.parquet")
    (row,) = baselines.read(tmp_path / "b.parquet").values()
    assert 0.05 < row["chance"] < 0.2
    assert row["regression"] > 0.9
    written = (tmp_path / "b.parquet").stat().st_mtime_ns
    baselines.write(found, tmp_path / "b.parquet")
    assert (tmp_path / "b.parquet").stat().st_mtime_ns == written
    assert baselines.read(tmp_path / "none.parquet") == {}
