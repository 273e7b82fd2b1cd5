"""Images behind convolutions: medians over seeds with bootstrap intervals, one line a cell.

python -m tests.benchmarks.conv [CELL ...] [--seeds N]

One convolution: `conv_codebook` on untrained networks of 12 channels, the first layer's gain three times the default.
Two convolutions: `layer_inversion` on trained networks, beside gradient matching on the same updates, each with the
same budget of processor time.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from attack.methods import METHODS
from attack.threat import Observation
from contract.metrics import psnr
from contract.models.layout import initial_parameters
from tests.benchmarks.images import draw, interval
from tests.science.image_updates import observe, task_of
from tests.trained_networks import trained

Row = dict[str, float]
MATCHING = ("cosine", "dlg", "dlg_faint")
BUDGET_S = 40.0


def attacked(name: str, observation: Observation, x: NDArray[np.float32], budget_s: float, seed: int) -> Row:
    """One method's PSNR, 0 where it gives no image, and its processor seconds."""
    began = time.process_time()
    finding = METHODS[name].run(observation, budget_s, np.random.default_rng(seed))
    db = 0.0 if finding.images is None else psnr(finding.images[:1], x)
    return {f"{name}_db": db, f"{name}_s": time.process_time() - began}


def one_convolution(steps: int, readout: str, stride: int = 1) -> Callable[[int], Row]:
    """A cell of the codebook attack."""

    def cell(seed: int) -> Row:
        x, y = draw("mnist5k", 1, seed)
        options = {"kind": "conv", "channels": (12,), "hidden": (), "stride": stride, "readout": readout}
        task = task_of(steps=steps, seed=seed, **options)
        parameters = dict(initial_parameters(task, x.shape[1:], 10))
        parameters["layers.0.weight"] = 3 * parameters["layers.0.weight"]
        observation, _ = observe(task, x, y, parameters=parameters, seed=seed)
        return attacked("conv_codebook", observation, x, BUDGET_S, seed)

    return cell


def two_convolutions(channels: tuple[int, ...], *, stride: int, training: int, steps: int = 10) -> Callable[[int], Row]:
    """A cell of layer inversion beside gradient matching; each seed trains a network of its own."""

    def cell(seed: int) -> Row:
        task = task_of(kind="conv", channels=channels, hidden=(), stride=stride, steps=steps, seed=seed)
        network = trained(task, steps=training)
        k = int(np.random.default_rng(1000 + seed).integers(len(network.x)))
        x, y = network.x[k : k + 1], network.y[k : k + 1]
        observation, _ = observe(task, x, y, parameters=network.parameters, seed=seed)
        row = {"accuracy": network.accuracy}
        for name in ("layer_inversion", *MATCHING):
            row |= attacked(name, observation, x, BUDGET_S, seed)
        row["margin_db"] = row["layer_inversion_db"] - max(row[f"{name}_db"] for name in MATCHING)
        return row

    return cell


CELLS: dict[str, Callable[[int], Row]] = {
    **{f"one-{r}-T{steps}": one_convolution(steps, r) for r in ("membrane", "spike") for steps in (5, 10, 25)},
    **{f"one-membrane-T{steps}-stride2": one_convolution(steps, "membrane", 2) for steps in (5, 10, 25)},
    "two-T10-stride2": two_convolutions((8, 16), stride=2, training=200),
    "two-T10-stride1": two_convolutions((6, 8), stride=1, training=200),
}


def main() -> None:
    """Runs the named cells, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", nargs="*", metavar="CELL", help=", ".join(CELLS))
    parser.add_argument("--seeds", type=int, default=10)
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.cells) - set(CELLS))
    if unknown:
        parser.error(f"no cell {unknown[0]!r}: choose from {', '.join(CELLS)}")
    torch.set_num_threads(1)
    for name in arguments.cells or CELLS:
        rows = [CELLS[name](seed) for seed in range(arguments.seeds)]
        print(name, f"n={len(rows)}", end="")
        for key in rows[0]:
            values = np.array([row[key] for row in rows])
            low, high = interval(values)
            print(f"  {key} {np.median(values):.3g} [{low:.3g}, {high:.3g}]", end="")
        print(flush=True)


if __name__ == "__main__":
    main()
