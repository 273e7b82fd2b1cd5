"""A network in the chip's integers, and its two files: what crosses from the host to lava's process.

`network.json` holds shapes and constants, `network.npz` the arrays `weight_0`, `bias_0`, `weight_1`, ... Every limit of
the chip is checked when a layer is made, so that a file of others' making is refused too. The limits are those that
lava-nc 0.10.0 declares for its fixed-point models (`lava.proc.lif.models`, `lava.proc.dense.models`) and that
lava-dl 0.6.0 assumes (`lava.lib.dl.netx.utils.optimize_weight_bits`).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from hardware.loihi.errors import ChipError

Integers = NDArray[np.int16]

LARGEST_WEIGHT = 254
"""Signed weights have 8 bits of which the lowest is 0: even numbers from -254 to 254."""
LARGEST_BIAS = 4095
"""13 bits with sign."""
LARGEST_DECAY = 4095
"""12 bits: the membrane keeps ``1 - decay / 4096`` of itself a step."""
LARGEST_THRESHOLD = 2**17 - 1
DECAY_UNIT = 4096
NETWORK_JSON, NETWORK_NPZ = "network.json", "network.npz"


class LayerShape(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a layer is besides its arrays.

    Attributes:
        kind: `dense`, or `conv` with square kernels, equal strides and zeros around.
        inputs: Shape of one step's input: `(channels, height, width)` for `conv`; `dense` reads it in C order.
        outputs: Shape of one step's spikes.
        stride: Of `conv`.
        padding: Of `conv`.
        decay: What the membrane loses a step, in 1/4096.
        threshold: A neuron fires when its membrane is above this, in units of a weight; it starts from 0 again.
        scale: One unit of a weight in the trained network's numbers, for people; nothing is computed from it.
    """

    kind: Literal["dense", "conv"]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    stride: int = 1
    padding: int = 0
    decay: int
    threshold: int
    scale: float

    def __post_init__(self) -> None:
        if not 0 <= self.decay <= LARGEST_DECAY:
            raise ChipError(f"decay {self.decay}: a membrane loses 0 to {LARGEST_DECAY} of 4096 a step")
        if not 1 <= self.threshold <= LARGEST_THRESHOLD:
            raise ChipError(f"threshold {self.threshold}: the chip has 1 to {LARGEST_THRESHOLD}, in units of a weight")
        if self.stride < 1 or self.padding < 0 or min((*self.inputs, *self.outputs)) < 1:
            raise ChipError(f"layer {self.inputs} to {self.outputs}, stride {self.stride}, padding {self.padding}")
        if self.kind == "conv" and (len(self.inputs), len(self.outputs)) != (3, 3):
            raise ChipError(f"convolution of {self.inputs} to {self.outputs}: expected (channels, height, width)")

    @property
    def neurons(self) -> int:
        """How many there are."""
        return math.prod(self.outputs)


class Layer(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One layer in the chip's integers.

    Attributes:
        shape: The rest.
        weight: `[out, in]`, or `[out, in, kernel, kernel]`: even, -254 to 254, not all 0.
        bias: `[out]`, added to the membrane at each step, in units of a weight.
    """

    shape: LayerShape
    weight: Integers
    bias: Integers

    def __post_init__(self) -> None:
        expected = weight_shape(self.shape, self.weight.shape[-1])
        if self.weight.shape != expected or self.bias.shape != expected[:1]:
            raise ChipError(f"weight {self.weight.shape} and bias {self.bias.shape} of a layer with weight {expected}")
        if np.abs(self.weight).max() > LARGEST_WEIGHT or (self.weight % 2).any() or not self.weight.any():
            raise ChipError(f"weights must be even, -{LARGEST_WEIGHT} to {LARGEST_WEIGHT}, and not all 0")
        if np.abs(self.bias).max() > LARGEST_BIAS:
            raise ChipError(
                f"bias {int(np.abs(self.bias).max())} in units of a weight: the chip has 13 bits with sign "
                f"({LARGEST_BIAS}); train with a smaller bias or larger weights"
            )


class ChipNetwork(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Layers from the input to the output; spikes go from each to the next, one step later."""

    layers: tuple[Layer, ...]

    def __post_init__(self) -> None:
        if not self.layers:
            raise ChipError("a network without layers: name at least one")
        if self.layers[0].shape.kind == "dense" and len(self.inputs) != 1:
            raise ChipError(
                f"a first dense layer takes {self.inputs}: give it flat spikes, ({math.prod(self.inputs)},)"
            )
        for before, after in zip(self.layers, self.layers[1:], strict=False):
            if math.prod(before.shape.outputs) != math.prod(after.shape.inputs):
                raise ChipError(f"a layer gives {before.shape.outputs}, the next one takes {after.shape.inputs}")

    @property
    def inputs(self) -> tuple[int, ...]:
        """Shape of one step's input."""
        return self.layers[0].shape.inputs


class _Shapes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    layers: tuple[LayerShape, ...]


def weight_shape(shape: LayerShape, kernel: int) -> tuple[int, ...]:
    """The shape that a layer's weights have."""
    if shape.kind == "dense":
        return (math.prod(shape.outputs), math.prod(shape.inputs))
    return (shape.outputs[0], shape.inputs[0], kernel, kernel)


def save(network: ChipNetwork, folder: Path) -> None:
    """Writes both files."""
    shapes = _Shapes(layers=tuple(layer.shape for layer in network.layers))
    (folder / NETWORK_JSON).write_bytes(msgspec.json.format(msgspec.json.encode(shapes)))
    arrays = {f"weight_{i}": layer.weight for i, layer in enumerate(network.layers)}
    arrays |= {f"bias_{i}": layer.bias for i, layer in enumerate(network.layers)}
    np.savez_compressed(folder / NETWORK_NPZ, allow_pickle=False, **arrays)


def load(folder: Path) -> ChipNetwork:
    """Reads both files.

    Raises:
        ChipError: They are no network, or none for this chip.
    """
    try:
        shapes = msgspec.json.decode((folder / NETWORK_JSON).read_bytes(), type=_Shapes)
        with np.load(folder / NETWORK_NPZ, allow_pickle=False) as arrays:
            layers = tuple(
                Layer(shape=shape, weight=_integers(arrays[f"weight_{i}"]), bias=_integers(arrays[f"bias_{i}"]))
                for i, shape in enumerate(shapes.layers)
            )
    except (OSError, KeyError, ValueError) as error:
        raise ChipError(f"{folder}: no network of this program: {error}") from error
    return ChipNetwork(layers=layers)


def _integers(array: NDArray[np.int16]) -> Integers:
    if array.dtype != np.int16:
        raise ChipError(f"an array of {array.dtype}: weights and biases are int16")
    return array
