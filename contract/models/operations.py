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

import numpy as np
from numpy.typing import NDArray

from contract.messages import Operations
from contract.models.activity import Activity, activity_of_counts, activity_of_frames
from contract.models.emissions import Emitted
from contract.models.fixed_costs import fixed_costs
from contract.task import TaskSpec

CITED = ("yik2025neurobench", "yin2023sata")
"""Keys of the works that the counting follows (`contract.citations`)."""
Frames = NDArray[np.float32] | NDArray[np.uint8]


class OperationCounter:
    """Adds up the operations of training steps.

    Frames are counted many steps' at a time; what hidden layers emitted the engine adds up itself, so that nothing is
    done in a step. A step fills the processor's caches with its own: a microsecond's work between two takes several.

    Args:
        task: The task; not one with a network of the user's own.
        shape: Shape of one sample.
        classes: Number of classes.
    """

    def __init__(self, task: TaskSpec, shape: tuple[int, ...], classes: int) -> None:
        self._fixed = fixed = fixed_costs(task, shape, classes)
        self._ann = task.model.family == "ann"
        self._most = 1 if self._ann else task.encoding.steps
        self._activity: list[Activity] = [0] * len(fixed.entries)
        self._batches = self._samples = self._given = 0

    def give(self, frames: Frames) -> None:
        """The frames of one batch, counted at once: best when they have just been made and lie in the cache.

        Args:
            frames: `[S, B, *shape]`; an ANN reads the first of S.

        Raises:
            ValueError: They are not as many numbers as the first layer has inputs.
        """
        self.give_together(frames[np.newaxis])

    def give_together(self, frames: Frames) -> None:
        """The same of K batches, `[K, S, B, *shape]`."""
        samples = frames.shape[0] * frames.shape[2]
        read = frames[:, :1] if self._ann else frames
        entry = self._fixed.entries[0]
        self._activity[0] = self._activity[0] + activity_of_frames(entry, read, entry.steps * samples)
        self._given += samples

    def add(self, emitted: Emitted) -> None:
        """Forward and backward passes, over frames that were given.

        Args:
            emitted: What hidden layers emitted in them.

        Raises:
            ValueError: There are not as many layers as hidden ones, or they do not fit them.
        """
        entries, activity, most = self._fixed.entries, self._activity, emitted.passes * self._most
        if len(emitted.counts) != len(entries) - 1:
            raise ValueError(f"{len(emitted.counts)} layers emitted: expected {len(entries) - 1} hidden ones")
        for i, counts in enumerate(emitted.counts, 1):
            activity[i] = activity[i] + activity_of_counts(entries[i], counts, emitted.batch, most)
        self._batches += emitted.passes
        self._samples += emitted.passes * emitted.batch

    def total(self) -> Operations | None:
        """All operations so far; `None` where the network diverged, so that nobody knows what it emitted.

        Raises:
            ValueError: The passes that were added do not fit the frames that were given.
        """
        fixed, samples, batches = self._fixed, self._samples, self._batches
        active, effective, sites = list[int](), list[int](), list[int]()
        for entry, activity, places in zip(fixed.entries, self._activity, fixed.sites, strict=True):
            if isinstance(activity, np.ndarray):
                together, products = float(activity.sum()), float(activity @ entry.fan)
            else:
                together, products = activity, activity * entry.channels
            if not math.isfinite(together):
                return None
            active.append(int(together))
            effective.append(int(products))
            sites.append(samples * places)
        if self._given != samples:
            raise ValueError(f"frames of {self._given} samples were given, passes over {samples} added")
        backward_bytes = samples * fixed.backward_state_bytes + batches * fixed.backward_weight_bytes
        return Operations(
            macs=samples * fixed.macs,
            effective_macs=sum(effective[: fixed.multiplied]),
            acs=sum(effective[fixed.multiplied :]),
            dense_macs=samples * fixed.dense_macs,
            membrane_updates=samples * fixed.membrane_updates,
            backward_macs=samples * fixed.backward_macs,
            memory_bytes=samples * fixed.state_bytes + batches * fixed.weight_bytes,
            backward_bytes=backward_bytes,
            spikes=0 if self._ann else sum(active[1:]),
            spike_sites=0 if self._ann else sum(sites[1:]),
            active=tuple(active),
            sites=tuple(sites),
        )
