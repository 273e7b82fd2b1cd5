"""What a task's network costs whatever its spikes: so much for each sample, so much for each batch."""

from __future__ import annotations

import functools
import math

import msgspec

from contract.models.activity import LayerEntry
from contract.models.layout import LayerSpec, layers
from contract.task import TaskSpec

FLOAT_BYTES = 4


class FixedCosts(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Operations that the layout alone decides; `contract.models.operations` defines them.

    Attributes:
        entries: Where each layer's inputs enter it, from the input to the readout.
        multiplied: How many layers, from the first, multiply; spikes enter the others.
        macs: For each sample, as all that follows but for the last two.
        dense_macs: Every product.
        membrane_updates: At all steps.
        backward_macs: Of the backward pass.
        state_bytes: Membranes and outputs, forward and backward.
        backward_state_bytes: Of these, backward.
        sites: Inputs of each layer over its steps.
        weight_bytes: Weights, biases and gradients, forward and backward, for each batch.
        backward_weight_bytes: Of these, backward.
    """

    entries: tuple[LayerEntry, ...]
    multiplied: int
    macs: int
    dense_macs: int
    membrane_updates: int
    backward_macs: int
    state_bytes: int
    backward_state_bytes: int
    sites: tuple[int, ...]
    weight_bytes: int
    backward_weight_bytes: int


@functools.lru_cache(maxsize=64)
def fixed_costs(task: TaskSpec, shape: tuple[int, ...], classes: int) -> FixedCosts:
    """Those of a task, kept for the next who asks: of every update the same.

    Args:
        task: The task; not one with a network of the user's own.
        shape: Shape of one sample.
        classes: Number of classes.
    """
    specs, ann = layers(task, shape, classes), task.model.family == "ann"
    direct, T = task.encoding.kind == "direct", 1 if task.model.family == "ann" else task.encoding.steps
    steps = tuple(1 if direct and i == 0 else T for i in range(len(specs)))
    multiplied = len(specs) if ann else int(direct)
    behind = [False, *(layer.kind == "conv" for layer in specs[:-1])]
    entries = tuple(
        LayerEntry.of(layer, steps=t, columns=columns, spikes=i >= multiplied)
        for i, (layer, t, columns) in enumerate(zip(specs, steps, behind, strict=True))
    )
    dense = [entry.steps * entry.products for entry in entries]
    neurons = sum(math.prod(layer.outputs) for layer in specs)
    state, backward_state = _state(task, T * neurons, T * math.prod(specs[-1].outputs))
    weights, backward_weights = _weights(task, specs, steps)
    return FixedCosts(
        entries=entries,
        multiplied=multiplied,
        macs=sum(dense[:multiplied]),
        dense_macs=sum(dense),
        membrane_updates=0 if ann else T * neurons,
        backward_macs=sum(dense) + sum(dense[1:]) + (1 if ann else 2 * T) * neurons,
        state_bytes=state + backward_state,
        backward_state_bytes=backward_state,
        sites=tuple(entry.steps * entry.count for entry in entries),
        weight_bytes=weights + backward_weights,
        backward_weight_bytes=backward_weights,
    )


def _weights(task: TaskSpec, specs: tuple[LayerSpec, ...], steps: tuple[int, ...]) -> tuple[int, int]:
    """Bytes of weights, biases and their gradients in one batch, forward and backward."""
    bits = task.model.weight_bits or 8 * FLOAT_BYTES
    forward = backward = 0
    for i, (layer, t) in enumerate(zip(specs, steps, strict=True)):
        weights, biases = math.prod(layer.weight_shape), math.prod(layer.bias_shape)
        forward += t * (weights * bits // 8 + biases * FLOAT_BYTES)
        backward += (t * weights * bits // 8 if i else 0) + (2 * t - 1) * (weights + biases) * FLOAT_BYTES
    return forward, backward


def _state(task: TaskSpec, sites: int, readout: int) -> tuple[int, int]:
    """Bytes of what neurons hold and emit at so many places, of which so many of the readout, forward and backward."""
    model, output = task.model, sites * FLOAT_BYTES
    if model.family == "ann":
        return output, 2 * output
    fixed = 0 if model.membrane_bits is None else sites - (0 if model.readout == "spike" else readout)
    membrane = (sites - fixed) * FLOAT_BYTES + fixed * (model.membrane_bits or 0) // 8
    return 2 * membrane + output, membrane + 2 * output
