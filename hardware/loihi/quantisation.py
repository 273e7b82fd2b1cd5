"""From a trained layer's floats to the chip's integers, so that both compute the same function.

With threshold theta and the largest magnitude ``w`` among a layer's weights, its scale is ``s = theta / V`` where V is
the largest power of two up to ``254 theta / w``. Weights and biases become the nearest even multiples of s:

    W = 2 round(w_ij / 2s),  B = 2 round(b_i / 2s),  threshold V,  decay round(4096 (1 - beta))

The threshold is exact; and with a theta that is a power of two as well, so is every sum of the trained network in
float32, so that a membrane that comes to lie on the threshold itself does so in both. (With another V, float rounding
decides such cases: up to 4 % of the last layer's spikes were seen to differ.) What is left to differ is beta's
rounding to 1/4096 and the truncation of decayed membranes to 1/64 of a weight: a network that is trained on this grid
is the same function on the chip. One scale for a whole layer, since netx gives all of its neurons one threshold.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from hardware.loihi.description import (
    DECAY_UNIT,
    LARGEST_BIAS,
    LARGEST_WEIGHT,
    Layer,
    LayerShape,
)
from hardware.loihi.errors import ChipError

Floats = NDArray[np.floating]


def threshold_integer(largest: float, threshold: float) -> int:
    """V of a layer: the largest power of two up to ``254 threshold / largest``.

    Args:
        largest: Largest magnitude of its weights.
        threshold: Of its neurons, above 0.

    Raises:
        ChipError: All weights are 0, or not finite.
    """
    if not (np.isfinite(largest) and largest > 0):
        raise ChipError(f"the largest weight of a layer is {largest}: the chip needs one that is finite and not 0")
    return 1 << max(0, math.floor(math.log2(LARGEST_WEIGHT * threshold / largest)))


def decay_integer(beta: float) -> int:
    """What a membrane loses a step, in 1/4096."""
    return round((1 - beta) * DECAY_UNIT)


def quantised(weight: Floats, bias: Floats, *, threshold: float, beta: float, shape: LayerShape) -> Layer:
    """A trained layer in the chip's integers.

    Args:
        weight: `[out, in]` or `[out, in, kernel, kernel]`.
        bias: `[out]`.
        threshold: Firing threshold of its neurons.
        beta: Membrane decay of its neurons.
        shape: The layer; its decay, threshold and scale are not read.

    Raises:
        ChipError: Something does not fit the chip.
    """
    level = threshold_integer(float(np.abs(weight).max(initial=0.0)), threshold)
    scale = threshold / level
    integers = [2 * np.round(np.asarray(x, dtype=np.float64) / (2 * scale)) for x in (weight, bias)]
    if np.abs(integers[0]).max() > LARGEST_WEIGHT:
        raise ChipError(
            f"the largest weight is {float(np.abs(weight).max()):g}, more than 254 times the threshold {threshold:g}: "
            "train with a higher threshold or smaller weights"
        )
    if not (np.isfinite(integers[1]).all() and np.abs(integers[1]).max(initial=0.0) <= LARGEST_BIAS):
        raise ChipError(
            f"the largest bias is {float(np.abs(bias).max()):g}, {float(np.abs(bias).max()) / scale:.0f} units of a "
            f"weight: the chip has {LARGEST_BIAS}; train with a smaller bias"
        )
    return Layer(
        shape=LayerShape(
            kind=shape.kind,
            inputs=shape.inputs,
            outputs=shape.outputs,
            stride=shape.stride,
            padding=shape.padding,
            decay=decay_integer(beta),
            threshold=level,
            scale=scale,
        ),
        weight=integers[0].astype(np.int16),
        bias=integers[1].astype(np.int16),
    )
