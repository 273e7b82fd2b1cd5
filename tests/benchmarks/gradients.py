"""Gradients of exported graphs against snntorch's own network, stepped in Python: one line a cell.

python -m tests.benchmarks.gradients [CELL ...] [--batches N] [--exact] [--quantized] [--float64]

A cell is named `net-surrogate-reset-T-B`; any part of a name chooses the cells that have it. Of each gradient two
errors are taken, and the greatest over tensors and batches is shown: the greatest difference over the greatest
magnitude, and the norm of the difference over the norm; the latter also of the whole gradient, all its tensors as one
vector. A batch whose spike trains (or fixed-point membranes, or sides
of a threshold at which the surrogate jumps) differ anywhere is *flipped*: counted, and not part of the errors. Where
the first error exceeds 1e-5, the same error of both sides against snntorch's network in float64 follows, of those
batches in which it fires alike: how far either is from the truth. With fast_sigmoid, of slope k = 25, they may be: its
derivative's own relative derivative is up to 2k, so a membrane rounded by 1e-7 costs 5e-6 on either side.

`--exact` takes batches on which float32 sums are exact, so that nothing may flip; `--float64` compares the layer-wise
torch network with the stepped one in double precision.
"""

from __future__ import annotations

import argparse
import collections
import itertools
from collections.abc import Callable

import numpy as np
import torch
from msgspec import Struct
from torch.nn.functional import cross_entropy

from contract.encodings import encode
from contract.models.layout import initial_parameters
from contract.models.network import Network
from contract.models.reference import SteppingNetwork
from contract.task import EncodingSpec, ModelSpec, NeuronSpec, TaskSpec
from server.graphs.assembly import training_model
from server.graphs.checking import Arrays, Batch, exact_batch, session, stepped

SHAPE, CLASSES = (1, 28, 28), 10
TOLERANCE = 1e-5
MODELS = {"fc": ModelSpec(weight_bits=None), "conv": ModelSpec(kind="conv", hidden=(), weight_bits=None)}
QUANTIZED = {
    f"{net}-w{weight}-m{membrane}": ModelSpec(
        kind=net, hidden=(256,) if net == "fc" else (), weight_bits=weight, membrane_bits=membrane
    )
    for net, weight, membrane in itertools.product(("fc", "conv"), (8, 4, 2), (None, 8, 16))
}
SURROGATES = ("atan", "fast_sigmoid", "ste", "triangular", "spike_rate_escape")


class Row(Struct, frozen=True, kw_only=True):
    """A cell's outcome.

    Attributes:
        batches: How many were compared.
        flipped: Batches with a spike or a fixed-point membrane that differs.
        elements: Spikes and membranes that differ, of all batches.
        error: Greatest error of the others; `None` when there are none.
        norm: The same by norms.
        whole: The same by norms, all tensors as one vector.
        doubles: Greatest error of the graph and of snntorch in float32 against float64, over the batches beyond
            `TOLERANCE`; `None` when there are none, or none that fires alike in float64.
    """

    batches: int
    flipped: int
    elements: int
    error: float | None
    norm: float | None
    whole: float | None
    doubles: tuple[float, float] | None


def cells(*, quantized: bool = False) -> dict[str, tuple[TaskSpec, int]]:
    """Every cell by name: its task and batch size."""
    found: dict[str, tuple[TaskSpec, int]] = {}
    models, steps, batches = (QUANTIZED, (10,), (7,)) if quantized else (MODELS, (1, 10, 50, 100), (1, 7, 32))
    for net, surrogate, reset, T, B in itertools.product(models, SURROGATES, ("subtract", "zero"), steps, batches):
        neuron = NeuronSpec(surrogate=surrogate, reset=reset)
        task = TaskSpec(model=models[net], neuron=neuron, encoding=EncodingSpec(kind="rate", steps=T))
        found[f"{net}-{surrogate}-{reset}-T{T}-B{B}"] = task, B
    return found


def random_batch(task: TaskSpec, size: int, seed: int) -> Batch:
    """Random intensities as spikes, initial parameters; of a conv net twice those, so that its second layer fires."""
    rng = np.random.default_rng(seed)
    gain = 2 if task.model.kind == "conv" else 1
    params = {name: gain * value for name, value in initial_parameters(task, SHAPE, CLASSES).items()}
    frames = encode(task.encoding, 0.6 * rng.random((size, *SHAPE), dtype=np.float32), rng)
    return Batch(params, np.ascontiguousarray(frames), rng.integers(0, CLASSES, size))


def differing(task: TaskSpec, found: Arrays, expected: Arrays) -> int:
    """Spikes, and membranes in fixed point, that differ; of triangular also silent membranes of which one is below.

    Its derivative jumps at the threshold, and a membrane that rounding puts on it, not just below, does not spike yet.
    """
    count = 0
    for name in found:
        if name.startswith("trains"):
            count += int((found[name] != expected[name]).sum())
        if not name.startswith("membranes"):
            continue
        ours, theirs, trains = found[name], expected[name], name.replace("membranes", "trains")
        if task.model.membrane_bits is not None:
            half_step = 2.0 * task.neuron.threshold / 2 ** (task.model.membrane_bits - 1)
            count += int((np.abs(ours - theirs) > half_step).sum())
        elif task.neuron.surrogate == "triangular":
            threshold, alike = np.float32(task.neuron.threshold), found[trains] == expected[trains]
            count += int((((ours < threshold) != (theirs < threshold)) & alike).sum())
    return count


def compare(task: TaskSpec, size: int, *, batches: int, exact: bool = False) -> Row:
    """Runs one cell."""
    opened = session(training_model(task, SHAPE, CLASSES, traces=True).SerializeToString())
    names = [declared.name for declared in opened.get_outputs()]
    flipped, elements = 0, 0
    errors: list[tuple[float, float, float]] = []
    doubles: list[tuple[float, float]] = []
    for seed in range(batches):
        batch = exact_batch(task, SHAPE, CLASSES, batch=size, seed=seed) if exact else random_batch(task, size, seed)
        found = dict(zip(names, opened.run(None, batch.feed()), strict=True))
        expected = stepped(task, SHAPE, CLASSES, batch)
        differs = differing(task, found, expected)
        elements += differs
        flipped += differs > 0
        if not differs:
            by_norms = furthest(found, expected, by=norm_error), norm_error(as_one(found), as_one(expected))
            errors.append((furthest(found, expected), *by_norms))
            if errors[-1][0] > TOLERANCE:
                doubles += against_double(task, batch, found, expected)
    largest, norm, whole = [max(column) for column in zip(*errors, strict=True)] or [None, None, None]
    both = tuple(max(column) for column in zip(*doubles, strict=True)) or None
    counts = {"batches": batches, "flipped": flipped, "elements": elements}
    return Row(**counts, error=largest, norm=norm, whole=whole, doubles=both)


def furthest(found: Arrays, expected: Arrays, by: Callable[..., float] | None = None) -> float:
    """Greatest error of a gradient."""
    return max((by or error)(found[name], expected[name]) for name in found if name.startswith("gradient"))


def as_one(found: Arrays) -> np.ndarray:
    """All gradients as one vector."""
    return np.concatenate([found[name].ravel() for name in sorted(found) if name.startswith("gradient")])


def against_double(task: TaskSpec, batch: Batch, found: Arrays, expected: Arrays) -> list[tuple[float, float]]:
    """Errors of graph and stepped network against the stepped one in float64; empty where that one fires otherwise."""
    network = SteppingNetwork(task, SHAPE, CLASSES, dtype=torch.float64)
    tensors = {name: torch.from_numpy(value).double() for name, value in batch.params.items()}
    network.load_state_dict(tensors, strict=False)
    trains: dict[int, list[np.ndarray]] = collections.defaultdict(list)
    for i, neuron in enumerate(network.neurons[:-1]):
        neuron.register_forward_hook(lambda _m, _x, out, i=i: trains[i].append(out[0].detach().numpy()))
    logits = network(torch.from_numpy(batch.frames).double())
    loss = cross_entropy(logits, torch.from_numpy(batch.labels))
    wanted = torch.autograd.grad(loss, list(network.parameters()))
    for i, steps in trains.items():
        if (np.stack(steps).reshape(len(steps), -1) != expected[f"trains:{i}"]).any():
            return []
    truth = {f"gradient:{n}": g.numpy() for (n, _), g in zip(network.named_parameters(), wanted, strict=True)}
    return [tuple(furthest(truth, side, by=lambda t, s: error(s, t)) for side in (found, expected))]


def error(found: np.ndarray, expected: np.ndarray) -> float:
    """Greatest difference over the greatest magnitude."""
    return float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-30))


def norm_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Norm of the difference over the norm."""
    far = np.linalg.norm(found.astype(np.float64) - expected)
    return float(far / max(np.linalg.norm(expected.astype(np.float64)), 1e-30))


def double(task: TaskSpec, size: int, seed: int) -> float:
    """Greatest error of the layer-wise torch network against the stepped one, both in float64."""
    batch = random_batch(task, size, seed)
    reference = SteppingNetwork(task, SHAPE, CLASSES, dtype=torch.float64)
    tensors = {name: torch.from_numpy(value).double() for name, value in batch.params.items()}
    reference.load_state_dict(tensors, strict=False)
    leaves = {name: value.clone().requires_grad_() for name, value in tensors.items()}
    frames, labels = torch.from_numpy(batch.frames).double(), torch.from_numpy(batch.labels)
    network = Network(task, SHAPE, CLASSES, dtype=torch.float64)
    wanted = torch.autograd.grad(cross_entropy(reference(frames), labels), list(reference.parameters()))
    got = torch.autograd.grad(cross_entropy(network(leaves, frames), labels), list(leaves.values()))
    return max(error(g.numpy(), w.numpy()) for g, w in zip(got, wanted, strict=True))


def line(name: str, row: Row) -> str:
    """A cell's outcome as it is printed."""
    shown = "none left" if row.error is None else f"{row.error:.1e}, by norms {row.norm:.1e}, whole {row.whole:.1e}"
    if row.doubles:
        shown += " (to float64: graph {:.1e}, snntorch {:.1e})".format(*row.doubles)
    return f"{name:40} error {shown}, flipped {row.flipped}/{row.batches} ({row.elements} elements)"


def main() -> None:
    """Runs the cells that were asked for, on one thread."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", nargs="*", help="part of a cell's name; all when none is given")
    parser.add_argument("--batches", type=int, default=30)
    for option in ("--exact", "--quantized", "--float64"):
        parser.add_argument(option, action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = []
    for name, (task, size) in cells(quantized=asked.quantized).items():
        if asked.cells and not any(part in name for part in asked.cells):
            continue
        if asked.float64:
            worst = max(double(task, size, seed) for seed in range(asked.batches))
            print(f"{name:40} float64 error {worst:.1e}", flush=True)
            continue
        row = compare(task, size, batches=asked.batches, exact=asked.exact)
        rows.append(row)
        print(line(name, row), flush=True)
    if rows:
        total, flipped = sum(r.batches for r in rows), sum(r.flipped for r in rows)
        print(f"all: {total} batches, {flipped} flipped ({flipped / total:.2%})")
        measures = {"largest element": "error", "norm of a tensor": "norm", "norm of the whole gradient": "whole"}
        for title, field in measures.items():
            errors = [value for row in rows if (value := getattr(row, field)) is not None]
            beyond = sum(value > TOLERANCE for value in errors)
            print(
                f"by the {title}: worst {max(errors, default=None)}, {beyond} of {len(rows)} cells beyond {TOLERANCE:g}"
            )


if __name__ == "__main__":
    main()
