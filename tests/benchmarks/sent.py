"""What is left to find in what clients really send: the ladder without optimisation against codecs, clipping, FedAvg.

python -m tests.benchmarks.sent [--cases CASE ...] [--sent SENT ...] [--seeds N] [--budget SECONDS]
                                [--trained UPDATES] [--labels] [--cosine SECONDS] [--short]

One line a case and kind of update: the worst case over the attacks, that is each update's best attack by the median
over its samples of the closest reconstruction; its medians over seeds with bootstrap intervals; and the shares of spike
frames that are exact, of updates certified, and certificates that are false. With --cosine gradient matching stands
beside, at that many seconds an update.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from attack.ladder import Rung, attempt, climb
from attack.method import Finding
from attack.methods import METHODS
from attack.threat import Observation
from contract.codecs.topk import TopK
from contract.datasets import dataset_info, load
from contract.metrics import psnr_matrix
from contract.models.layout import initial_parameters
from tests.benchmarks.images import interval
from tests.frame_updates import trained
from tests.science.image_updates import observe, task_of

OPTIMISATION = frozenset({"dlg", "dlg_faint", "cosine", "grnn"})
FALSE_DB = 40.0
"""A certified image farther than this from every sample is a lie; closer ones differ by the codec's own error."""
SHORT = ("fp32", "int8", "sign", "topk-10", "noise-1e-3", "fedavg-4")

CASES: dict[str, dict[str, Any]] = {
    "direct-1": {"batch": 1},
    "direct-1-faces": {"batch": 1, "dataset": "faces", "steps": 25},
    "direct-8": {"batch": 8},
    "rate-1x8": {"batch": 1, "encoding": "rate", "steps": 8},
}
SENT: dict[str, dict[str, Any]] = {
    **{codec: {"codec": codec} for codec in ("fp32", "fp16", "int8", "int4", "ternary", "sign")},
    **{f"topk-{percent}": {"codec": TopK(share=percent / 100)} for percent in (50, 10, 1)},
    "clip": {"clip": 0.5},
    **{f"noise-1e-{n}": {"clip": 0.5, "noise": 10.0**-n} for n in (4, 3, 2)},
    **{f"fedavg-{steps}": {"local_steps": steps} for steps in (4, 16)},
    **{f"fedavg-{steps}-momentum": {"local_steps": steps, "momentum": 0.9} for steps in (4, 16)},
}
"""`noise` is per coordinate in units of the clipping norm. One local step of plain SGD is fp32's gradient."""


def update(case: str, sent: str, seed: int, *, updates: int, labels: bool) -> tuple[Observation, Any, Any, Any]:
    """An observation with the images, the labels and the frames `[N, T, n]` that made it; FedAvg: B samples a step."""
    options = dict(CASES[case])
    batch, dataset = options.pop("batch"), options.setdefault("dataset", "mnist5k")
    task = task_of(seed=seed + 1, **options)
    how = SENT[sent]
    data, rng = load(dataset), np.random.default_rng([seed, 17])
    chosen = rng.choice(len(data.x), batch * how.get("local_steps", 1), replace=False)
    classes = dataset_info(dataset).classes
    start = dict(initial_parameters(task, data.x.shape[1:], classes))
    start = trained(task, start, updates, rng) if updates else start
    x, y = data.x[chosen], data.y[chosen]
    observation, frames = observe(task, x, y, classes=classes, parameters=start, labels=labels, seed=seed, **how)
    return observation, x, y, np.moveaxis(frames, 1, 0).reshape(len(x), len(frames), -1)


def closeness(finding: Finding, x: Any) -> float:
    """Median over samples of the closest reconstruction's PSNR; 0 for none."""
    if finding.images is None:
        return 0.0
    found, truth = finding.images.reshape(len(finding.images), -1), x.reshape(len(x), -1)
    return float(np.median(psnr_matrix(found, truth).max(0)))


def exact_frames(finding: Finding, frames: Any) -> float:
    """Share of the true frames that are not empty and among those found."""
    true = {frame.tobytes() for sample in frames.astype(np.uint8) for frame in sample if frame.any()}
    if finding.frames is None:
        return 0.0
    found = finding.frames.astype(np.uint8).reshape(-1, frames.shape[-1])
    return len(true & {frame.tobytes() for frame in found}) / len(true)


def lies(rung: Rung, x: Any, y: Any, frames: Any) -> bool:
    """Whether a certificate of images or frames is false: a sample that is not among them, or another label."""
    finding = rung.finding
    if finding.verdict != "exact" or finding.images is None:
        return False
    if finding.frames is not None:
        return exact_frames(finding, frames) < 1
    found = finding.images.reshape(len(finding.images), -1)
    matrix = psnr_matrix(found, x.reshape(len(x), -1))
    wrong = len(finding.labels) == len(found) and any(
        label != y[best] for label, best in zip(finding.labels, matrix.argmax(1), strict=True)
    )
    return bool(matrix.max(0).min() < FALSE_DB or wrong)


def trial(
    case: str, sent: str, seed: int, *, budget_s: float, cosine_s: float, updates: int, labels: bool
) -> dict[str, Any]:
    """One update against the ladder."""
    observation, x, y, frames = update(case, sent, seed, updates=updates, labels=labels)
    methods = {name: method for name, method in METHODS.items() if name not in OPTIMISATION}
    rungs = climb(observation, methods, budget_s=budget_s)
    db = {rung.attack: closeness(rung.finding, x) for rung in rungs}
    best = max(db, key=lambda name: db[name])
    row: dict[str, Any] = {
        "db": db[best],
        "best": best,
        "certified": float(any(rung.finding.verdict == "exact" and rung.finding.images is not None for rung in rungs)),
        "false": sum(lies(rung, x, y, frames) for rung in rungs),
        "crashed": sum(rung.finding.reason.startswith("crashed") for rung in rungs),
        "process_s": sum(rung.seconds for rung in rungs),
    }
    if observation.encoding.kind == "rate":
        row["frames"] = max(exact_frames(rung.finding, frames) for rung in rungs)
    if cosine_s:
        row["cosine_db"] = closeness(attempt(METHODS["cosine"], observation, cosine_s), x)
    return row


def line(rows: list[dict[str, Any]]) -> str:
    """Medians with intervals, the attacks that were best, and sums of what must be 0."""
    parts = [f"n={len(rows)}"]
    measured: Mapping[str, Callable[..., Any]] = {"db": np.median, "cosine_db": np.median, "frames": np.mean}
    for name, statistic in measured.items():
        if name in rows[0]:
            values = np.array([row[name] for row in rows])
            low, high = interval(values, statistic)
            parts.append(f"{name} {statistic(values):.3g} [{low:.3g}, {high:.3g}]")
    parts.append(f"certified {np.mean([row['certified'] for row in rows]):.2f}")
    parts += [f"{name} {sum(row[name] for row in rows)}" for name in ("false", "crashed")]
    parts.append(f"process_s {np.median([row['process_s'] for row in rows]):.2f}")
    best = Counter(row["best"] for row in rows).most_common(2)
    return "  ".join([*parts, "by " + ", ".join(f"{name} {count}" for name, count in best)])


def main() -> None:
    """Runs the cells asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--sent", nargs="+", choices=SENT, default=list(SENT))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--budget", type=float, default=10.0, help="processor seconds for all attacks on one update")
    parser.add_argument("--trained", type=int, default=0, help="training steps before the update")
    parser.add_argument("--labels", action="store_true", help="the attacker knows the labels")
    parser.add_argument("--cosine", type=float, default=0.0, help="processor seconds of gradient matching beside")
    parser.add_argument("--short", action="store_true", help="direct-1 alone, few kinds, two seeds: for CI")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    cases, kinds, seeds = (["direct-1"], SHORT, 2) if asked.short else (asked.cases, asked.sent, asked.seeds)
    how = {"budget_s": asked.budget, "cosine_s": asked.cosine, "updates": asked.trained, "labels": asked.labels}
    failed = 0
    for case in cases:
        for sent in kinds:
            rows = [trial(case, sent, seed, **how) for seed in range(seeds)]
            failed += sum(row["false"] + row["crashed"] for row in rows)
            print(f"{case:14} {sent:18} {line(rows)}", flush=True)
    if failed:
        raise SystemExit(f"{failed} false certificates or crashes")


if __name__ == "__main__":
    main()
