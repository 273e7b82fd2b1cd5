"""The attacker's own copy of the device's computation: gradients of candidate inputs at the known weights."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import msgspec
import torch
from torch import Tensor
from torch.nn import functional

from attack.threat import Array32, NotKnownError, Observation
from contract.encodings import decode
from contract.models.network import Network
from contract.models.quantization import fake_quantize
from contract.task import TaskSpec


@lru_cache(maxsize=8)
def _network(task: TaskSpec, shape: tuple[int, ...], classes: int, dtype: torch.dtype) -> Network:
    """The task's network without weight quantisation: the attacker quantises the weights once, not per evaluation."""
    plain = msgspec.structs.replace(task, model=msgspec.structs.replace(task.model, weight_bits=None))
    return Network(plain, shape, classes, dtype=dtype)


def _quantized(name: str, value: Array32, bits: int | None) -> Tensor:
    """A weight on its integer grid in float32, as the device computes it; the straight-through gradient is the same."""
    tensor = torch.tensor(value)
    return fake_quantize(tensor, bits) if name.endswith(".weight") else tensor


class Simulator:
    """Gradients of candidates at the weights that the update started from.

    Args:
        observation: Architecture, neuron, encoding, weights and plan must be known.
        dtype: Precision of the simulation.
    """

    def __init__(self, observation: Observation, *, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.shape = observation.shape
        self.encoding = observation.encoding
        own = observation.network
        timeless = observation.model.family == "ann" if own is None else own.timeless
        self.steps = 1 if timeless or observation.encoding.kind == "direct" else observation.encoding.steps
        """Frames of one input: 1 when one frame stands for all steps or the network has no time, otherwise T."""
        self._once = "" if own is None else own.once
        self.network = own or _network(observation.task, observation.shape, observation.classes, dtype)
        bits = None if own is not None else observation.model.weight_bits
        self.parameters = {
            name: _quantized(name, value, bits).to(dtype).requires_grad_()
            for name, value in observation.parameters.items()
        }
        self.names = tuple(name for name in self.network.names if name in observation.update)
        """Parameters that the update has a gradient of, in the network's order."""
        steps = observation.plan.local_steps
        self.target = [torch.as_tensor(observation.gradient[name] / steps, dtype=dtype) for name in self.names]
        """The observed mean gradient per step, in the order of `names`."""

    def gradients(self, frames: Tensor, labels: Tensor, *, create_graph: bool = False) -> Sequence[Tensor]:
        """Gradient of the mean cross-entropy over the batch.

        Args:
            frames: `[T or 1, B, *shape]`.
            labels: `[B]`, class indices.
            create_graph: Keep the graph, to differentiate the gradients by `frames`.

        Returns:
            One tensor per parameter, in the order of `names`.

        Raises:
            NotKnownError: `create_graph` with a network whose gradient cannot be differentiated again.
        """
        if create_graph and self._once:
            raise NotKnownError(f"the network's gradient cannot be differentiated again: {self._once}")
        loss = functional.cross_entropy(self.network(self.parameters, frames), labels)
        wanted = [self.parameters[name] for name in self.names]
        return torch.autograd.grad(loss, wanted, create_graph=create_graph, allow_unused=True, materialize_grads=True)

    def images(self, frames: Tensor) -> Tensor:
        """The image `[B, *image_shape]` in [0, 1] that frames stand for, also relaxed ones; not differentiable."""
        return torch.as_tensor(decode(self.encoding, frames.detach().numpy())).to(frames.dtype)

    def frames(self, images: Tensor) -> Tensor:
        """Direct coding's frames `[1, B, *shape]` of images."""
        return (images * self.encoding.gain)[None]
