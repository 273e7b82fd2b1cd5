"""Operation counts of the devices' engine against the NeuroBench package, on the same networks, weights and frames.

`python -m tests.benchmarks.neurobench_counts`. It wants NeuroBench 2.x (Yik et al. 2025, arXiv 2304.04640), of which
only the metrics are used: `pip install --no-deps neurobench`. As a dependency of the tests it would bring numba, tonic
and torchaudio; `tests/unit/test_contract_operations.py` holds the counts against its definition instead.

NeuroBench hooks the layers of snntorch's network, stepped in Python with a direct-coded first layer evaluated once;
the counts of this project come from what the ONNX graph of the task emits. Every figure must be equal.
"""

from __future__ import annotations

import importlib.metadata
import sys

import numpy as np
import torch
from neurobench.metrics.workload import SynapticOperations
from neurobench.models import TorchModel

from contract.datasets import load
from contract.encodings import encode
from contract.models.layout import initial_parameters
from contract.models.operations import OperationCounter
from contract.models.reference import SteppingNetwork
from contract.task import EncodingSpec, ModelSpec, TaskSpec
from edge_client.engines.onnx import OnnxEngine
from server.export import training_graph

BATCH, GAIN = 8, 3
"""Samples, and a factor on the initial weights: enough for hidden layers to spike."""


def task_of(kind: str, encoding: str, steps: int, family: str = "snn", **model: object) -> TaskSpec:
    """A task with float weights: of weights that are exactly 0 NeuroBench counts no product."""
    return TaskSpec(
        encoding=EncodingSpec(kind=encoding, steps=steps),
        model=ModelSpec(kind=kind, family=family, weight_bits=None, activation="relu", **model),
    )


CASES: dict[str, TaskSpec] = {
    "FC 784-256-10, rate, T=10": task_of("fc", "rate", 10),
    "FC 784-128-64-10, direct, T=8": task_of("fc", "direct", 8, hidden=(128, 64)),
    "conv 8-16 stride 2, rate, T=6": task_of("conv", "rate", 6, hidden=()),
    "conv 6-12 stride 1 and FC 32, direct, T=5": task_of(
        "conv", "direct", 5, channels=(6, 12), kernel=3, stride=1, hidden=(32,)
    ),
    "ANN conv 8-16 and FC 32, rectifiers": task_of("conv", "direct", 1, "ann", hidden=(32,)),
}


class Hooked(SteppingNetwork):
    """snntorch's network, its layers called as modules, so that hooks see what enters them."""

    def _affine(self, index: int, _weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        if index == 0 and self.task.encoding.kind == "direct":
            if not hasattr(self, "current"):
                self.current = self.layers[0](self._shaped(0, x))
            return self.current
        return self.layers[index](self._shaped(index, x))

    def _shaped(self, index: int, x: torch.Tensor) -> torch.Tensor:
        return x if isinstance(self.layers[index], torch.nn.Conv2d) else x.flatten(1)


def by_neurobench(task: TaskSpec, shape: tuple[int, ...], frames: np.ndarray, params: dict[str, np.ndarray]) -> dict:
    """Effective_MACs, Effective_ACs and Dense of one sample, mean over the batch."""
    network = Hooked(task, shape, 10)
    network.load_state_dict({name: torch.from_numpy(value) for name, value in params.items()}, strict=False)
    model, metric = TorchModel(network), SynapticOperations()
    model.register_hooks()
    with torch.no_grad():
        logits = model(torch.from_numpy(frames))
        found = metric(model, logits, (torch.empty(frames.shape[1]),))
    model.cleanup_hooks()
    return found


def by_counter(task: TaskSpec, shape: tuple[int, ...], frames: np.ndarray, params: dict[str, np.ndarray]) -> dict:
    """The same from this project's counter."""
    engine = OnnxEngine(task, shape, 10, {"training": training_graph(task, shape, 10)})
    counter = OperationCounter(task, shape, 10)
    counter.give(frames)
    engine.gradients(params, frames, np.zeros(frames.shape[1], np.int64))
    counter.add(*engine.emitted())
    found = counter.total()
    names = {"Effective_MACs": "effective_macs", "Effective_ACs": "acs", "Dense": "dense_macs"}
    return {theirs: getattr(found, ours) / frames.shape[1] for theirs, ours in names.items()}


def main() -> int:
    """Prints both counts of every case; how many cases differ."""
    print(f"NeuroBench {importlib.metadata.version('neurobench')}, a batch of {BATCH} digits, operations a sample")
    x, differing = load("mnist5k").x[:: 5000 // BATCH][:BATCH], 0
    shape = x.shape[1:]
    for name, task in CASES.items():
        frames = encode(task.encoding, x, np.random.default_rng(1))
        params = {key: GAIN * value for key, value in initial_parameters(task, shape, 10).items()}
        theirs, ours = by_neurobench(task, shape, frames, params), by_counter(task, shape, frames, params)
        differing += theirs != ours
        figures = ", ".join(f"{key} {theirs[key]:.3f} / {ours[key]:.3f}" for key in theirs)
        print(f"{name}: {figures}: {'equal' if theirs == ours else 'DIFFERENT'}")
    return differing


if __name__ == "__main__":
    sys.exit(main())
