"""The reference engine: PyTorch over `contract.models.network`. Arrays are shared with numpy, not copied."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from contract.errors import ConfigurationError
from contract.models.emissions import Emitted
from contract.models.network import Network
from contract.task import TaskSpec
from edge_client.emitted_sums import EmittedSums
from edge_client.engine import Frames, StepResult


def _shared(array: Frames) -> torch.Tensor:
    """The array as a tensor over the same memory; copied only when torch could not hold it (read-only, strided)."""
    return torch.from_numpy(np.require(array, dtype=np.float32, requirements=["C", "W"]))


class TorchEngine:
    """Backpropagation through time by autograd.

    Args:
        task: Decides the network.
        shape: Shape of one sample.
        classes: Number of classes.
        threads: CPU threads of this process's torch, at least 1.

    Raises:
        ConfigurationError: A network of the user's own: its code is not on the device.
    """

    name = "torch"

    def __init__(self, task: TaskSpec, shape: tuple[int, ...], classes: int, *, threads: int = 1) -> None:
        if task.model.own is not None:
            raise ConfigurationError(
                "engine = 'torch' with a network of the user's own: devices get its graph, never its code; set "
                "engine = 'onnx'"
            )
        torch.set_num_threads(threads)
        self._network = Network(task, shape, classes)
        widths = tuple(math.prod(layer.outputs) for layer in self._network.layers[:-1])
        self._sums = EmittedSums(widths, 1 if task.model.family == "ann" else task.encoding.steps)

    def gradients(
        self, params: Mapping[str, NDArray[np.float32]], frames: Frames, labels: NDArray[np.int64]
    ) -> StepResult:
        """See `edge_client.engine.Engine`."""
        leaves = {name: _shared(params[name]).requires_grad_() for name in self._network.names}
        logits, hidden = self._network.trace(leaves, _shared(frames))
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(np.require(labels, np.int64, ["C", "W"])))
        gradients = torch.autograd.grad(loss, list(leaves.values()))
        self._add(hidden, len(labels))
        return StepResult(
            loss=float(loss.detach()),
            gradients={name: g.contiguous().numpy() for name, g in zip(leaves, gradients, strict=True)},
        )

    def emitted(self) -> tuple[Emitted, ...]:
        """See `edge_client.engine.Engine`."""
        return self._sums.take()

    def _add(self, hidden: Sequence[torch.Tensor], batch: int) -> None:
        """Adds up spikes `[T, B, *]`, or activations `[1, B, *]` that are not 0."""
        self._sums.begin(batch)
        self._sums.open_pass()
        for counts, x, spec in zip(self._sums.counts, hidden, self._network.layers, strict=False):
            found = torch.count_nonzero(x.detach(), 0).flatten(1).numpy()
            np.add(counts, (found.T if spec.kind == "conv" else found).reshape(1, -1), out=counts)
