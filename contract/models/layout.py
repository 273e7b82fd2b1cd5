"""Which layers a task's network has, and its parameters before training. Needs numpy only."""

from __future__ import annotations

import math
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from contract.errors import ConfigurationError
from contract.streams import stream
from contract.task import ModelSpec, TaskSpec


class LayerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One layer with parameters.

    Attributes:
        name: Prefix of its parameters: `layers.0`.
        kind: `linear` or `conv`.
        inputs: Shape of one sample that goes in.
        outputs: Shape of one sample that comes out.
        kernel: Side of the kernel; 1 for `linear`.
        stride: Stride; 1 for `linear`.
        padding: Zeros around the image; 0 for `linear`.
        weight_shape: `[out, in]` or `[out, in, kernel, kernel]`.
        bias_shape: `[out]`.
        spiking: Whether neurons of the task follow; `False` for the readout.
    """

    name: str
    kind: Literal["linear", "conv"]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    kernel: int = 1
    stride: int = 1
    padding: int = 0
    weight_shape: tuple[int, ...]
    bias_shape: tuple[int, ...]
    spiking: bool = True


def layers(task: TaskSpec, shape: tuple[int, ...], classes: int) -> tuple[LayerSpec, ...]:
    """The network of a task, from the input to the readout.

    Args:
        task: The task.
        shape: Shape of one sample; `(channels, height, width)` for a convolutional model.
        classes: Number of classes.

    Raises:
        ConfigurationError: A convolutional model on samples that are not images, a fully connected one without
            hidden layers, or a network of the user's own, whose layers are in its file alone.
    """
    model = task.model
    if model.own is not None:
        raise ConfigurationError("model.kind = 'own': the layers of a network of the user's own are not known")
    found: list[LayerSpec] = []
    if model.kind == "conv":
        if len(shape) != 3:
            raise ConfigurationError(
                f"model.kind = 'conv' with samples of shape {shape}: "
                "it needs (channels, height, width); set model.kind = 'fc'"
            )
        for channels in model.channels:
            found.append(_conv(len(found), shape, channels, model))
            shape = found[-1].outputs
    widths = (*model.hidden, classes)
    if not found and len(widths) == 1:
        raise ConfigurationError("model.hidden = () with model.kind = 'fc': name at least one hidden width, e.g. [256]")
    for i, width in enumerate(widths):
        found.append(_linear(len(found), shape, width, spiking=i < len(widths) - 1))
        shape = found[-1].outputs
    return tuple(found)


def _conv(index: int, shape: tuple[int, ...], channels: int, model: ModelSpec) -> LayerSpec:
    kernel = model.kernel[index] if isinstance(model.kernel, tuple) else model.kernel
    padding = kernel // 2
    sides = tuple((side + 2 * padding - kernel) // model.stride + 1 for side in shape[1:])
    return LayerSpec(
        name=f"layers.{index}",
        kind="conv",
        inputs=shape,
        outputs=(channels, *sides),
        kernel=kernel,
        stride=model.stride,
        padding=padding,
        weight_shape=(channels, shape[0], kernel, kernel),
        bias_shape=(channels,),
    )


def _linear(index: int, shape: tuple[int, ...], width: int, *, spiking: bool) -> LayerSpec:
    return LayerSpec(
        name=f"layers.{index}",
        kind="linear",
        inputs=shape,
        outputs=(width,),
        weight_shape=(width, math.prod(shape)),
        bias_shape=(width,),
        spiking=spiking,
    )


def parameter_shapes(task: TaskSpec, shape: tuple[int, ...], classes: int) -> dict[str, tuple[int, ...]]:
    """Name and shape of each parameter, in order: `layers.0.weight`, `layers.0.bias`, ... (`own`: the user's names)."""
    if task.model.own is not None:
        return {parameter.name: parameter.shape for parameter in task.model.own.parameters}
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in layers(task, shape, classes):
        shapes[f"{layer.name}.weight"] = layer.weight_shape
        shapes[f"{layer.name}.bias"] = layer.bias_shape
    return shapes


def initial_parameters(task: TaskSpec, shape: tuple[int, ...], classes: int) -> dict[str, npt.NDArray[np.float32]]:
    """Parameters before training: uniform in ``±1/sqrt(fan_in)``, torch's default for linear and convolution layers.

    Seeded by `task.seed` alone, so every party draws the same model.
    """
    rng = stream(task.seed, "parameters")
    drawn: dict[str, npt.NDArray[np.float32]] = {}
    for layer in layers(task, shape, classes):
        bound = 1.0 / math.sqrt(math.prod(layer.weight_shape[1:]))
        drawn[f"{layer.name}.weight"] = rng.uniform(-bound, bound, layer.weight_shape).astype(np.float32)
        drawn[f"{layer.name}.bias"] = rng.uniform(-bound, bound, layer.bias_shape).astype(np.float32)
    return drawn
