"""Frames out of rate- and event-coded batches: one line a cell.

python -m tests.benchmarks.frames [CELL ...] [--seeds N] [--budget SECONDS]

A cell is BxT with options: `8x8`, `8x8-hidden512`, `8x8-fast_sigmoid`, `8x8-trained100`, `8x8-spike`, `8x8-bits8`,
`2x4-local4` (four local steps of batch 2), in any combination.
`events-4x16` takes N-MNIST from `SPIKELEAK_DATA`.
"""

from __future__ import annotations

import argparse
import time

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
_PREFIXES = {"hidden": "hidden", "trained": "updates", "local": "local_steps", "bits": "weight_bits"}
_EVENTS = "events-"
_FLAGS = {"fast_sigmoid": {"surrogate": "fast_sigmoid"}, "spike": {"readout": "spike"}}


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
    how = {name: rest.pop(name) for name in ("updates", "local_steps") if name in rest}
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


def main() -> None:
    """Prints medians of the times and means of the shares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cells", nargs="*", default=CELLS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budget", type=float, default=120.0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for cell in asked.cells:
        missing = absent(cell)
        if missing:
            print(f"{cell:18} skipped: {missing}", flush=True)
            continue
        rows = [trial(cell, seed, asked.budget) for seed in range(asked.seeds)]
        print(
            f"{cell:18} n={len(rows)}",
            *(f"{k} {np.mean([row[k] for row in rows]):.3f}" for k in ("frames", "order", "labels")),
            *(f"{k} {sum(row[k] for row in rows):.0f}" for k in ("spurious", "false")),
            *(f"{k} {np.median([row[k] for row in rows]):.2f}" for k in ("wall_s", "process_s")),
            f"longest {max(row['wall_s'] for row in rows):.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
