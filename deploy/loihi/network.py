"""Spiking networks of snntorch whose weights lie on the chip's grid while they are trained.

Each step quantises weights and biases as `hardware.loihi.quantisation` does, per layer, and takes the rounding for the
identity on the way back (straight-through estimator, Bengio et al. 2013, arXiv 1308.3432). Neurons are `snntorch.Leaky`
with reset to zero and without snntorch's delay of the reset, which is the chip's neuron.

beta is 3/4: its powers need few bits, so that little is lost where the chip cuts decayed membranes to 1/64 of a weight.
At 0.9 more is: the last layer of the convolutional network then has 98 to 99 % of its spikes in common.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import snntorch
import torch
from snntorch import surrogate
from torch import Tensor, nn

from hardware.loihi.description import LARGEST_BIAS, ChipNetwork, Layer, LayerShape
from hardware.loihi.quantisation import quantised, threshold_integer

BETA = 0.75
THRESHOLD = 1.0
IMAGE = (1, 28, 28)


class OnGrid(nn.Module):
    """Layers with parameters, each followed by neurons.

    Args:
        shapes: The layers; decay, threshold and scale are not read.
    """

    def __init__(self, shapes: tuple[LayerShape, ...]) -> None:
        super().__init__()
        self.shapes = shapes
        self.layers = nn.ModuleList(_module(shape) for shape in shapes)
        self.neurons = nn.ModuleList(_neuron() for _ in shapes)
        snntorch.SpikingNeuron.init()  # its class list of instances would grow for ever

    def forward(self, frames: Tensor) -> list[Tensor]:
        """Spikes of every layer.

        Args:
            frames: `[T, B, *inputs]`.

        Returns:
            Per layer `[T, B, *outputs]`.
        """
        trains = []
        for shape, layer, neuron in zip(self.shapes, self.layers, self.neurons, strict=True):
            # One product for all steps, then the neurons step by step: the order of the sums is the same.
            current = _affine(shape, frames.flatten(0, 1), *self._on_grid(layer)).view(
                *frames.shape[:2], *shape.outputs
            )
            membrane = torch.zeros_like(current[0])
            emitted = []
            for step in current:
                spikes, membrane = neuron(step, membrane)
                emitted.append(spikes)
            frames = torch.stack(emitted)
            trains.append(frames)
        return trains

    def exported(self) -> ChipNetwork:
        """The network in the chip's integers."""
        return ChipNetwork(layers=tuple(map(self._exported, self.layers, self.shapes)))

    def _exported(self, layer: Any, shape: LayerShape) -> Layer:
        weight, bias = (x.detach().numpy().astype(np.float64) for x in (layer.weight, layer.bias))
        return quantised(weight, bias, threshold=THRESHOLD, beta=BETA, shape=shape)

    @staticmethod
    def _on_grid(layer: Any) -> tuple[Tensor, Tensor]:
        scale = THRESHOLD / threshold_integer(float(layer.weight.detach().abs().max()), THRESHOLD)
        limit = LARGEST_BIAS // 2
        rounded = [2 * scale * torch.round(x.detach() / (2 * scale)) for x in (layer.weight, layer.bias)]
        rounded[1] = rounded[1].clamp(-2 * limit * scale, 2 * limit * scale)
        # The difference is exactly 0: what lies on the grid must stay on it.
        weight, bias = (q + (x - x.detach()) for x, q in zip((layer.weight, layer.bias), rounded, strict=True))
        return weight, bias


def fully_connected(hidden: int) -> OnGrid:
    """Digits flattened, one hidden layer."""
    return OnGrid((_dense((784,), hidden), _dense((hidden,), 10)))


def convolutional(first: int, second: int) -> OnGrid:
    """Two strided convolutions and a dense layer."""
    a = _conv(IMAGE, first)
    b = _conv(a.outputs, second)
    return OnGrid((a, b, _dense(b.outputs, 10)))


def _dense(inputs: tuple[int, ...], outputs: int) -> LayerShape:
    return LayerShape(kind="dense", inputs=inputs, outputs=(outputs,), decay=0, threshold=1, scale=1.0)


def _conv(inputs: tuple[int, ...], channels: int) -> LayerShape:
    outputs = (channels, *((side - 1) // 2 + 1 for side in inputs[1:]))
    return LayerShape(kind="conv", inputs=inputs, outputs=outputs, stride=2, padding=2, decay=0, threshold=1, scale=1.0)


def _module(shape: LayerShape) -> nn.Module:
    if shape.kind == "conv":
        return nn.Conv2d(shape.inputs[0], shape.outputs[0], 5, stride=shape.stride, padding=shape.padding)
    return nn.Linear(int(np.prod(shape.inputs)), shape.neurons)


def _affine(shape: LayerShape, spikes: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    if shape.kind == "conv":
        return nn.functional.conv2d(spikes, weight, bias, shape.stride, shape.padding)
    return nn.functional.linear(spikes.flatten(1), weight, bias)


def _neuron() -> nn.Module:
    return cast(
        "nn.Module",
        snntorch.Leaky(
            beta=BETA,
            threshold=THRESHOLD,
            spike_grad=surrogate.fast_sigmoid(slope=10),
            reset_mechanism="zero",
            reset_delay=False,
        ),
    )
