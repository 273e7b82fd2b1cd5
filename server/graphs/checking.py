"""A graph against snntorch stepped in Python, on batches where rounding cannot flip a spike.

Parameters are small integers times a power of two with the largest one in every channel (so each is on its
quantisation grid, whose scale is a power of two), and frames are spikes or sixteenths. Every sum up to the current is
then exact whatever its order, and the neurons of `server.graphs.neurons` keep snntorch's order: membranes agree to
the bit, so a spike that differs is a fault and not bad luck.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime
import torch
from msgspec import Struct
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from contract.models.layout import layers, parameter_shapes
from contract.models.reference import SteppingNetwork
from contract.models.surrogates import surrogate
from contract.streams import stream
from contract.task import NeuronSpec, TaskSpec
from server.graphs.networks import AFFINES

Arrays = dict[str, NDArray[Any]]

LARGEST = {2: 1, 4: 7, 8: 127, None: 127}
"""Largest integer of a weight grid by its bits."""


class Batch(Struct, frozen=True, eq=False):
    """What a training graph is fed.

    Attributes:
        params: By name.
        frames: `[S, B, *shape]`.
        labels: `[B]`.
    """

    params: Arrays
    frames: NDArray[np.float32]
    labels: NDArray[np.int64]

    def feed(self) -> Arrays:
        """Inputs of the training graph by name."""
        return {"frames": self.frames, "labels": self.labels, **self.params}


def exact_batch(task: TaskSpec, shape: tuple[int, ...], classes: int, *, batch: int, seed: int) -> Batch:
    """A batch on which float32 sums are exact.

    Args:
        task: The task.
        shape: Shape of one sample.
        classes: Number of classes.
        batch: Samples.
        seed: Of the draw.
    """
    rng = stream(seed, "exact batch")
    params = {name: _exact(rng, size, task) for name, size in parameter_shapes(task, shape, classes).items()}
    steps = 1 if task.encoding.kind == "direct" else task.encoding.steps
    frames = rng.integers(0, 17, (steps, batch, *shape)) / 16
    if task.encoding.kind != "direct":
        frames = np.floor(frames + 0.5) * (rng.random(frames.shape) < 0.6)
    return Batch(params, frames.astype(np.float32), rng.integers(0, classes, batch))


def _exact(rng: np.random.Generator, size: tuple[int, ...], task: TaskSpec) -> NDArray[np.float32]:
    largest = LARGEST[task.model.weight_bits]
    integers = rng.integers(-largest, largest + 1, size)
    rows = integers.reshape(size[0], -1)
    rows[:, 0] = largest * rng.choice((-1, 1), len(rows))
    # Currents of about a threshold: the sum of n such weights has a deviation of about sqrt(n) times their scale.
    scale = 2 * task.neuron.threshold / (largest * np.sqrt(rows.shape[1]))
    return np.asarray(integers * 2.0 ** np.round(np.log2(scale)), dtype=np.float32)


class _StableSpike(torch.autograd.Function):
    """snntorch's spike with the derivative of `contract.models.surrogates`: its own sigmoid overflows in float32."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, neuron: NeuronSpec) -> Tensor:
        ctx.save_for_backward(u)
        ctx.neuron = neuron
        return (u > 0).to(u.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0] * surrogate(ctx.neuron)(ctx.saved_tensors[0]), None


def _stabilise(neuron: Any, spec: NeuronSpec) -> None:
    neuron.spike_grad = lambda u: _StableSpike.apply(u, spec)  # type: ignore[no-untyped-call]


def stepped(task: TaskSpec, shape: tuple[int, ...], classes: int, batch: Batch) -> Arrays:
    """All that a training graph with traces and an inference graph put out, from snntorch's network.

    Args:
        task: The task.
        shape: Shape of one sample.
        classes: Number of classes.
        batch: The batch.
    """
    network = SteppingNetwork(task, shape, classes)
    network.load_state_dict({name: torch.from_numpy(a.copy()) for name, a in batch.params.items()}, strict=False)
    if task.neuron.surrogate == "sigmoid" and task.model.family == "snn":
        for neuron in network.neurons:
            _stabilise(neuron, task.neuron)
    recorded: dict[str, list[Tensor]] = {}
    for i, neuron in enumerate(network.neurons[:-1]):
        neuron.register_forward_hook(_recorder(recorded, i))
    logits = network(torch.from_numpy(batch.frames))
    loss = cross_entropy(logits, torch.from_numpy(batch.labels))
    gradients = torch.autograd.grad(loss, list(network.parameters()))
    found: Arrays = {"loss": loss.detach().numpy(), "logits": logits.detach().numpy()}
    for (name, _), gradient in zip(network.named_parameters(), gradients, strict=True):
        found[f"gradient:{name}"] = gradient.numpy()
    found |= {name: torch.stack(steps).flatten(1).numpy() for name, steps in recorded.items()}
    specs = layers(task, shape, classes)
    for i, spec in enumerate(specs[:-1]):
        train = found[f"trains:{i}"].reshape(-1, len(batch.labels), math.prod(spec.outputs))
        found[f"emitted:{i}"] = _emitted(train, columns=AFFINES[spec.kind].columns)
    return found


def _emitted(train: NDArray[np.float32], *, columns: bool) -> NDArray[np.float32]:
    """What a training graph shows of a layer's `[T, B, neurons]`."""
    counts: NDArray[np.float32] = (train != 0).sum(0, dtype=np.float32)
    return (counts.T if columns else counts).reshape(1, -1)


def _recorder(recorded: dict[str, list[Tensor]], index: int) -> Any:
    def record(_module: object, _inputs: object, output: tuple[Tensor, Tensor] | Tensor) -> None:
        if isinstance(output, tuple):
            recorded.setdefault(f"membranes:{index}", []).append(output[1].detach())
            output = output[0]
        recorded.setdefault(f"trains:{index}", []).append(output.detach())

    return record


def session(blob: bytes) -> onnxruntime.InferenceSession:
    """A session on one thread, as a device has it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(blob, options, providers=["CPUExecutionProvider"])


def run(graph: bytes | onnxruntime.InferenceSession, feed: Mapping[str, NDArray[Any]]) -> Arrays:
    """All outputs of a graph, or of an open session on one, by name."""
    opened = session(graph) if isinstance(graph, bytes) else graph
    wanted = {declared.name for declared in opened.get_inputs()}
    values = opened.run(None, {name: value for name, value in feed.items() if name in wanted})
    return {declared.name: value for declared, value in zip(opened.get_outputs(), values, strict=True)}
