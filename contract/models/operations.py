"""How many operations training steps take, from the layout and from the spikes that really occurred.

Counted is the network as hardware without knowledge of the whole sequence would run it, step by step in time, and a
dense backward pass through time; not what this project's layer-wise evaluation saves by algebra. Let ``D_l`` be the
products of layer l for one sample and one step (exact at the borders of a convolution), ``n_l`` its neurons, ``P_l``
its weights and biases, K the batches and N the samples in them, T the steps, ``a_l(i)`` how often input i of layer l
was not 0 over all steps and samples, ``f_l(i)`` the products that this input takes part in, and ``T_0 = 1`` for a
direct-coded first layer (its current is the same at each step), else ``T_l = T``; an ANN has T = 1.

=================  =================================================================================================
macs               direct: ``N D_0``; ANN: ``N sum D_l``
effective_macs     of these, those whose input was not 0: ``sum_i a_l(i) f_l(i)`` over the same layers
acs                ``sum_i a_l(i) f_l(i)`` over the layers that spikes enter
dense_macs         ``N sum T_l D_l``: every product, whatever its input
membrane_updates   ``T N sum n_l``, readout included; bias additions are part of it
backward_macs      weights ``N sum T_l D_l``, inputs ``T N sum_{l>0} D_l`` (the first layer's input needs none),
                   neurons ``2 T N sum n_l`` (surrogate product and decay of the adjoint; ANN: 1)
memory_bytes       forward: weights read at each step of each batch, ``K T_l P_l``; per neuron, step and sample the
                   membrane read and written and the output written
backward_bytes     of these, the backward pass: weights read at each step (but for the first layer's), gradients
                   written once a batch and read and written at each further step, ``K (2 T_l - 1) P_l``; per neuron,
                   step and sample membrane and output read again and the adjoint written
=================  =================================================================================================

`effective_macs`, `acs` and `dense_macs` are NeuroBench's Effective_MACs, Effective_ACs and Dense (Yik et al. 2025,
arXiv 2304.04640) times N, to the operation, of a network whose first layer is evaluated once where the coding is
direct; `tests/benchmarks/neurobench_counts.py` holds them against the package. NeuroBench also leaves out products with
a weight that is exactly 0, of which quantised weights have many; here every weight counts, since a spike fetches and
adds it whatever it is.

Weights take `weight_bits` in the forward and backward reads and membranes of spiking neurons `membrane_bits` in their
three accesses, everything else float32; samples of a batch share what is read; caches are not modelled. The dense
backward and its traffic at every step follow the accounting of Yin et al. 2022 (SATA, arXiv 2204.05422).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from contract.messages import Operations
from contract.models.activity import LayerInputs
from contract.models.layout import layers
from contract.task import TaskSpec

_FLOAT_BYTES = 4
Frames = NDArray[np.float32] | NDArray[np.uint8]


class OperationCounter:
    """Adds up the operations of training steps; only what a step alone decides is counted there, in a few microseconds.

    Args:
        task: The task; not one with a network of the user's own.
        shape: Shape of one sample.
        classes: Number of classes.
    """

    def __init__(self, task: TaskSpec, shape: tuple[int, ...], classes: int) -> None:
        self._task, self._specs = task, layers(task, shape, classes)
        self._ann, self._direct = task.model.family == "ann", task.encoding.kind == "direct"
        self._steps = 1 if self._ann else task.encoding.steps
        self._inputs: list[LayerInputs] = []
        for i, layer in enumerate(self._specs):
            once = self._direct and i == 0
            self._inputs.append(
                LayerInputs(
                    layer,
                    steps=1 if once else self._steps,
                    columns=i > 0 and self._specs[i - 1].kind == "conv",
                    spikes=not (self._ann or once),
                )
            )
        self._told = [inputs.hold if self._ann else inputs.add_spikes for inputs in self._inputs[1:]]
        self._batches = self._samples = self._given = 0
        self._readout = math.prod(self._specs[-1].outputs)

    def give(self, frames: Frames) -> None:
        """The frames of one batch, counted at once: best when they have just been made and lie in the cache.

        Args:
            frames: `[S, B, *shape]`; an ANN reads the first of S.

        Raises:
            ValueError: They are not as many numbers as the first layer has inputs.
        """
        first, batch = self._inputs[0], frames.shape[1]
        first.add(frames[:1] if self._ann else frames, first.steps * batch, batch)
        self._given += batch

    def add(self, batch: int, emitted: Sequence[NDArray[np.float32]]) -> None:
        """One forward and backward pass, over frames that were given.

        Args:
            batch: Samples in it.
            emitted: What each hidden layer emitted, as SPEC.md has it: counts of spikes, or an ANN's activations
                `[1, B * neurons]`, behind a convolution `[1, neurons * B]`. None of them is kept: they may be memory
                that the engine wants back for its next step.

        Raises:
            ValueError: They do not fit the layers.
        """
        if len(emitted) != len(self._told):
            raise ValueError(f"{len(emitted)} layers emitted: expected {len(self._told)} hidden ones")
        for told, found in zip(self._told, emitted, strict=False):
            told(found, batch)
        self._batches += 1
        self._samples += batch

    def total(self) -> Operations:
        """All operations so far.

        Raises:
            ValueError: What was added does not fit the frames that were given.
        """
        for inputs in self._inputs:
            inputs.settle()
        if self._given != self._samples:
            raise ValueError(f"frames of {self._given} samples were given, passes over {self._samples} added")
        steps = self._steps
        dense = [inputs.steps * inputs.products for inputs in self._inputs]
        effective = [inputs.effective for inputs in self._inputs]
        multiplied = len(self._specs) if self._ann else int(self._direct)
        neurons = self._samples * sum(math.prod(layer.outputs) for layer in self._specs)
        active = tuple(inputs.active for inputs in self._inputs)
        sites = tuple(self._samples * inputs.steps * inputs.count for inputs in self._inputs)
        (forward, back), (kept, again) = self._weights(), self._state(steps * neurons)
        return Operations(
            macs=self._samples * sum(dense[:multiplied]),
            effective_macs=sum(effective[:multiplied]),
            acs=sum(effective[multiplied:]),
            dense_macs=self._samples * sum(dense),
            membrane_updates=0 if self._ann else steps * neurons,
            backward_macs=self._samples * (sum(dense) + sum(dense[1:])) + (1 if self._ann else 2 * steps) * neurons,
            memory_bytes=forward + kept + back + again,
            backward_bytes=back + again,
            spikes=0 if self._ann else sum(active[1:]),
            spike_sites=0 if self._ann else sum(sites[1:]),
            active=active,
            sites=sites,
        )

    def _weights(self) -> tuple[int, int]:
        """Bytes of weights, biases and their gradients, forward and backward."""
        bits = self._task.model.weight_bits or 8 * _FLOAT_BYTES
        forward = backward = 0
        for i, (layer, t) in enumerate(zip(self._specs, (inputs.steps for inputs in self._inputs), strict=True)):
            weights, biases = math.prod(layer.weight_shape), math.prod(layer.bias_shape)
            forward += t * (weights * bits // 8 + biases * _FLOAT_BYTES)
            backward += (t * weights * bits // 8 if i else 0) + (2 * t - 1) * (weights + biases) * _FLOAT_BYTES
        return self._batches * forward, self._batches * backward

    def _state(self, sites: int) -> tuple[int, int]:
        """Bytes of what neurons hold and emit at so many places in all, forward and backward."""
        model, output = self._task.model, sites * _FLOAT_BYTES
        if self._ann:
            return output, 2 * output
        readout = 0 if model.readout == "spike" else self._task.encoding.steps * self._samples * self._readout
        fixed = 0 if model.membrane_bits is None else sites - readout
        membrane = (sites - fixed) * _FLOAT_BYTES + fixed * (model.membrane_bits or 0) // 8
        return 2 * membrane + output, membrane + 2 * output
