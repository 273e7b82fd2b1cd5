"""`make loihi`: trains two networks on digits, runs them by lava, and prints how far the spikes agree."""

from __future__ import annotations

import argparse
import sys

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from contract.errors import SpikeleakError
from deploy.loihi.comparison import LEAST_EQUAL, Comparison, compare
from deploy.loihi.digits import digits
from deploy.loihi.network import OnGrid, convolutional, fully_connected
from hardware.energy import EnergyReading
from hardware.loihi.cuba import ACCUMULATOR_LIMIT
from hardware.loihi.environment import Lava
from hardware.loihi.errors import ChipError, NoLavaError

COLUMNS = ("network", "digits", "steps", "spikes", "equal", "output", "equal", "numpy", "right", "ran on", "seconds")
WIDE = 200


def networks() -> dict[str, OnGrid]:
    """The networks that are compared, by name."""
    return {"fc 784-128-10": fully_connected(128), "conv 8c5-16c5-10": convolutional(8, 16)}


def main(arguments: list[str] | None = None) -> int:
    """Runs it; returns 0 when all networks agree, 1 otherwise."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.loihi",
        description="Trained snntorch networks against lava's fixed-point simulation of Loihi 2, on MNIST digits.",
        epilog="Example: python -m deploy.loihi --digits 100",
    )
    parser.add_argument("--digits", type=int, default=100, help="held-out digits that each network sees (1 to 1000)")
    parser.add_argument("--seed", type=int, default=1, help="decides networks, training and spikes")
    chosen = parser.parse_args(arguments)
    if not 1 <= chosen.digits <= 1000:
        parser.error(f"--digits {chosen.digits}: 1 to 1000, the fewest that any data set here holds out")
    console = Console(width=WIDE, soft_wrap=True)
    torch.manual_seed(chosen.seed)
    torch.set_num_threads(1)  # these networks are small: more threads wait for one another
    try:
        lava = Lava.find()
        console.print(f"lava would run on: {lava.where()}")
        data = digits(chosen.digits)
        found = []
        for name, net in networks().items():
            console.print(f"{name}: training on {len(data[0].y)} digits of {data[0].name}, then {chosen.digits} others")
            found.append(compare(name, net, data, lava, np.random.default_rng(chosen.seed)))
    except (ChipError, NoLavaError) as error:
        print(f"loihi: {error}", file=sys.stderr)
        return 1
    except SpikeleakError as error:
        print(f"loihi: {error}", file=sys.stderr)
        return error.exit_status
    report(console, found)
    return 0 if all(row.holds for row in found) else 1


def report(console: Console, found: list[Comparison]) -> None:
    """Prints what was found."""
    table = Table(box=None, pad_edge=False)
    for title in COLUMNS:
        table.add_column(title)
    for row in found:
        table.add_row(*_cells(row))
    console.print(table)
    console.print(
        "spikes: fired by snntorch's network or by lava's, at the same neuron, step and digit; equal: fired by both, "
        "silence not counted; output: the last layer alone; numpy: the integer reference against lava; right: digits "
        "that snntorch's and lava's spike counts get right"
    )
    for row in found:
        for reading in row.readings:
            console.print(f"{row.network}: energy of inference, {row.digits} digits: {_told(reading)}")
        if not row.fits_the_accumulator:
            console.print(
                f"{row.network}: a sum of weights reached {row.largest_sum}, beyond the {ACCUMULATOR_LIMIT} of the "
                "accumulator that lava declares and does not simulate: real hardware may differ"
            )
    console.print(", ".join(f"{name} {version}" for name, version in found[0].versions.items()))
    short = [row.network for row in found if not row.holds]
    verdict = f"below {LEAST_EQUAL:.0%}: {', '.join(short)}" if short else f"all at least {LEAST_EQUAL:.0%}"
    console.print(f"equal spikes: {verdict}")


def _cells(row: Comparison) -> tuple[str, ...]:
    return (
        row.network,
        str(row.digits),
        str(row.steps),
        str(row.all_layers.either),
        f"{row.all_layers.equal:.3%}",
        str(row.output.either),
        f"{row.output.equal:.3%}",
        f"{row.reference.equal:.3%}",
        f"{row.snntorch_right}, {row.chip_right}",
        row.where,
        f"train {row.trained_s:.0f}, run {row.ran_s:.0f}",
    )


def _told(reading: EnergyReading) -> str:
    if reading.energy_j is None:
        return f"{reading.source}: unavailable ({reading.reason})"
    return f"{reading.source}: {reading.energy_j:.3g} J, {reading.provenance}, {reading.scope}"


if __name__ == "__main__":
    sys.exit(main())
