"""What quantisation costs in accuracy: federated training in every cell from the same seeds, against float32.

python -m tests.benchmarks.accuracy [CELL ...] [--datasets NAME ...] [--rounds N] [--seeds N] [--out FILE]

Each seed is one start, split and set of draws; all cells of a seed share them, so that differences are paired. FILE
holds one JSON line a run and what it already holds is not run again; the runs behind the published figures lie beside
this file (`--out tests/benchmarks/accuracy.jsonl` prints them). `mnist` is read from `SPIKELEAK_DATA`.

Setting, the same for all cells: FC 784-256-10, T = 10, direct input, 10 devices (iid), FedAvg with 10 local steps of
batch 32, learning rate 0.1, momentum 0.9. Accuracy is over the held-out fifth of the data set, by the layer-wise
network: after the last round, and the mean over the last three rounds, which is less noisy.

One bound does not hold: top-k at 1 % with error feedback on mnist5k. Nothing is lost, but much arrives many rounds
late, when the model has moved on: keeping 3 % (`topk3-ef`) brings it within the bound, and without momentum, tried on
one seed, 1 % is within it too.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from scipy import stats

from contract.datasets import on_disk
from contract.task import EncodingSpec, ModelSpec, RoundPlan, TaskSpec
from server.evaluation import Evaluator
from tests.federation import Fleet

CLIENTS, STEPS, TAIL = 10, 10, 3
PLAN = RoundPlan(local_steps=10, batch_size=32, learning_rate=0.1, momentum=0.9)


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One way to quantise.

    Attributes:
        plan: What it changes in `PLAN`.
        model: What it changes in the network, whose weights are float otherwise.
        bound: Percentage points that it should stay within of `fp32`; `None` where nothing is promised.
    """

    plan: dict[str, Any] = {}
    model: dict[str, Any] = {}
    bound: float | None = None


CELLS = {
    "fp32": Cell(),
    "int8": Cell(plan={"codec": "int8"}, bound=0.5),
    "ternary-ef": Cell(plan={"codec": "ternary", "error_feedback": True}, bound=1.5),
    "topk-ef": Cell(plan={"codec": "topk", "share": 0.01, "error_feedback": True}, bound=1.5),
    "weights-int8": Cell(model={"weight_bits": 8}, bound=1.0),
    "weights-ternary": Cell(model={"weight_bits": 2}, bound=3.0),
    "int4": Cell(plan={"codec": "int4"}),
    "ternary": Cell(plan={"codec": "ternary", "error_feedback": False}),
    "topk3-ef": Cell(plan={"codec": "topk", "share": 0.03, "error_feedback": True}),
    "topk": Cell(plan={"codec": "topk", "share": 0.01, "error_feedback": False}),
    "sign-ef": Cell(plan={"codec": "sign", "error_feedback": True}),
    "weights-int4": Cell(model={"weight_bits": 4}),
    "membrane-8": Cell(model={"membrane_bits": 8}),
    "membrane-16": Cell(model={"membrane_bits": 16}),
}


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One training run.

    Attributes:
        accuracies: After each of the last rounds, as fractions; the last is the final one.
        update_bytes: Mean size of an update.
        seconds: Processor time.
    """

    dataset: str
    cell: str
    seed: int
    rounds: int
    accuracies: tuple[float, ...]
    update_bytes: float
    seconds: float


def train(dataset: str, cell: str, seed: int, rounds: int, *, clients: int = CLIENTS, tail: int = TAIL) -> Run:
    """Trains one cell from one seed."""
    how = CELLS[cell]
    model = ModelSpec(**({"weight_bits": None} | how.model))
    task = TaskSpec(dataset=dataset, encoding=EncodingSpec(steps=STEPS), model=model, seed=seed)
    plan = msgspec.structs.replace(PLAN, **how.plan)
    began = time.process_time()
    evaluate, accuracies, sizes = Evaluator(task), [], []
    for number, round_ in enumerate(Fleet(task, clients).rounds(plan, rounds, secret=seed), 1):
        sizes.append(round_.update_bytes)
        if number > rounds - tail:
            accuracies.append(evaluate(round_.parameters).accuracy)
    return Run(
        dataset=dataset,
        cell=cell,
        seed=seed,
        rounds=rounds,
        accuracies=tuple(accuracies),
        update_bytes=float(np.mean(sizes)),
        seconds=time.process_time() - began,
    )


def interval(values: list[float]) -> tuple[float, float]:
    """Mean, and half the width of Student's 95 % interval."""
    n = len(values)
    if n < 2:
        return float(np.mean(values)), float("inf")
    half = stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n)
    return float(np.mean(values)), float(half)


def line(runs: list[Run], floats: dict[int, Run]) -> str:
    """A cell's row: accuracy and paired differences in percentage points, size, verdict."""
    cell, parts = runs[0].cell, [f"{runs[0].dataset:8} {runs[0].cell:16} n={len(runs)}"]
    parts.append("{:6.2f} ± {:.2f} %".format(*interval([100 * run.accuracies[-1] for run in runs])))
    paired = [(run, floats[run.seed]) for run in runs if run.seed in floats]
    size = runs[0].update_bytes
    if cell != "fp32" and paired:
        last = interval([100 * (run.accuracies[-1] - base.accuracies[-1]) for run, base in paired])
        smooth = interval([float(100 * np.mean(np.subtract(run.accuracies, base.accuracies))) for run, base in paired])
        parts.append("difference {:+5.2f} ± {:.2f}, over the last rounds {:+5.2f} ± {:.2f}".format(*last, *smooth))
        parts.append(f"{size / paired[0][1].update_bytes:7.2%} of the bytes")
        parts.append(verdict(last, CELLS[cell].bound))
    return "  ".join(parts)


def verdict(difference: tuple[float, float], bound: float | None) -> str:
    """Whether a bound holds: of the mean, and of the whole interval."""
    if bound is None:
        return ""
    mean, half = difference
    if mean < -bound:
        return f"NOT within {bound}"
    return f"within {bound}" if mean - half >= -bound else f"mean within {bound}, interval not"


def report(runs: list[Run], rounds: int) -> None:
    """All rows, in the order of `CELLS`."""
    for dataset in sorted({run.dataset for run in runs}):
        mine = [run for run in runs if run.dataset == dataset and run.rounds == rounds]
        floats = {run.seed: run for run in mine if run.cell == "fp32"}
        for cell in CELLS:
            rows = [run for run in mine if run.cell == cell]
            if rows:
                print(line(rows, floats))


def main() -> None:
    """Runs what is not in the file yet and prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("cells", nargs="*", choices=[*CELLS, []], default=[])
    parser.add_argument("--datasets", nargs="+", default=["mnist", "mnist5k"])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs/accuracy.jsonl"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    lines = arguments.out.read_bytes().splitlines() if arguments.out.exists() else []
    runs = [msgspec.json.decode(text, type=Run) for text in lines]
    done = {(run.dataset, run.cell, run.seed, run.rounds) for run in runs}
    datasets = [name for name in arguments.datasets if name != "mnist" or on_disk(name)]
    for name in set(arguments.datasets) - set(datasets):
        print(f"{name}: not run, SPIKELEAK_DATA names no folder that holds it")
    for seed in range(1, arguments.seeds + 1):
        for dataset in datasets:
            for cell in arguments.cells or CELLS:
                if (dataset, cell, seed, arguments.rounds) not in done:
                    runs.append(train(dataset, cell, seed, arguments.rounds))
                    with arguments.out.open("ab") as file:
                        file.write(msgspec.json.encode(runs[-1]) + b"\n")
    report(runs, arguments.rounds)


if __name__ == "__main__":
    main()
