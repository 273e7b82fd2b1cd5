"""How many operations one training step takes, from the layout and from the spikes that really occurred.

Counted is the network as hardware without knowledge of the whole sequence would run it, step by step in time, and a
dense backward pass through time; not what this project's layer-wise evaluation saves by algebra. Let ``D_l`` be the
products of layer l for one sample and one step (exact at the borders of a convolution), ``n_l`` its neurons, ``P_l``
its parameters, B the batch, T the steps, ``z_l`` the spikes that entered layer l over all T and B, and ``T_0 = 1`` for
a direct-coded first layer (its current is the same at each step), else ``T_l = T``.

========================  ==========================================================================
macs                      direct: ``B D_0``; ANN: ``B sum D_l``
acs                       ``sum z_l f_l``, with the fan-out ``f_l = D_l / inputs_l``: exact for linear layers, the mean
                          over input positions for convolutions (positions at a border reach fewer outputs)
membrane_updates          ``T B sum n_l``, readout included; bias additions are part of it
backward_macs             weights ``B sum T_l D_l``, inputs ``T B sum_{l>0} D_l`` (the first layer's input needs none),
                          neurons ``2 T B sum n_l`` (surrogate product and decay of the adjoint; ANN: 1, T = 1)
memory_bytes              weights: read forward and backward, gradient written; neurons, T B times each: membrane read
                          and written, output written, and backward both read again, adjoint written
========================  ==========================================================================

Weights take `weight_bits` in the forward and backward reads and membranes of spiking neurons `membrane_bits` in their
three accesses, everything else float32; caches are not modelled. The dense backward follows
the accounting of Yin et al. 2022 (SATA, arXiv 2204.05422).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from contract.messages import Operations
from contract.models.layout import LayerSpec, layers
from contract.task import TaskSpec

_FLOAT_BYTES = 4


def dense_products(layer: LayerSpec) -> int:
    """Multiplications of one layer for one sample and one step, without those with padding."""
    if layer.kind == "linear":
        return math.prod(layer.weight_shape)
    sides = zip(layer.inputs[1:], layer.outputs[1:], strict=True)
    taps = math.prod(_valid_taps(layer, into, out) for into, out in sides)
    return layer.weight_shape[0] * layer.weight_shape[1] * taps


def _valid_taps(layer: LayerSpec, into: int, out: int) -> int:
    starts = (o * layer.stride - layer.padding for o in range(out))
    return sum(min(start + layer.kernel, into) - max(start, 0) for start in starts)


def count_step(
    task: TaskSpec, shape: tuple[int, ...], classes: int, *, batch: int, input_nonzeros: int, spikes: Sequence[int]
) -> Operations:
    """Operations of one forward and backward pass over a batch.

    Args:
        task: The task.
        shape: Shape of one sample.
        classes: Number of classes.
        batch: Samples in the batch.
        input_nonzeros: Input spikes over all steps and samples; read for spiking inputs only.
        spikes: Per hidden layer, spikes over all steps and samples; not read for an ANN.

    Raises:
        ValueError: Not as many spike counts as hidden layers, or more spikes than there are places for one.
    """
    specs = layers(task, shape, classes)
    if task.model.family == "ann":
        return _count_ann(task, specs, batch)
    return _count_snn(task, specs, batch, input_nonzeros, tuple(spikes))


def _count_ann(task: TaskSpec, specs: Sequence[LayerSpec], batch: int) -> Operations:
    dense = [dense_products(layer) for layer in specs]
    neurons = sum(math.prod(layer.outputs) for layer in specs)
    return Operations(
        macs=batch * sum(dense),
        backward_macs=batch * (sum(dense) + sum(dense[1:]) + neurons),
        memory_bytes=_parameter_bytes(task, specs) + 3 * batch * neurons * _FLOAT_BYTES,
    )


def _count_snn(
    task: TaskSpec, specs: Sequence[LayerSpec], batch: int, input_nonzeros: int, spikes: tuple[int, ...]
) -> Operations:
    sites = [task.encoding.steps * batch * math.prod(layer.outputs) for layer in specs]
    if len(spikes) != len(specs) - 1 or any(s > n for s, n in zip(spikes, sites, strict=False)):
        raise ValueError(f"spikes = {spikes}: expected one count for each hidden layer, at most {sites[:-1]}")
    dense = [dense_products(layer) for layer in specs]
    direct = task.encoding.kind == "direct"
    entering = (0 if direct else input_nonzeros, *spikes)
    steps = task.encoding.steps
    first_steps = 1 if direct else steps
    return Operations(
        macs=batch * dense[0] if direct else 0,
        acs=sum(
            round(count * products / math.prod(layer.inputs))
            for count, products, layer in zip(entering, dense, specs, strict=True)
        ),
        membrane_updates=sum(sites),
        backward_macs=batch * (first_steps * dense[0] + 2 * steps * sum(dense[1:])) + 2 * sum(sites),
        memory_bytes=_parameter_bytes(task, specs) + _state_bytes(task, sites),
        spikes=sum(spikes),
        spike_sites=sum(sites[:-1]),
    )


def _parameter_bytes(task: TaskSpec, specs: Sequence[LayerSpec]) -> int:
    weights = sum(math.prod(layer.weight_shape) for layer in specs)
    biases = sum(math.prod(layer.bias_shape) for layer in specs)
    read = weights * (task.model.weight_bits or 32) // 8 + biases * _FLOAT_BYTES
    gradient = (weights + biases) * _FLOAT_BYTES
    return 2 * read + gradient


def _state_bytes(task: TaskSpec, sites: Sequence[int]) -> int:
    """Membrane read, written and read again; output written and read again; adjoint written."""
    model = task.model
    fixed = 0 if model.membrane_bits is None else sum(sites if model.readout == "spike" else sites[:-1])
    membrane = (sum(sites) - fixed) * _FLOAT_BYTES + fixed * (model.membrane_bits or 0) // 8
    return 3 * membrane + 3 * sum(sites) * _FLOAT_BYTES
