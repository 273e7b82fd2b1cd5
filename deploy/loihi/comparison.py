"""One network, three ways: snntorch in floats, numpy in the chip's integers, lava."""

from __future__ import annotations

import time

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from deploy.loihi.digits import Digits
from deploy.loihi.network import OnGrid
from deploy.loihi.training import train
from hardware.energy import EnergyReading
from hardware.loihi.agreement import Agreement, agreement
from hardware.loihi.cuba import ACCUMULATOR_LIMIT, Spikes, simulate
from hardware.loihi.energy import count, readings
from hardware.loihi.environment import Lava

LEAST_EQUAL = 0.99


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """What one network did.

    Attributes:
        network: Its name.
        digits: How many held-out digits it saw.
        steps: Time steps of each.
        all_layers: snntorch against lava, every recorded layer.
        output: snntorch against lava, the last layer alone.
        reference: `hardware.loihi.cuba` against lava, every recorded layer.
        snntorch_right: Digits that snntorch's spike counts get right.
        chip_right: Digits that lava's get right.
        where: `simulator` or `hardware`.
        readings: Energy of all digits together, never to be added up.
        largest_sum: Largest sum of weights that a neuron saw at once.
        versions: Of what computed lava's side.
        trained_s: Seconds of training.
        ran_s: Seconds of lava.
    """

    network: str
    digits: int
    steps: int
    all_layers: Agreement
    output: Agreement
    reference: Agreement
    snntorch_right: int
    chip_right: int
    where: str
    readings: tuple[EnergyReading, ...]
    largest_sum: int
    versions: dict[str, str]
    trained_s: float
    ran_s: float

    @property
    def holds(self) -> bool:
        """Whether snntorch and lava share enough of their spikes, in all layers and in the last one."""
        return min(self.all_layers.equal, self.output.equal, self.reference.equal) >= LEAST_EQUAL

    @property
    def fits_the_accumulator(self) -> bool:
        """Whether no sum of weights was beyond the 16 bits that lava declares."""
        return self.largest_sum <= ACCUMULATOR_LIMIT


def compare(name: str, net: OnGrid, data: tuple[Digits, Digits], lava: Lava, rng: np.random.Generator) -> Comparison:
    """Trains a network, exports it and runs held-out digits through all three.

    Raises:
        ChipError: The trained network does not fit the chip, or never fires.
        NoLavaError: Lava failed.
    """
    began_s = time.monotonic()
    train(net, data[0], rng)
    trained_s = time.monotonic() - began_s
    held_out = data[1]
    spikes = held_out.spikes(np.arange(len(held_out.y)), rng, net.shapes[0].inputs)
    ours = _snntorch(net, spikes)
    network = net.exported()
    integers = simulate(network, spikes)
    chip = lava.run(network, spikes)
    recorded = chip.answer.recorded
    complete = len(recorded) == len(network.layers)
    return Comparison(
        network=name,
        digits=len(spikes),
        steps=spikes.shape[1],
        all_layers=agreement(tuple(ours[i] for i in recorded), chip.trains),
        output=agreement(ours[-1:], chip.trains[-1:]),
        reference=agreement(tuple(integers.trains[i] for i in recorded), chip.trains),
        snntorch_right=_right(ours[-1], held_out.y),
        chip_right=_right(chip.trains[-1], held_out.y),
        where=chip.answer.where,
        readings=readings(chip.answer, count(network, spikes, chip.trains) if complete else None),
        largest_sum=integers.largest_sum,
        versions=chip.answer.versions,
        trained_s=trained_s,
        ran_s=chip.answer.duration_s,
    )


def _snntorch(net: OnGrid, spikes: Spikes) -> tuple[Spikes, ...]:
    with torch.no_grad():
        found = net(torch.from_numpy(np.moveaxis(spikes, 1, 0).astype(np.float32)))
    return tuple(np.moveaxis(train.numpy().astype(np.uint8), 0, 1) for train in found)


def _right(train: Spikes, labels: NDArray[np.int64]) -> int:
    return int((train.sum(1, dtype=np.int64).argmax(1) == labels).sum())
