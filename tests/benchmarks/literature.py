"""The literature's attacks, their variants for spikes and the closed forms, on the same updates.

python -m tests.benchmarks.literature [CELL ...] [--attacks NAME ...] [--seeds N] [--budget SECONDS]

One MNIST digit, 784-256-10, the label unknown to the attacker, float32 updates. A cell is `ann-sigmoid`, `ann-relu`,
`snn-atan`, `snn-fast_sigmoid`, `snn-ste` (direct coding, T = 10) or `rate-atan` (T = 8, the PSNR is the image's, at
best that of the spikes' own rate); `-trained` adds 100 steps of Adam on batches of 64. In the literature's words DLG is
`dlg_joint`, iDLG `dlg`, IG `cosine`, GRNN `grnn`. Iterations are the attacks' own: DLG 600 × 4 restarts, IG 400, GRNN
1,000, Gauss-Newton 60 × 4 restarts of 20 conjugate-gradient steps at most, within `--budget` processor seconds.

A cell's line gives the median PSNR with its bootstrap interval (95 %). An attack that ends without an image, or with
one that is not finite, counts as 0 dB, and how often is said.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from numpy.typing import NDArray

from attack.ladder import attempt
from attack.method import Method
from attack.methods import KNOWN
from attack.threat import Observation
from contract.datasets import load
from contract.metrics import psnr
from contract.models.layout import initial_parameters
from contract.task import TaskSpec
from tests.benchmarks.images import interval
from tests.frame_updates import trained
from tests.science.image_updates import observe, task_of

NETWORKS: dict[str, dict[str, object]] = {
    "ann-sigmoid": {"family": "ann", "activation": "sigmoid"},
    "ann-relu": {"family": "ann", "activation": "relu"},
    "snn-atan": {"surrogate": "atan"},
    "snn-fast_sigmoid": {"surrogate": "fast_sigmoid"},
    "snn-ste": {"surrogate": "ste"},
    "rate-atan": {"encoding": "rate", "steps": 8},
}
CELLS = (*NETWORKS, *(f"{name}-trained" for name in NETWORKS if not name.startswith("rate")))
CLOSED = {"direct": "ratio", "rate": "row_space_enumeration"}
ATTACKS = ("dlg_joint", "dlg", "dlg_faint", "cosine", "grnn", "gauss_newton")
SPIKES = ("cosine_common_rate", "cosine_straight_through")


def update(task: TaskSpec, seed: int, *, steps: int) -> tuple[Observation, NDArray[np.float32]]:
    """One sample's update and its image, on a network trained for so many steps."""
    data, rng = load(task.dataset), np.random.default_rng([seed, 5])
    chosen = rng.integers(0, len(data.x), 1)
    parameters = dict(initial_parameters(task, data.info.shape, data.info.classes))
    parameters = trained(task, parameters, steps, rng) if steps else parameters
    x = np.array(data.x[chosen])
    observation, _ = observe(task, x, np.array(data.y[chosen]), parameters=parameters, seed=seed)
    return observation, x[0]


def trial(method: Method, observation: Observation, image: NDArray[np.float32], budget_s: float) -> tuple[float, float]:
    """PSNR of what the attack found, 0 dB for nothing, and its processor seconds."""
    began = time.process_time()
    finding = attempt(method, observation, budget_s)
    spent = time.process_time() - began
    return 0.0 if finding.images is None else psnr(finding.images[0], image), spent


def cell(name: str, attacks: tuple[str, ...], *, seeds: int, budget_s: float) -> None:
    """Prints one line per attack."""
    network, steps = name.removesuffix("-trained"), 100 if name.endswith("-trained") else 0
    rows: dict[str, list[tuple[float, float]]] = {attack: [] for attack in attacks}
    for seed in range(seeds):
        observation, image = update(task_of(seed=seed + 1, **NETWORKS[network]), seed, steps=steps)
        for attack in attacks:
            rows[attack].append(trial(KNOWN[attack], observation, image, budget_s))
    for attack, found in rows.items():
        db, spent = (np.array(column) for column in zip(*found, strict=True))
        low, high = interval(db)
        print(
            f"{name:24} {attack:24} n={seeds} {np.median(db):6.1f} dB [{low:.1f}, {high:.1f}], "
            f"{int((db == 0).sum())} without an image, {np.median(spent):.2f} s",
            flush=True,
        )


def main(arguments: list[str] | None = None) -> None:
    """Runs the named cells, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", nargs="*", default=CELLS, metavar="CELL", help=", ".join(CELLS))
    parser.add_argument("--attacks", nargs="+", choices=tuple(KNOWN), metavar="NAME")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--budget", type=float, default=4.0)
    asked = parser.parse_args(arguments)
    unknown = sorted(set(asked.cells) - set(CELLS))
    if unknown:
        parser.error(f"unknown cell {unknown[0]!r}; known are {', '.join(CELLS)}")
    torch.set_num_threads(1)
    for name in asked.cells:
        kind = "rate" if name.startswith("rate") else "direct"
        default = (CLOSED[kind], *ATTACKS, *(SPIKES if kind == "rate" else ()))
        cell(name, tuple(asked.attacks or default), seeds=asked.seeds, budget_s=asked.budget)


if __name__ == "__main__":
    main()
