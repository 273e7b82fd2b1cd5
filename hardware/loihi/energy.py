"""What inference on the chip costs: lava's profiler on hardware, else operations times Loihi 1's constants.

Synaptic operations are counted from the spikes: each spike is charged for every synapse that it reaches (at the edges
of an image fewer than in its middle). Every neuron is updated at every step.
"""

from __future__ import annotations

import msgspec
import numpy as np

from hardware.energy import EnergyReading, unavailable
from hardware.energy_model import EnergyModel
from hardware.loihi.cuba import Spikes, windows
from hardware.loihi.description import ChipNetwork, Layer
from hardware.loihi.request import Answer

PROFILE = "loihi1"
PROFILER = "lava:Loihi2Power"
NO_LOIHI2 = "no trustworthy primary figure per operation of Loihi 2 was published"


class ChipOperations(msgspec.Struct, frozen=True, kw_only=True):
    """Counted over all samples and steps."""

    synaptic: int
    neuron_updates: int


def count(network: ChipNetwork, spikes: Spikes, trains: tuple[Spikes, ...]) -> ChipOperations:
    """Counts operations.

    Args:
        network: The network.
        spikes: Its input `[N, T, *inputs]`.
        trains: Of every layer `[N, T, *outputs]`.
    """
    samples, steps = spikes.shape[:2]
    arriving = (spikes, *trains[:-1])
    synaptic = sum(_synaptic(layer, train) for layer, train in zip(network.layers, arriving, strict=True))
    return ChipOperations(
        synaptic=synaptic, neuron_updates=samples * steps * sum(layer.shape.neurons for layer in network.layers)
    )


def _synaptic(layer: Layer, train: Spikes) -> int:
    if layer.shape.kind == "dense":
        return int(np.count_nonzero(train)) * layer.shape.neurons
    reached = sum(int(np.count_nonzero(windows(layer, sample))) for sample in train)
    return reached * layer.shape.outputs[0]


def readings(answer: Answer, operations: ChipOperations | None) -> tuple[EnergyReading, ...]:
    """The figures of one run, never to be added up: what was measured or modelled, and what is not known.

    Args:
        answer: Of the run.
        operations: Counted from it; `None` where the hidden layers' spikes are not known.
    """
    if answer.energy_j is not None:
        duration_s = answer.energy_s or 0.0
        return (
            EnergyReading(
                energy_j=answer.energy_j,
                duration_s=duration_s,
                source=PROFILER,
                scope="chip",
                provenance="measured",
                samples=1,
            ),
        )
    measured = unavailable(PROFILER, "chip", answer.no_energy or "lava's profiler gave nothing")
    if operations is None:
        reason = "the spikes of hidden layers were not recorded, so that no operations are counted"
        return measured, unavailable(f"model:{PROFILE}", "operations", reason)
    modelled = EnergyModel.load(PROFILE).compute(
        macs=0,
        acs=operations.synaptic,
        membrane_updates=operations.neuron_updates,
        backward_macs=0,
        memory_bytes=0,
        duration_s=0.0,
    )
    return measured, modelled, unavailable("model:loihi2", "operations", NO_LOIHI2)
