"""Frames out of rate- and event-coded batches: one line a cell, shares and processor time with bootstrap intervals.

python -m tests.benchmarks.frames [CELL ...] [--seeds N] [--budget SECONDS] [--each]

A cell is BxT with options: `8x8`, `8x8-hidden512`, `8x8-fast_sigmoid`, `8x8-trained100`, `8x8-spike`, `8x8-bits8`,
`2x4-local4` (four local steps of batch 2), `2x4-local4-momentum90` (with momentum 0.9), `1x16-zero` and `1x16-none`
(reset to zero, no reset), in any combination.
`events-4x16` takes N-MNIST from `SPIKELEAK_DATA`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from attack.frames.completion import Completion, Recovery
from attack.methods.frame_lp import LocalSteps, known_network, step_scales
from contract.datasets import load
from contract.errors import SpikeleakError
from tests.frame_updates import event_task, rate_task, rate_update

CELLS = (
    *("1x8", "1x16", "1x32", "4x8", "8x8", "4x16", "16x8", "32x4", "1x64"),
    *("8x8-hidden512", "8x8-fast_sigmoid", "8x8-trained100", "8x8-spike", "8x8-bits8"),
    *("2x4-local4", "4x4-local4", "4x8-local2"),
    *("events-1x16", "events-4x16"),
)
_PREFIXES = {
    "hidden": "hidden",
    "trained": "updates",
    "local": "local_steps",
    "bits": "weight_bits",
    "momentum": "momentum",
}
_EVENTS = "events-"
_FLAGS = {
    "fast_sigmoid": {"surrogate": "fast_sigmoid"},
    "spike": {"readout": "spike"},
    "zero": {"reset": "zero"},
    "none": {"reset": "none"},
}
_SHARES = ("frames", "order", "labels")


def options(cell: str) -> tuple[int, int, dict[str, object]]:
    """Batch size, steps and the rest of a cell's name."""
    size, *words = cell.removeprefix(_EVENTS).split("-")
    batch, steps = (int(part) for part in size.split("x"))
    found: dict[str, object] = {}
    for word in words:
        name = word.rstrip("0123456789")
        found |= _FLAGS[word] if word in _FLAGS else {_PREFIXES[name]: int(word[len(name) :])}
    return batch, steps, found


def score(recovery: Recovery, truth: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Shares of frames, of samples with their order, and of labels; spurious frames and false certificates."""
    frames = {frame.tobytes() for sample in truth for frame in sample if frame.any()}
    labels = {sample.tobytes(): int(label) for sample, label in zip(truth, y, strict=True)}
    found = {frame.tobytes() for sample in recovery.samples for frame in sample.frames if frame.any()}
    found |= {frame.tobytes() for frame in recovery.loose}
    ordered = [sample for sample in recovery.samples if sample.frames.tobytes() in labels]
    right = [sample for sample in ordered if labels[sample.frames.tobytes()] == sample.label]
    return {
        "frames": len(found & frames) / len(frames),
        "spurious": len(found - frames),
        "order": len(ordered) / len(truth),
        "labels": len(right) / len(truth),
        "false": len(recovery.samples) - len(right),
    }


def trial(cell: str, seed: int, budget_s: float) -> dict[str, float]:
    """One update, attacked."""
    batch, steps, rest = options(cell)
    how = {name: rest.pop(name) for name in ("updates", "local_steps", "momentum") if name in rest}
    if "momentum" in how:
        how["momentum"] /= 100
    task = (event_task if cell.startswith(_EVENTS) else rate_task)(steps, seed=seed + 1, **rest)
    observation, truth, y = rate_update(task, batch, seed, **how)
    completion = Completion(
        simulator=known_network(observation),
        steps=steps,
        batch=batch,
        rng=np.random.default_rng(seed),
        scales=step_scales(observation.plan),
        successor=LocalSteps(observation) if observation.plan.local_steps > 1 else None,
    )
    wall, process = time.monotonic(), time.process_time()
    gradient = observation.gradient[f"{observation.first_layer.name}.weight"]
    recovery = completion.recover(gradient, samples=observation.samples, budget_s=budget_s)
    spent = {"wall_s": time.monotonic() - wall, "process_s": time.process_time() - process}
    return score(recovery, truth, y) | spent


def absent(cell: str) -> str:
    """Why the cell's data set is not at hand; empty when it is."""
    try:
        load("nmnist" if cell.startswith(_EVENTS) else "mnist5k")
    except SpikeleakError as error:
        return str(error)
    return ""


def interval(values: list[float], statistic: Callable[..., np.ndarray]) -> tuple[float, float]:
    """Bootstrap interval (95 %) of a statistic over seeds."""
    draws = np.random.default_rng(0).choice(values, (2000, len(values)))
    low, high = np.percentile(statistic(draws, axis=1), [2.5, 97.5])
    return float(low), float(high)


def line(rows: list[dict[str, float]]) -> str:
    """Means of the shares and the median of the time, with intervals; sums of what must be 0."""
    parts = [f"n={len(rows)}"]
    for name in (*_SHARES, "process_s"):
        values = [row[name] for row in rows]
        statistic = np.median if name == "process_s" else np.mean
        low, high = interval(values, statistic)
        parts.append(f"{name} {statistic(values):.3f} [{low:.3f}, {high:.3f}]")
    parts += [f"{name} {sum(row[name] for row in rows):.0f}" for name in ("spurious", "false")]
    return "  ".join([*parts, f"longest {max(row['process_s'] for row in rows):.1f}"])


def main() -> None:
    """Runs the named cells, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cells", nargs="*", default=CELLS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budget", type=float, default=120.0)
    parser.add_argument("--each", action="store_true", help="a line for each seed too")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for cell in asked.cells:
        missing = absent(cell)
        if missing:
            print(f"{cell:18} skipped: {missing}", flush=True)
            continue
        rows = []
        for seed in range(asked.seeds):
            rows.append(trial(cell, seed, asked.budget))
            if asked.each:
                print(f"  {cell} seed {seed}", *(f"{k} {v:.3g}" for k, v in rows[-1].items()), flush=True)
        print(f"{cell:18} {line(rows)}", flush=True)


if __name__ == "__main__":
    main()
