"""The task's network, evaluated layer by layer over all time steps: one product per layer, then the neurons.

Equal to stepping snntorch in time (`contract.models.reference`) up to rounding, and differentiable twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn.functional import conv2d, linear

from contract.models.layout import LayerSpec, layers, parameter_shapes
from contract.models.neurons import Leaky, mean_membrane_weights
from contract.models.quantization import fake_quantize
from contract.task import TaskSpec

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"sigmoid": torch.sigmoid, "relu": torch.relu}


class Network:
    """The function that a task's parameters parametrise; holds none itself.

    Args:
        task: The task.
        shape: Shape of one sample.
        classes: Number of classes.
        dtype: Of parameters and frames.

    Raises:
        ConfigurationError: The model does not fit the samples.
    """

    def __init__(
        self, task: TaskSpec, shape: tuple[int, ...], classes: int, *, dtype: torch.dtype = torch.float32
    ) -> None:
        self.task = task
        self.shape = tuple(shape)
        self.layers = layers(task, shape, classes)
        self.names = tuple(parameter_shapes(task, shape, classes))
        self.dtype = dtype
        self.steps = task.encoding.steps
        self._neuron = Leaky(task.neuron, task.model.membrane_bits)
        weights = mean_membrane_weights(self.steps, task.neuron.beta)
        self._readout_weights, self._readout_bias_factor = torch.tensor(weights, dtype=dtype), sum(weights)
        self._families = {"snn": self._trace_snn, "ann": self._trace_ann}
        self._readouts = {"membrane": self._read_membrane, "spike": self._read_spikes}

    def __call__(self, params: Mapping[str, Tensor], frames: Tensor) -> Tensor:
        """Class scores.

        Args:
            params: Tensors by name.
            frames: `[T, B, *shape]`, or `[1, B, *shape]` for a frame that stands for all steps. The ANN reads
                `frames[0]`.

        Returns:
            Logits `[B, classes]`: mean membrane or mean spike count of the readout over time.

        Raises:
            ValueError: Frames of another shape or number.
        """
        return self.trace(params, frames)[0]

    def trace(self, params: Mapping[str, Tensor], frames: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Class scores, and what each hidden layer emitted.

        Returns:
            Logits `[B, classes]`; per hidden layer its spikes `[T, B, *]` (the ANN: its activations `[1, B, *]`).
        """
        if frames.shape[0] not in {1, self.steps} or tuple(frames.shape[2:]) != self.shape:
            raise ValueError(
                f"frames of shape {tuple(frames.shape)}: expected [{self.steps} or 1, batch, "
                f"{', '.join(map(str, self.shape))}]"
            )
        return self._families[self.task.model.family](params, frames.to(self.dtype))

    def _trace_snn(self, params: Mapping[str, Tensor], frames: Tensor) -> tuple[Tensor, list[Tensor]]:
        emitted: list[Tensor] = []
        x = frames
        for layer in self.layers[:-1]:
            current = self._affine(layer, params, x.flatten(0, 1)).view(*x.shape[:2], *layer.outputs)
            x, _ = self._neuron(current.expand(self.steps, *current.shape[1:]))
            emitted.append(x)
        return self._readouts[self.task.model.readout](params, x), emitted

    def _read_membrane(self, params: Mapping[str, Tensor], spikes: Tensor) -> Tensor:
        # The mean membrane is linear in the spikes: weigh them over time first, multiply once.
        layer = self.layers[-1]
        w = self._readout_weights.to(spikes.device)
        weighed = (w @ spikes.flatten(1)).view(spikes.shape[1], -1)
        bias = params[f"{layer.name}.bias"] * self._readout_bias_factor
        return linear(weighed, self._weight(layer, params), bias)

    def _read_spikes(self, params: Mapping[str, Tensor], spikes: Tensor) -> Tensor:
        current = self._affine(self.layers[-1], params, spikes.flatten(0, 1))
        return self._neuron(current.view(*spikes.shape[:2], -1))[0].mean(0)

    def _trace_ann(self, params: Mapping[str, Tensor], frames: Tensor) -> tuple[Tensor, list[Tensor]]:
        activation = ACTIVATIONS[self.task.model.activation]
        emitted: list[Tensor] = []
        x = frames[0]
        for layer in self.layers[:-1]:
            x = activation(self._affine(layer, params, x))
            emitted.append(x.unsqueeze(0))
        return self._affine(self.layers[-1], params, x), emitted

    def _weight(self, layer: LayerSpec, params: Mapping[str, Tensor]) -> Tensor:
        return fake_quantize(params[f"{layer.name}.weight"], self.task.model.weight_bits)

    def _affine(self, layer: LayerSpec, params: Mapping[str, Tensor], x: Tensor) -> Tensor:
        weight, bias = self._weight(layer, params), params[f"{layer.name}.bias"]
        if layer.kind == "conv":
            return conv2d(x, weight, bias, stride=layer.stride, padding=layer.padding)
        return linear(x.flatten(1), weight, bias)
