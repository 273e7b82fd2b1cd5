"""Loihi 2's leaky neuron in fixed point, in numpy: what the export is held against where lava is not installed.

The current-based leaky integrate-and-fire neuron of lava-nc 0.10.0 (`lava.proc.lif.models`, `PyLifModelBitAcc`; the
equations are Davies et al., IEEE Micro 38(1) 2018, doi:10.1109/MM.2018.112130359, eq. 1 and 2 with a current that
does not outlive its step). Integers; ``>> n`` divides by 2^n and drops the rest::

    a_t = sum_i W_i s_i,t-1                                    synapses take one step
    u_t = 64 a_t                                               wraps around at +-2^23
    v_t = sign(v_t-1) (|v_t-1| (4096 - decay) >> 12) + u_t + 64 B   clipped to +-(2^23 - 1)
    s_t = [v_t > 64 threshold],  v_t = 0 where s_t

Here a sample's first input and its first output have the same index t: a layer's delay of one step is taken off.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from hardware.loihi.description import DECAY_UNIT, ChipNetwork, Layer
from hardware.loihi.errors import ChipError

Spikes = NDArray[np.uint8]

MEMBRANE_LIMIT = 2**23
"""24 bits with sign."""
FRACTION_BITS = 6
"""Membranes are finer than weights."""
ACCUMULATOR_LIMIT = 2**15 - 1
"""Sums of weights have 16 bits with sign by what lava declares (`a_in` of its models), which its simulator ignores."""


class Simulation(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What a network did.

    Attributes:
        trains: Per layer its spikes `[N, T, *outputs]`.
        largest_sum: Largest magnitude among all sums of weights; above `ACCUMULATOR_LIMIT` real hardware may differ.
    """

    trains: tuple[Spikes, ...]
    largest_sum: int


def simulate(network: ChipNetwork, spikes: Spikes) -> Simulation:
    """Runs a network on samples; each begins with membranes at 0.

    Args:
        network: The network.
        spikes: `[N, T, *inputs]`, 0 or 1.

    Raises:
        ChipError: The input is of another shape, or not made of spikes.
    """
    check_input(network, spikes)
    per_sample = [_one(network, sample) for sample in spikes]
    trains = tuple(np.stack([found[0][i] for found in per_sample]) for i in range(len(network.layers)))
    return Simulation(trains=trains, largest_sum=max(found[1] for found in per_sample))


def check_input(network: ChipNetwork, spikes: Spikes) -> None:
    """Refuses what is no input of a network.

    Raises:
        ChipError: Names both shapes, or the value that is no spike.
    """
    if spikes.ndim < 2 or not spikes.size or spikes.shape[2:] != network.inputs:
        raise ChipError(f"input of shape {spikes.shape}: expected [samples, steps, *{network.inputs}], none of them 0")
    if spikes.max() > 1:
        raise ChipError(f"input holds {spikes.max()}: the chip takes spikes, 0 or 1; encode by rate, latency or events")


def _one(network: ChipNetwork, spikes: Spikes) -> tuple[list[Spikes], int]:
    trains, largest = [], 0
    for layer in network.layers:
        sums = synaptic_sums(layer, spikes)
        largest = max(largest, int(np.abs(sums).max()))
        spikes = fires(layer, sums)
        trains.append(spikes)
    return trains, largest


def synaptic_sums(layer: Layer, spikes: Spikes) -> NDArray[np.int64]:
    """Sums of weights `[T, *outputs]` that spikes `[T, *inputs]` cause."""
    shape, weight = layer.shape, layer.weight.astype(np.float64)  # exact: far below 2^53
    if shape.kind == "dense":
        found = spikes.reshape(len(spikes), -1).astype(np.float64) @ weight.T
    else:
        found = np.tensordot(windows(layer, spikes), weight, axes=((1, 4, 5), (1, 2, 3))).transpose(0, 3, 1, 2)
    return found.reshape(len(spikes), *shape.outputs).astype(np.int64)


def windows(layer: Layer, spikes: Spikes) -> NDArray[np.uint8]:
    """What each place of a convolution sees: `[T, in, height, width, kernel, kernel]`."""
    padding, stride, kernel = layer.shape.padding, layer.shape.stride, layer.weight.shape[-1]
    image = spikes.reshape(len(spikes), *layer.shape.inputs)
    padded = np.pad(image, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    return sliding_window_view(padded, (kernel, kernel), axis=(2, 3))[:, :, ::stride, ::stride]


def fires(layer: Layer, sums: NDArray[np.int64]) -> Spikes:
    """Spikes `[T, *outputs]` of neurons that sums of weights `[T, *outputs]` reach."""
    bias = layer.bias.astype(np.int64).reshape(-1, *[1] * (sums.ndim - 2)) << FRACTION_BITS
    keep, level = DECAY_UNIT - layer.shape.decay, layer.shape.threshold << FRACTION_BITS
    membrane = np.zeros(sums.shape[1:], dtype=np.int64)
    spikes = np.zeros(sums.shape, dtype=np.uint8)
    for t, current in enumerate(_wrapped(sums << FRACTION_BITS)):
        membrane = np.sign(membrane) * (np.abs(membrane) * keep >> 12) + current + bias
        np.clip(membrane, 1 - MEMBRANE_LIMIT, MEMBRANE_LIMIT - 1, out=membrane)
        fired = membrane > level
        spikes[t] = fired
        membrane[fired] = 0
    return spikes


def _wrapped(current: NDArray[np.int64]) -> NDArray[np.int64]:
    """A current of 24 bits, as lava wraps it: once around at most."""
    once = np.where(current > MEMBRANE_LIMIT, current - 2 * MEMBRANE_LIMIT, current)
    return np.where(once <= -MEMBRANE_LIMIT, current + 2 * MEMBRANE_LIMIT, once)
