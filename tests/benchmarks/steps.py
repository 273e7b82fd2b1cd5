"""One training step: the boards' engine against snntorch's loop, our torch engine and spikingjelly's multi-step mode.

python -m tests.benchmarks.steps [CELL ...] [--repeats N] [--profile]

Medians over interleaved turns in one run on one thread, and the median of each turn's ratio. A turn is several steps in
a row after one that is not timed, as in a device's local training: what the others leave in the caches is not counted
(it doubles the time of the smallest graphs). Times are processor seconds of the thread, which other work on the machine
disturbs less than the wall clock. All take the same frames and end with the gradients in hand. Graph, torch engine and
snntorch have the same parameters; spikingjelly's network has layers of the same sizes, parameters of its own draw and a
spiking readout, since it has none without reset.

`--profile` adds what the graph's matrix products take, alone in a session, in the same clock and in turn with the whole
graph, and numpy's rate for one product of 1024 x 1024 matrices as the machine's limit; then what each operator takes,
which only the wall clock tells (the least of its turns). spikingjelly is left out, with a line that says so, where it
is not installed.
"""

from __future__ import annotations

import argparse
import collections
import importlib.util
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from msgspec import Struct
from torch import nn
from torch.nn.functional import cross_entropy

from contract.models.layout import layers
from contract.models.reference import SteppingNetwork
from contract.task import EncodingSpec, ModelSpec, TaskSpec
from edge_client.engines.onnx import OnnxEngine
from edge_client.engines.torch import TorchEngine
from server.export import training_graph
from server.graphs.builder import FLOAT, Graph
from server.graphs.checking import Batch, session
from tests.benchmarks.gradients import CLASSES, SHAPE, random_batch

FC, CONV = ModelSpec(weight_bits=None), ModelSpec(kind="conv", hidden=(), weight_bits=None)
CONV_5_3 = ModelSpec(kind="conv", hidden=(), kernel=(5, 3), weight_bits=None)
CELLS = {
    "fc-rate-T10-B1": (FC, "rate", 10, 1),
    "fc-rate-T25-B1": (FC, "rate", 25, 1),
    "fc-rate-T100-B1": (FC, "rate", 100, 1),
    "fc-rate-T10-B16": (FC, "rate", 10, 16),
    "fc-rate-T25-B32": (FC, "rate", 25, 32),
    "fc-direct-T25-B32": (FC, "direct", 25, 32),
    "conv-rate-T10-B1": (CONV, "rate", 10, 1),
    "conv-rate-T10-B16": (CONV, "rate", 10, 16),
    "conv-direct-T10-B16": (CONV, "direct", 10, 16),
    "conv53-rate-T10-B1": (CONV_5_3, "rate", 10, 1),
    "conv53-rate-T10-B16": (CONV_5_3, "rate", 10, 16),
}
Work = Callable[[], object]
TOGETHER = 5
SQUARE = 1024
"""Side of the matrices that show the machine's limit."""


def task_of(name: str) -> tuple[TaskSpec, int]:
    """A cell's task and batch size."""
    model, kind, T, B = CELLS[name]
    return TaskSpec(model=model, encoding=EncodingSpec(kind=kind, steps=T)), B


def turns(works: dict[str, Work], repeats: int) -> dict[str, list[float]]:
    """Milliseconds of one step of each, from `TOGETHER` steps in a row, taken in turn."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            work()
            began = time.thread_time()
            for _ in range(TOGETHER):
                work()
            taken[name].append(1e3 * (time.thread_time() - began) / TOGETHER)
    return taken


def peers(task: TaskSpec, batch: Batch) -> dict[str, Work]:
    """What is timed, by name; the graph first."""
    graph = OnnxEngine(task, SHAPE, CLASSES, {"training": training_graph(task, SHAPE, CLASSES)})
    engine = TorchEngine(task, SHAPE, CLASSES)
    frames = torch.from_numpy(batch.frames)
    frames = frames.expand(task.encoding.steps, *frames.shape[1:]).contiguous()
    labels = torch.from_numpy(batch.labels)
    loop = SteppingNetwork(task, SHAPE, CLASSES)
    loop.load_state_dict({name: torch.from_numpy(value) for name, value in batch.params.items()}, strict=False)

    def gradients(network: nn.Module) -> object:
        return torch.autograd.grad(cross_entropy(network(frames), labels), list(network.parameters()))

    found: dict[str, Work] = {
        "graph": lambda: graph.gradients(batch.params, batch.frames, batch.labels),
        "torch engine": lambda: engine.gradients(batch.params, batch.frames, batch.labels),
        "snntorch": lambda: gradients(loop),
    }
    if importlib.util.find_spec("spikingjelly") is not None:
        multi = multi_step(task)
        found["spikingjelly"] = lambda: gradients(multi)
    return found


def multi_step(task: TaskSpec) -> nn.Module:
    """The same layers in spikingjelly's multi-step mode, on its torch backend; it has no resetting-free readout."""
    from spikingjelly.activation_based import functional, layer, neuron, surrogate

    def leaky() -> nn.Module:
        # charge v + (x - v)/tau with decay_input off is x + (1 - 1/tau) v: beta = 0.9 is tau = 10
        return neuron.LIFNode(tau=10.0, decay_input=False, v_reset=None, surrogate_function=surrogate.ATan())

    parts: list[nn.Module] = []
    channels, side = SHAPE[0], SHAPE[1]
    convolutions = [spec for spec in layers(task, SHAPE, CLASSES) if spec.kind == "conv"]
    for spec in convolutions:
        out = spec.outputs[0]
        parts += [layer.Conv2d(channels, out, spec.kernel, stride=spec.stride, padding=spec.padding), leaky()]
        channels, side = out, (side + 1) // 2
    parts.append(layer.Flatten())
    width = channels * side * side
    for out in task.model.hidden:
        parts += [layer.Linear(width, out), leaky()]
        width = out
    network = nn.Sequential(*parts, layer.Linear(width, CLASSES), leaky())
    functional.set_step_mode(network, "m")

    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, frames: torch.Tensor) -> torch.Tensor:
            functional.reset_net(self.network)
            return self.network(frames).mean(0)

    return Mean()


class Product(Struct, frozen=True, kw_only=True):
    """Shapes of a matrix product, one or both of whose factors may be transposed."""

    left: tuple[int, ...]
    right: tuple[int, ...]
    out: tuple[int, ...]

    @property
    def transposed(self) -> tuple[bool, bool]:
        """Whether the left and the right factor are."""
        return self.left[-2] != self.out[-2], self.right[-1] != self.out[-1]

    @property
    def operations(self) -> int:
        """Multiplications and additions."""
        return 2 * math.prod(self.out) * (self.left[-2] if self.transposed[0] else self.left[-1])


def operators(task: TaskSpec, batch: Batch, repeats: int) -> tuple[dict[str, float], list[Product]]:
    """Milliseconds of each kind of operator in the graph, and its matrix products."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "graph")
        opened = onnxruntime.InferenceSession(training_graph(task, SHAPE, CLASSES), options)
        for _ in range(repeats):
            opened.run(None, batch.feed())
        events = json.loads(Path(opened.end_profiling()).read_text())
    nodes: dict[str, list[dict[str, Any]]] = collections.defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            nodes[event["name"]].append(event)
    totals: dict[str, float] = collections.defaultdict(float)
    products: list[Product] = []
    for found in nodes.values():
        if len(found) != repeats:  # nodes in a loop's body run more often, and count as the loop
            continue
        about = found[0]["args"]
        totals[about["op_name"]] += min(event["dur"] for event in found) / 1e3
        if about["op_name"] in {"Gemm", "MatMul", "FusedMatMul"}:
            shapes = [tuple(*entry.values()) for entry in (*about["input_type_shape"][:2], *about["output_type_shape"])]
            products.append(Product(left=shapes[0], right=shapes[1], out=shapes[2]))
    return totals, products


def alone(products: list[Product]) -> Work:
    """Nothing but these products, as a graph of their own."""
    graph, feed = Graph(), {}
    rng = np.random.default_rng(1)
    for i, product in enumerate(products):
        factors: list[str] = []
        for side, shape, turned in zip("ab", (product.left, product.right), product.transposed, strict=True):
            factor = graph.input(f"{side}{i}", FLOAT, shape)
            feed[factor] = rng.random(shape, dtype=np.float32)
            turn = [*range(len(shape) - 2), len(shape) - 1, len(shape) - 2]
            factors.append(graph.node("Transpose", factor, perm=turn) if turned else factor)
        graph.output(f"c{i}", graph.node("MatMul", *factors), FLOAT, product.out)
    opened = session(graph.model("products").SerializeToString())
    return lambda: opened.run(None, feed)


def profile(task: TaskSpec, batch: Batch, repeats: int) -> None:
    """Prints what matrix products take of the graph's time, how near they are to the machine's limit, and the rest."""
    totals, products = operators(task, batch, repeats)
    square = np.ones((SQUARE, SQUARE), np.float32)
    whole = session(training_graph(task, SHAPE, CLASSES))
    works: dict[str, Work] = {
        "graph": lambda: whole.run(None, batch.feed()),
        "products": alone(products),
        "limit": lambda: square @ square,
    }
    taken = {name: statistics.median(times) for name, times in turns(works, repeats).items()}
    operations = sum(product.operations for product in products)
    rate, limit = operations / taken["products"] / 1e6, 2 * SQUARE**3 / taken["limit"] / 1e6
    share = taken["products"] / taken["graph"]
    print(
        f"    {len(products)} products alone: {taken['products']:.3f} of {taken['graph']:.3f} ms, {share:.0%} of the "
        f"step; {rate:.0f} GFLOP/s, {rate / limit:.0%} of the machine's {limit:.0f}; "
        f"at that limit {operations / limit / 1e6:.3f} ms"
    )
    everything = sum(totals.values())
    for operator, spent in sorted(totals.items(), key=lambda pair: -pair[1])[:8]:
        body = " with its body" * (operator == "Scan")
        print(f"    {operator:14} {spent:7.3f} ms {spent / everything:6.1%}{body}")


def main() -> None:
    """Runs the cells that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", nargs="*", help=f"of {', '.join(CELLS)}; all when none is given")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--profile", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if importlib.util.find_spec("spikingjelly") is None:
        print("spikingjelly is not installed and left out: pip install --no-deps spikingjelly")
    for name in asked.cells or CELLS:
        task, size = task_of(name)
        batch = random_batch(task, size, 1)
        taken = turns(peers(task, batch), asked.repeats)
        print(f"{name:18} graph {statistics.median(taken['graph']):7.3f} ms", end="")
        for peer, times in taken.items():
            if peer != "graph":
                ratio = statistics.median(a / b for a, b in zip(times, taken["graph"], strict=True))
                print(f", {peer} {statistics.median(times):7.2f} ms {ratio:5.1f}x", end="")
        print(flush=True)
        if asked.profile:
            profile(task, batch, asked.repeats)


if __name__ == "__main__":
    main()
