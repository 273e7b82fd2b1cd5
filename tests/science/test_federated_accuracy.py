"""What quantisation costs in accuracy, in short; `python -m tests.benchmarks.accuracy` is the long form, with seeds."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tests.benchmarks import accuracy

ROUNDS, CLIENTS = 10, 5
NOISE = 0.03
"""One seed and 1,000 samples of a model that still learns: differences below this say nothing."""


@pytest.fixture(scope="module")
def runs():
    return {cell: accuracy.train("mnist5k", cell, 1, ROUNDS, clients=CLIENTS, tail=6) for cell in CELLS}


CELLS = ("fp32", "int8", "ternary-ef", "topk-ef", "topk", "weights-int8", "weights-ternary", "membrane-8")


def test_everything_learns(runs):
    assert runs["fp32"].accuracies[-1] > 0.88
    assert min(run.accuracies[-1] for run in runs.values()) > 0.8


@pytest.mark.parametrize("cell", ["int8", "ternary-ef", "weights-int8", "weights-ternary", "membrane-8"])
def test_quantised_training_stays_near_float(runs, cell):
    assert runs["fp32"].accuracies[-1] - runs[cell].accuracies[-1] < NOISE


def test_error_feedback_gives_back_what_topk_drops(runs):
    gained = [fed - lost for fed, lost in zip(runs["topk-ef"].accuracies, runs["topk"].accuracies, strict=True)]
    assert sum(gained) / len(gained) > 0.02, gained  # over six rounds: one alone is noisy
    assert runs["fp32"].accuracies[-1] - runs["topk-ef"].accuracies[-1] < 2 * NOISE


@pytest.mark.parametrize(("cell", "share"), [("int8", 0.26), ("ternary-ef", 0.068), ("topk-ef", 0.008)])
def test_updates_are_as_small_as_promised(runs, cell, share):
    assert runs[cell].update_bytes / runs["fp32"].update_bytes <= share


def test_intervals_and_verdicts():
    assert accuracy.interval([1.0, 3.0])[0] == 2.0
    assert accuracy.interval([1.0, 3.0])[1] == pytest.approx(12.706, abs=1e-3)  # Student's t, one degree of freedom
    assert accuracy.verdict((-0.2, 0.1), 0.5) == "within 0.5"
    assert accuracy.verdict((-0.4, 0.3), 0.5) == "mean within 0.5, interval not"
    assert accuracy.verdict((-0.6, 0.1), 0.5) == "NOT within 0.5"


def test_runs_of_a_file_are_not_made_again(tmp_path, monkeypatch, capsys):
    made = []

    def train(dataset, cell, seed, rounds):
        made.append(cell)
        return accuracy.Run(
            dataset=dataset, cell=cell, seed=seed, rounds=rounds, accuracies=(0.5,), update_bytes=8.0, seconds=1.0
        )

    monkeypatch.setattr(accuracy, "train", train)
    words = ["accuracy", "fp32", "int8", "--datasets", "mnist5k", "--seeds", "2", "--out", str(tmp_path / "a.jsonl")]
    monkeypatch.setattr("sys.argv", words)
    accuracy.main()
    accuracy.main()
    assert made == ["fp32", "int8"] * 2
    assert "difference +0.00 ± 0.00" in capsys.readouterr().out


def test_recorded_runs_hold_what_the_benchmark_says_of_them():
    lines = (Path(accuracy.__file__).parent / "accuracy.jsonl").read_bytes().splitlines()
    runs = [msgspec.json.decode(text, type=accuracy.Run) for text in lines]
    assert len({(run.dataset, run.cell, run.seed, run.rounds) for run in runs}) == len(runs)
    broken = set()
    for dataset in ("mnist", "mnist5k"):
        finals = {(r.cell, r.seed): 100 * r.accuracies[-1] for r in runs if r.dataset == dataset and r.rounds == 30}
        for cell in (name for name, made in accuracy.CELLS.items() if made.bound is not None):
            differences = [finals[cell, seed] - finals["fp32", seed] for seed in range(1, 6)]
            if accuracy.interval(differences)[0] < -accuracy.CELLS[cell].bound:
                broken.add((dataset, cell))
    assert broken == {("mnist5k", "topk-ef")}
