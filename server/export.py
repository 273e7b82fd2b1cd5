"""A task's training step and inference as ONNX graphs, for devices without torch; checked before they are published.

The graphs hold no parameters: those are inputs. They are written for one thread of a small processor. In
onnxruntime: `intra_op_num_threads = inter_op_num_threads = 1`, sequential execution, the default level of graph
optimisation (all; it folds the constants that keep the file small), CPU arena and memory pattern on. Parameters are
inputs, so there are no weights to pack ahead.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import onnx

from contract.task import TaskSpec
from server.graphs.assembly import inference_model, training_model

if TYPE_CHECKING:
    from contract.models.own import UserNetwork

TOLERANCE = 1e-5
"""Greatest relative error of an output that is published."""
CHECKED_SAMPLES = (1, 16)
"""Batch sizes of the check: the graphs take any."""


class GraphMismatchError(Exception):
    """An exported graph does not compute what torch computes: a fault of the exporter, or of this onnxruntime."""


class Export(msgspec.Struct, frozen=True, kw_only=True):
    """One graph that passed its check.

    Attributes:
        name: `training` or `inference`.
        blob: The ONNX file.
        sha256: Of the file, 64 hex digits.
        error: Greatest relative error of an output against snntorch's network, or the user's own, in float32.
        seconds: Export and check.
    """

    name: str
    blob: bytes
    sha256: str
    error: float
    seconds: float

    @property
    def nbytes(self) -> int:
        """Size of the file."""
        return len(self.blob)


def training_graph(task: TaskSpec, shape: tuple[int, ...], classes: int) -> bytes:
    """One forward and backward pass over a batch.

    Args:
        task: The task.
        shape: Shape of one sample.
        classes: Number of classes.

    Returns:
        A serialized model. Inputs: `frames` float32 `[S, B, *shape]` with S = 1 for direct encoding, else T; `labels`
        int64 `[B]`; every parameter by its own name. Outputs: `loss`, a scalar; `gradient:NAME` of every parameter in
        the order of `parameter_shapes`; `emitted:I` float32 `[1, B * neurons]`, how many spikes each neuron of hidden
        layer I emitted over the steps, of an ANN 1 where its activation is not 0, plus the input `emitted_before:I`
        (what came out before; 0 where it is left out). Samples before neurons; of a convolution neurons before samples.

    Raises:
        ConfigurationError: The model does not fit the samples.
    """
    return bytes(training_model(task, shape, classes).SerializeToString())


def inference_graph(task: TaskSpec, shape: tuple[int, ...], classes: int) -> bytes:
    """Class scores of a batch.

    Args:
        task: The task.
        shape: Shape of one sample.
        classes: Number of classes.

    Returns:
        A serialized model. Inputs as `training_graph`'s without `labels`; output `logits` `[B, classes]`.

    Raises:
        ConfigurationError: The model does not fit the samples.
    """
    return bytes(inference_model(task, shape, classes).SerializeToString())


MAKERS: dict[str, Callable[[TaskSpec, tuple[int, ...], int], bytes]] = {
    "training": training_graph,
    "inference": inference_graph,
}


def exported(
    task: TaskSpec, shape: tuple[int, ...], classes: int, network: UserNetwork | None = None
) -> Iterator[Export]:
    """Every graph of a task, checked.

    Args:
        task: The task.
        shape: Shape of one sample.
        classes: Number of classes.
        network: The task's network, where it is the user's own.

    Raises:
        ConfigurationError: The model does not fit the samples, or cannot be exported.
        GraphMismatchError: A graph failed its check.
    """
    for name, make in MAKERS.items():
        began = time.monotonic()
        if network is None:
            blob = make(task, shape, classes)
            error = check(blob, task, shape, classes)
        else:
            blob, error = _traced(name, network, task, shape, classes)
        yield Export(
            name=name,
            blob=blob,
            sha256=hashlib.sha256(blob).hexdigest(),
            error=error,
            seconds=time.monotonic() - began,
        )


def _traced(
    name: str, network: UserNetwork, task: TaskSpec, shape: tuple[int, ...], classes: int
) -> tuple[bytes, float]:
    from server.graphs import traced, tracing_check  # noqa: PLC0415 - torch's exporter, for a user's network only

    if name == "training":
        blob = traced.training_graph(network, task, shape, classes)
    else:
        blob = traced.inference_graph(network, task, shape)
    onnx.checker.check_model(blob, full_check=True)
    found = tracing_check.compare(blob, network, task, shape, classes)
    if found.differing > tracing_check.MOST_DIFFERING or found.error > tracing_check.TOLERANCE:
        raise GraphMismatchError(
            f"the {name} graph differs from the network's own autograd in {found.differing} of {found.batches} batches "
            f"(limit {tracing_check.MOST_DIFFERING}; worst output {found.worst!r}, by {found.error:.2g})"
        )
    return blob, found.error


def check(blob: bytes, task: TaskSpec, shape: tuple[int, ...], classes: int) -> float:
    """Holds a graph against snntorch's own network, stepped in Python in float32, on batches where no rounding counts.

    Args:
        blob: The graph of either name.
        task: The task.
        shape: Shape of one sample.
        classes: Number of classes.

    Returns:
        The greatest error of an output, over the greatest magnitude that it has in the batches.

    Raises:
        GraphMismatchError: It exceeds `TOLERANCE`, or a count is wrong.
    """
    from server.graphs import checking  # noqa: PLC0415 - torch and snntorch

    onnx.checker.check_model(blob, full_check=True)
    differences: dict[str, float] = {}
    magnitudes: dict[str, float] = {}
    for samples in CHECKED_SAMPLES:
        batch = checking.exact_batch(task, shape, classes, batch=samples, seed=task.seed)
        found = checking.run(blob, batch.feed())
        expected = checking.stepped(task, shape, classes, batch)
        for name, value in found.items():
            far = np.abs(value - expected[name].astype(np.float64)).max()
            differences[name] = max(differences.get(name, 0.0), float(far) if np.isfinite(far) else math.inf)
            magnitudes[name] = max(magnitudes.get(name, 0.0), float(np.abs(expected[name]).max()))
    errors = {name: far / (magnitudes[name] or 1.0) for name, far in differences.items()}
    worst = max(errors, key=lambda name: errors[name])
    if errors[worst] > TOLERANCE:
        raise GraphMismatchError(
            f"output {worst!r} of the exported graph differs from snntorch's by {errors[worst]:.2g} of its greatest "
            f"magnitude; {TOLERANCE:g} is allowed"
        )
    return errors[worst]
