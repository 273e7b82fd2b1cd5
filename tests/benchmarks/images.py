"""Images out of batches: medians over seeds with bootstrap intervals, one line a cell.

python -m tests.benchmarks.images [CELL ...] [--seeds N] [--short]
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import FastICA
from sklearn.exceptions import ConvergenceWarning

from attack.images.row_space import row_space
from attack.method import Finding
from attack.methods.conv_codebook import ConvCodebook
from attack.methods.image_lp import ImageLp
from attack.methods.quantized_alternation import QuantizedAlternation
from attack.methods.span_consistency import SpanConsistency
from contract.datasets import load
from contract.metrics import psnr_matrix
from contract.models.layout import initial_parameters
from tests.benchmarks import silhouettes
from tests.science.image_updates import observe, task_of

Row = dict[str, float]


def draw(dataset: str, count: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Distinct samples of a data set, or `silhouettes`."""
    if dataset == "silhouettes":
        return silhouettes.silhouettes(count, 1000 + seed)
    data = load(dataset)
    chosen = np.random.default_rng(1000 + seed).choice(len(data.x), count, replace=False)
    return data.x[chosen], data.y[chosen]


def scored(finding: Finding, x: NDArray[np.float32], wall_s: float, process_s: float) -> Row:
    """Share of bitwise equal images, the median of each sample's best PSNR, and certificates that lie."""
    truth = x.reshape(len(x), -1)
    found = truth[:0] if finding.images is None else finding.images.reshape(len(finding.images), -1)
    matrix = psnr_matrix(found, truth) if len(found) else np.zeros((1, len(x)))
    exact = float((matrix.max(0) >= 150).mean())
    return {
        "exact": exact,
        "median_db": float(np.median(matrix.max(0))),
        "worst_db": float(matrix.max(0).min()),
        "false_certificates": float(finding.verdict == "exact" and exact < 1),
        "wall_s": wall_s,
        "process_s": process_s,
    }


def image_lp(batch: int, *, dataset: str = "mnist5k", **options: object) -> Callable[[int], Row]:
    """A cell of the cone attack."""

    def cell(seed: int) -> Row:
        x, y = draw(dataset, batch, seed)
        observation, _ = observe(task_of(seed=seed), x, y, seed=seed, **options)
        wall, process = time.monotonic(), time.process_time()
        finding = ImageLp().run(observation, 60.0, np.random.default_rng(seed))
        return scored(finding, x, time.monotonic() - wall, time.process_time() - process)

    return cell


def spans(batch: int, *, dataset: str = "faces", **options: object) -> Callable[[int], Row]:
    """A cell of the span attack on dense images."""

    def cell(seed: int) -> Row:
        x, y = draw(dataset, batch, seed)
        task = task_of(dataset=dataset, seed=seed, **options)
        observation, _ = observe(task, x, y, classes=2 if dataset == "faces" else 10, seed=seed)
        wall, process = time.monotonic(), time.process_time()
        finding = SpanConsistency().run(observation, 60.0, np.random.default_rng(seed))
        return scored(finding, x, time.monotonic() - wall, time.process_time() - process)

    return cell


def components(batch: int, *, dataset: str = "faces") -> Callable[[int], Row]:
    """The best published idea for dense images: they are the independent components of the gradient's row space.

    CPA (Kariyappa et al. 2023, arXiv 2209.05578) by FastICA over pixels; the bias gradient, whose entry is 1 in every
    sample, gives each component its sign and scale.
    """

    def cell(seed: int) -> Row:
        x, y = draw(dataset, batch, seed)
        observation, _ = observe(task_of(dataset=dataset, seed=seed), x, y, classes=2, seed=seed)
        wall, process = time.monotonic(), time.process_time()
        layer = observation.first_layer
        assert layer.bias is not None
        space = row_space(np.column_stack([layer.weight, layer.bias]), batch)
        basis = space.expand(space.basis)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            unmixing = (
                FastICA(whiten="unit-variance", max_iter=2000, random_state=seed).fit(basis[:, :-1].T).components_
            )
        found = unmixing @ basis
        images = np.clip(found[:, :-1] / found[:, -1:], 0.0, 1.0).astype(np.float32)
        return scored(
            Finding(verdict="partial", images=images), x, time.monotonic() - wall, time.process_time() - process
        )

    return cell


def conv(steps: int, readout: str, stride: int = 1) -> Callable[[int], Row]:
    """A cell of the codebook attack on MNIST: 12 channels, first layer's gain three times the default."""

    def cell(seed: int) -> Row:
        x, y = draw("mnist5k", 1, seed)
        options = {"kind": "conv", "channels": (12,), "hidden": (), "stride": stride, "readout": readout}
        task = task_of(steps=steps, seed=seed, **options)
        parameters = initial_parameters(task, x.shape[1:], 10)
        parameters = {**parameters, "layers.0.weight": 3 * parameters["layers.0.weight"]}
        observation, _ = observe(task, x, y, parameters=parameters, seed=seed)
        wall, process = time.monotonic(), time.process_time()
        finding = ConvCodebook().run(observation, 60.0, np.random.default_rng(seed))
        return scored(finding, x, time.monotonic() - wall, time.process_time() - process)

    return cell


def alternation(surrogate: str, steps: int) -> Callable[[int], Row]:
    """A cell of the alternation on int8 rate updates: share of exact frames."""

    def cell(seed: int) -> Row:
        x, y = draw("mnist5k", 1, seed)
        task = task_of(encoding="rate", surrogate=surrogate, steps=steps, seed=seed)
        observation, frames = observe(task, x, y, codec="int8", seed=seed)
        wall, process = time.monotonic(), time.process_time()
        finding = QuantizedAlternation().run(observation, 20.0, np.random.default_rng(seed))
        equal = finding.frames is not None and (finding.frames[0] == frames[:, 0]).reshape(steps, -1).all(1)
        return {
            "frames": float(np.mean(equal)),
            "wall_s": time.monotonic() - wall,
            "process_s": time.process_time() - process,
        }

    return cell


CELLS: dict[str, Callable[[int], Row]] = {
    "image_lp-16": image_lp(16),
    "image_lp-32": image_lp(32),
    "image_lp-64": image_lp(64),
    **{f"image_lp-silhouettes-{batch}": image_lp(batch, dataset="silhouettes") for batch in (16, 32, 64)},
    "image_lp-8-int8": image_lp(8, codec="int8"),
    "image_lp-16-int8": image_lp(16, codec="int8"),
    "image_lp-16-fp16": image_lp(16, codec="fp16"),
    "image_lp-16-fedavg4": image_lp(16, local_steps=4),
    "spans-faces-4": spans(4),
    "spans-faces-8": spans(8),
    "spans-faces-8-fast_sigmoid": spans(8, surrogate="fast_sigmoid"),
    "spans-faces-16": spans(16),
    "components-faces-4": components(4),
    "components-faces-8": components(8),
    **{f"conv-{readout}-T{steps}": conv(steps, readout) for readout in ("membrane", "spike") for steps in (5, 10, 25)},
    **{f"int8-{name}-T{steps}": alternation(name, steps) for name in ("atan", "fast_sigmoid") for steps in (8, 12)},
    "conv-membrane-T10-stride2": conv(10, "membrane", 2),
}
SHORT = ("image_lp-16", "image_lp-silhouettes-16", "image_lp-8-int8", "components-faces-4")


def interval(
    values: NDArray[np.float64], statistic: Callable[..., NDArray[np.float64]] = np.median
) -> tuple[float, float]:
    """Bootstrap interval (95 %) of a statistic over seeds."""
    draws = np.random.default_rng(0).choice(values, (2000, len(values)))
    low, high = np.percentile(statistic(draws, axis=1), [2.5, 97.5])
    return float(low), float(high)


def main() -> None:
    """Runs the named cells, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cells", nargs="*", metavar="CELL")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--short", action="store_true", help="small batches, one seed: for CI")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cells, seeds = (SHORT, 1) if arguments.short else (arguments.cells or CELLS, arguments.seeds)
    for name in cells:
        if "silhouettes" in name and silhouettes.absent():
            print(f"{name} skipped: {silhouettes.absent()}", flush=True)
            continue
        rows = [CELLS[name](seed) for seed in range(seeds)]
        print(name, f"n={len(rows)}", end="")
        for key in rows[0]:
            values = np.array([row[key] for row in rows])
            low, high = interval(values)
            print(f"  {key} {np.median(values):.3g} [{low:.3g}, {high:.3g}]", end="")
        print(flush=True)


if __name__ == "__main__":
    main()
