"""What a sweep's report says, from tables made up here."""

from __future__ import annotations

import math

import msgspec
import pytest

from deploy.study import STUDIES
from deploy.sweep.estimates import mean, middle, share
from deploy.sweep.plan import Sweep, load_sweep, points
from deploy.sweep.report import axis_charts, figures, front, matrix, words
from deploy.sweep.report.configurations import best_by_update, configurations
from deploy.sweep.table import ATTACK_COLUMNS, RUN_COLUMNS, identity

AXES = [{"key": "task.encoding.steps", "values": [4, 8]}]
SWEEP = msgspec.convert({"name": "s", "axes": AXES, "seeds": [1, 2], "target_accuracy": 0.9}, Sweep)


def run(name, label, seed, **figures):
    defaults = {
        "run": name, "arm": "main", "seed": seed, "axis.task.encoding.steps": label, "dataset": "digits",
        "family": "snn", "accuracy": 0.9, "joules_per_round": 0.5, "bytes_up": 4000, "updates": 4, "lost": 0,
        "duplicated": 0, "energy_provenance": "modelled", "audited": 1, "never_attacked": 0, "unscored": 0,
        "false_certificates": 0,
        "noise_certified": 0, "noise_attacks": 2, "mean_image_max_db": 9.0, "evaluated_on": 500,
        "epsilon_reason": "no update carried noise",
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


def test_the_front_of_joules_to_an_accuracy_is_of_those_that_reached_it():
    joules = {"4": (0.4, 50.0), "8": (0.8, 20.0), "9": (0.9, 30.0), "x": (None, 5.0)}
    runs = [run(f"{k}-{s}", k, s, joules_to_target=v, accuracy=0.5) for k, (v, _) in joules.items() for s in (1, 2)]
    found = configurations(
        runs, [trial(f"{k}-{s}", "ratio", v) for k, (_, v) in joules.items() for s in (1, 2)], seeds=2
    )
    best = front.front(found, front.to_target(0.9))
    assert [one.labels["task.encoding.steps"] for one in best] == ["4", "8"]
    said = words.sentences(SWEEP, found, missing=0)[-2]
    assert said.startswith(
        "3 of 4 configurations reached 90 % accuracy in every run; cheapest was “4” with 400\u202fmJ (mod"
    )
    assert (
        "front of these joules against leakage: “4”, 400\u202fmJ (modelled, equal in all n = 2 runs), 50.0 dB" in said
    )
    chart = front.front_chart(found, {}, front.to_target(0.9))
    assert "joules until 90 % accuracy" in chart
    assert chart.count('class="spot') == 2 * 3


def test_what_gradient_matching_misses_is_said():
    found = table(("4", 1.0, 0.95, 5.0, 50.0), ("8", 2.0, 0.94, 5.0, 12.0))
    said = " ".join(words.sentences(SWEEP, found, missing=0))
    assert "1 of 2 spiking configurations pass as private" in said
    assert "1 of 2 configurations keep the worst case of every audited update below 15 dB. The cheapest is “8”" in said
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
    said = words.sentences(SWEEP, found, missing=0)[1]
    assert said.count("12.0 dB (n = 2, 95 % CI 12.0 to 12.0)") == 2
    assert "Of 1 configuration at least half of the updates gave no attack an image" in said


def floored(levels, ladder):
    """As `table`, of one update a seed, with what the attacks reach on noise in its place: two attacks."""
    runs, trials = [], []
    for label, floor in levels.items():
        for seed in (1, 2):
            name = f"{label}-{seed}"
            runs.append(run(name, label, seed))
            told = None if floor is None else "partial"
            trials.append(trial(name, "dlg", ladder[label], noise_verdict=told, noise_db=floor and floor + seed - 1))
            trials.append(trial(name, "ratio", None, "refused", noise_verdict=told and "failed"))
    return configurations(runs, trials, seeds=2)


def test_a_worst_case_stands_beside_what_the_same_attacks_reach_on_noise():
    found = floored({"4": 8.0, "8": 8.0, "9": None}, {"4": 60.0, "8": 8.5, "9": 60.0})
    assert [(one.noise.value, one.noise.n, one.noise_largest) for one in found] == [
        (8.5, 2, 9.0), (8.5, 2, 9.0), (None, 0, None),
    ]  # fmt: skip
    said = " ".join(words.sentences(SWEEP, found, missing=0))
    assert "reach a median of 8.5 dB (scored, n = 4 noise updates, 95 % CI 8.0 to 9.0; largest 9.0)" in said
    assert "In 1 of 2 configurations the median worst case lies with its whole interval above" in said
    assert "in 1 it is no better than that: “8”." in said
    none = " ".join(words.sentences(SWEEP, floored({"4": None}, {"4": 60.0}), missing=0))
    assert "No attack on noise in an update's place was scored" in none


def test_all_three_questions_are_answered_when_nothing_is_below_15_db():
    spent, leaks, _, below, dominates, claim, *_ = words.sentences(
        SWEEP, table(("4", 1.0, 0.95, 5.0, 50.0), ("8", 2.0, 0.94, 5.0, 20.0)), missing=0
    )
    assert "1.00\u202fJ (modelled, equal in all n = 2 runs) with “4”, the cheapest" in spent
    assert "An update has 1000\u202fB (counted, equal in all n = 2 runs)." in spent
    assert "of 4 of these (95 % CI 51.0\u202f% to 100.0\u202f%)" in leaks
    assert "20.0 dB (n = 2, 95 % CI 20.0 to 20.0) and 50.0 dB" in leaks
    assert below.startswith(
        "No configuration keeps the worst case of every update below 15 dB; nearest comes “8”: 2.00"
    )
    assert "of which 2 reach 15 dB (95 % CI 34.2\u202f% to 100.0\u202f%)" in below
    assert "None dominates all others. On the front" in dominates
    assert "does not survive in 2 of 2 spiking configurations" in claim
    assert "up to 50.0 dB (n = 2, 95 % CI 50.0 to 50.0) with “4”" in claim


def test_what_withstands_is_no_evidence_of_privacy():
    said = words.sentences(SWEEP, table(("4", 1.0, 0.95, 5.0, 8.0), ("8", None, 0.94, 5.0, None)), missing=0)
    assert "Of 1 configuration the joules are not known in every run." in said[0]
    (below,) = (text for text in said if text.startswith("2 of 2 configurations keep the worst case"))
    assert "The cheapest is “4”" in below
    (claim,) = (text for text in said if "is not refuted by any of 2 spiking configurations" in text)
    assert "a limit of these attacks" in claim


def test_epsilon_is_that_of_all_runs_or_of_none():
    noisy = {"epsilon": 30.0, "delta": 1e-5, "epsilon_reason": ""}
    (one,) = configurations([run("a-1", "a", 1, **noisy), run("a-2", "a", 2, **noisy)], [], seeds=2)
    assert (one.epsilon, one.epsilon_lines) == (30.0, ("accounted, n = 2", "δ = 1e-05", "equal in all"))
    (one,) = configurations([run("a-1", "a", 1, **noisy), run("a-2", "a", 2, **noisy | {"epsilon": 40.0})], [], seeds=2)
    assert (one.epsilon, one.epsilon_lines) == (40.0, ("accounted, n = 2", "δ = 1e-05", "smallest 30"))
    (one,) = configurations(
        [run("a-1", "a", 1, **noisy), run("a-2", "a", 2, epsilon_reason="3 of 9 bare")], [], seeds=2
    )
    assert (one.epsilon, one.epsilon_lines) == (None, ("3 of 9 bare",))


def test_a_figure_says_how_it_came_about_its_n_and_its_interval_or_why_it_has_none():
    three = figures.joules(mean([1.0, 2.0, 4.0], of=3).within(0.0, math.inf), "modelled")
    assert three.text == "modelled, n = 3 runs, 95 % CI 0\u202fJ to 6.13\u202fJ"
    assert three.lines == ("modelled, n = 3", "0\u202fJ to 6.13\u202fJ")
    assert figures.sent(mean([2048.0, 2048.0], of=2)).text == "counted, equal in all n = 2 runs"
    assert figures.sent(mean([2048.0, 2048.0], of=2)).lines == ("counted, n = 2", "equal in all")
    assert figures.accuracy(mean([0.5], of=1)).text == "evaluated, n = 1 run"
    assert figures.joules(mean([1.0], of=2), "measured").text == "measured, n = 1 run, not in all"
    assert figures.joules(mean([], of=2), "measured").text == "no run has it"
    assert figures.held_out(0.95, 360) == "n = 360 held out; 92.2 to 96.8"
    assert figures.held_out(None, 360) == ""
    silent = figures.leak(middle([-math.inf, -math.inf, -math.inf, 5.0]))
    assert silent.lines == ("scored, n = 4", "half without an image", "— to 5.0")


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
    assert (ratio.under, label.under) == (("n = 2", "60.0 to 70.0"), ("n = 2", "9 to 91 %"))


@pytest.mark.parametrize(
    ("name", "drawn"),
    [
        ("defences", {"samples a step, B", "bits a value of the update", "local steps", "noise, in clip norms"}),
        ("energy_vs_privacy", {"encoding", "steps T", "bits a value of the update", "noise, in clip norms"}),
        ("first_layer", {"encoding", "steps T", "width of the first layer"}),
    ],
)
def test_a_shipped_study_shows_leakage_along_each_parameter_that_it_varies(name, drawn):
    path = STUDIES / f"{name}.toml"
    sweep, runs, trials = load_sweep(path), [], []
    for point in points(sweep, path):
        labels = {f"axis.{title}": label for title, label in point.labels.items()}
        row = run(point.name, "", point.seed, **labels, **identity(point.study, "main"))
        del row["axis.task.encoding.steps"]
        runs.append(row)
        trials.append(trial(point.name, "ratio", 9.0))
    found = configurations(runs, trials, seeds=len(sweep.seeds))
    axes = [axis.title for axis in sweep.axes]
    panels = axis_charts.panels(found, axes)
    assert [panel.title for panel in panels][: len(axes)] == axes
    assert {panel.ordered for panel in panels if panel.title == "encoding"} <= {False}
    assert {panel.ordered for panel in panels if panel.title == "steps T"} <= {True}
    told = {line.split(":")[0] for panel in panels for line in panel.also}
    assert told | {panel.title for panel in panels[len(axes) :]} == drawn
