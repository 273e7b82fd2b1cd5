"""What a sweep's report says, from tables made up here."""

from __future__ import annotations

import math

import msgspec
import pytest

from deploy.sweep.estimates import mean, middle, share
from deploy.sweep.plan import Sweep
from deploy.sweep.report import front, matrix, words
from deploy.sweep.report.configurations import best_by_update, configurations
from deploy.sweep.table import ATTACK_COLUMNS, RUN_COLUMNS

AXES = [{"key": "task.encoding.steps", "values": [4, 8]}]
SWEEP = msgspec.convert({"name": "s", "axes": AXES, "seeds": [1, 2], "target_accuracy": 0.9}, Sweep)


def run(name, label, seed, **figures):
    defaults = {
        "run": name, "arm": "main", "seed": seed, "axis.task.encoding.steps": label, "dataset": "digits",
        "family": "snn", "accuracy": 0.9, "joules_per_round": 0.5, "bytes_up": 4000, "updates": 4, "lost": 0,
        "duplicated": 0, "energy_provenance": "modelled", "audited": 1, "never_attacked": 0, "unscored": 0,
        "false_certificates": 0,
        "noise_certified": 0, "mean_image_max_db": 9.0,
    }  # fmt: skip
    return {**dict.fromkeys(RUN_COLUMNS), **defaults, **figures}


def trial(name, attack, psnr_db, verdict="partial", **figures):
    own = {"run": name, "arm": "main", "update": f"u-{name}", "attack": attack, "psnr_db": psnr_db, "verdict": verdict}
    return {**dict.fromkeys(ATTACK_COLUMNS), "samples": 1, "reason": "", **own, **figures}


def table(*points):
    """Two seeds a point: (label, joules, accuracy, best dB by the literature, best dB by the ladder)."""
    runs, trials = [], []
    for label, joules, accuracy, published, ladder in points:
        for seed in (1, 2):
            name = f"{label}-{seed}"
            runs.append(run(name, label, seed, joules_per_round=joules, accuracy=accuracy))
            trials += [trial(name, "dlg", published), trial(name, "ratio", ladder, "exact" if ladder else "failed")]
    return configurations(runs, trials, seeds=2)


def test_a_figure_that_one_run_lacks_is_no_mean_over_the_others():
    assert mean([0.5], of=2).value is None
    assert mean([], of=0).value is None
    found = mean([1.0, 3.0], of=2)
    assert found.value == 2.0
    assert found.high - found.value == pytest.approx(12.7062, rel=1e-4)  # t(0.975, 1) * sqrt(2) / sqrt(2)
    runs = [run("a-1", "a", 1, joules_to_target=0.1), run("a-2", "a", 2, joules_to_target=None)]
    (one,) = configurations(runs, [], seeds=2)
    assert one.joules_to_target.value is None
    assert one.joules_to_target.n == 1


def test_updates_without_an_image_rank_below_all_others():
    assert middle([-math.inf, -math.inf, 30.0]).value is None
    assert middle([-math.inf, 20.0, 30.0]).value == 20.0
    assert middle([]).n == 0
    trials = [trial("a-1", "dlg", None, "failed"), trial("a-1", "ratio", 8.0), trial("a-2", "ratio", 90.0, "refused")]
    assert best_by_update(trials) == {"u-a-1": 8.0}


def test_shares_have_wilson_intervals():
    assert (share(0, 10).low, share(10, 10).high) == (pytest.approx(0.0), pytest.approx(1.0))
    half = share(5, 10)
    assert (half.low, half.high) == (pytest.approx(0.2366, abs=1e-4), pytest.approx(0.7634, abs=1e-4))


def test_the_front_is_what_no_accurate_one_beats_in_both():
    found = table(
        ("4", 1.0, 0.95, 5.0, 50.0), ("8", 2.0, 0.94, 5.0, 20.0), ("9", 3.0, 0.94, 5.0, 30.0), ("x", 0.1, 0.5, 5.0, 5.0)
    )
    assert [one.labels["task.encoding.steps"] for one in front.front(found)] == ["4", "8"]
    assert [one.labels["task.encoding.steps"] for one in front.accurate(found)] == ["4", "8", "9"]


def test_what_gradient_matching_misses_is_said():
    found = table(("4", 1.0, 0.95, 5.0, 50.0), ("8", 2.0, 0.94, 5.0, 12.0))
    said = " ".join(words.sentences(SWEEP, found, missing=0))
    assert "1 of 2 spiking configurations pass as private" in said
    assert "1 of 2 configurations keep the worst case of every audited update below 15 dB. The cheapest is 8" in said
    assert "4 audited updates: of 4 of these" in said
    assert "No configuration reached 90 % accuracy in every run" in said
    assert "no certificate was false" in said


def test_nothing_attacked_is_not_nothing_leaked():
    found = configurations([run("a-1", "a", 1)], [], seeds=1)
    assert found[0].leakage.n == 0
    assert front.front(found) == []
    assert front.front_chart(found, {}) is None
    assert words.sentences(SWEEP, found, missing=0) == [
        "No update of this sweep was attacked, so that it says nothing about leakage."
    ]


def test_no_image_is_not_told_as_0_db():
    found = table(("4", 1.0, 0.95, None, None), ("8", 2.0, 0.94, 5.0, 12.0))
    said = words.sentences(SWEEP, found, missing=0)[0]
    assert "between 12.0 and 12.0 dB" in said
    assert "Of 1 configuration at least half of the updates gave no attack an image" in said


def test_controls_that_failed_and_missing_runs_are_said():
    runs = [run("a-1", "a", 1, false_certificates=1), run("a-2", "a", 2, noise_certified=2)]
    found = configurations(runs, [trial("a-1", "ratio", 40.0), trial("a-2", "ratio", None, "failed")], seeds=2)
    said = words.sentences(SWEEP, found, missing=3, unscored=7)[-1]
    assert "Of 7 updates no score came" in said
    assert "3 certificates were false or given on noise" in said
    assert "3 runs are missing" in said


def test_the_matrix_tells_failed_refused_and_label_attacks_apart():
    runs = [run("a-1", "a", 1), run("a-2", "a", 2)]
    trials = [
        trial("a-1", "label", None, "recovered", labels_right=1),
        trial("a-2", "label", None, "recovered", labels_right=0),
        trial("a-1", "dlg", None, "failed"), trial("a-2", "dlg", 7.0),
        trial("a-1", "frame_lp", None, "refused", reason="no spikes"),
        trial("a-1", "ratio", 70.0, "exact"), trial("a-2", "ratio", 60.0, "exact"),
    ]  # fmt: skip
    found = matrix.matrix(configurations(runs, trials, seeds=2), trials)
    assert found.attacks == ("label", "dlg", "ratio")  # refused everywhere: no column
    ((_, (label, dlg, ratio)),) = found.rows
    assert label.text == "1/2"
    assert dlg.text == "—"
    assert "1 partial, 1 failed" in dlg.note
    assert (ratio.text, ratio.level) == ("65.0", 4)
    assert "n = 2" in ratio.note
