"""Spike frames out of int8 updates of one rate-coded sample: shares over seeds with bootstrap intervals.

python -m tests.benchmarks.quantized [CELL ...] [--seeds N] [--budget SECONDS] [--short]

A cell is a surrogate, T, and the training steps before the update: `atan-T8`, `fast_sigmoid-T12-trained100`.
`false` counts updates that were called recovered or certified with a frame that is wrong.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch

from attack.ladder import attempt
from attack.methods.quantized_alternation import QuantizedAlternation
from contract.datasets import load
from contract.models.layout import initial_parameters
from tests.benchmarks.images import interval
from tests.frame_updates import trained
from tests.science.image_updates import observe, task_of

CELLS = tuple(
    f"{surrogate}-T{steps}{state}"
    for steps in (8, 12)
    for surrogate in ("atan", "fast_sigmoid")
    for state in ("", "-trained100")
)


def trial(cell: str, seed: int, budget_s: float) -> dict[str, Any]:
    """One update, attacked through the ladder's door, so that certificates count."""
    surrogate, steps, *rest = cell.split("-")
    updates = int(rest[0].removeprefix("trained")) if rest else 0
    task = task_of(encoding="rate", surrogate=surrogate, steps=int(steps.removeprefix("T")), seed=seed + 1)
    data, rng = load("mnist5k"), np.random.default_rng([seed, 23])
    chosen = rng.choice(len(data.x), 1)
    start = dict(initial_parameters(task, data.x.shape[1:], 10))
    start = trained(task, start, updates, rng) if updates else start
    observation, frames = observe(task, data.x[chosen], data.y[chosen], codec="int8", parameters=start, seed=seed)
    began = time.process_time()
    finding = attempt(QuantizedAlternation(), observation, budget_s)
    true = frames[:, 0].reshape(len(frames), -1)
    found = np.full_like(true, -1) if finding.frames is None else finding.frames[0].reshape(true.shape)
    kept = {frame.tobytes() for frame in found}
    in_order = float((found == true).all(1).mean())
    return {
        "frames": float(np.mean([frame.tobytes() in kept for frame in true])),
        "in_order": in_order,
        "certified": float(finding.verdict == "exact"),
        "false": float(finding.verdict in {"exact", "recovered"} and in_order < 1),
        "process_s": time.process_time() - began,
    }


def line(rows: list[dict[str, Any]]) -> str:
    """Means of the shares and the median of the time, with intervals."""
    parts = [f"n={len(rows)}"]
    for name in ("frames", "in_order", "process_s"):
        values = np.array([row[name] for row in rows])
        statistic = np.median if name == "process_s" else np.mean
        low, high = interval(values, statistic)
        parts.append(f"{name} {statistic(values):.3f} [{low:.3f}, {high:.3f}]")
    parts += [f"{name} {sum(row[name] for row in rows):.0f}" for name in ("certified", "false")]
    return "  ".join(parts)


def main() -> None:
    """Runs the named cells, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", nargs="*", default=CELLS)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--budget", type=float, default=20.0)
    parser.add_argument("--short", action="store_true", help="T=8 of an untrained network, two seeds: for CI")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    cells, seeds = (("atan-T8", "fast_sigmoid-T8"), 2) if asked.short else (asked.cells, asked.seeds)
    for cell in cells:
        print(f"{cell:26} {line([trial(cell, seed, asked.budget) for seed in range(seeds)])}", flush=True)


if __name__ == "__main__":
    main()
