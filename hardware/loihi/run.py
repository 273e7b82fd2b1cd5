"""Lava's process: `python -m hardware.loihi.run FOLDER`, started by `hardware.loihi.environment`.

Reads a request from the folder and writes the answer into it (see `hardware.loihi.request`). `--where` only says where
a network would run. `--reference` computes by `hardware.loihi.cuba` and needs no lava: it checks everything but lava.
Exit status: 0; 1 lava failed; 2 the request cannot be run.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import platform
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, cast

from hardware.loihi.cuba import Spikes, simulate
from hardware.loihi.description import ChipNetwork
from hardware.loihi.errors import ChipError
from hardware.loihi.request import Answer, read_request, write_answer

if TYPE_CHECKING:
    from types import ModuleType

DISTRIBUTIONS = ("lava-nc", "lava-dl", "numpy")


def main(arguments: list[str] | None = None) -> int:
    """Runs one request; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m hardware.loihi.run",
        description="Runs one spiking network by lava.",
        epilog="Example: python -m hardware.loihi.run /tmp/request",
    )
    parser.add_argument("folder", type=Path, nargs="?", help="folder with a request, as hardware.loihi.request says")
    parser.add_argument("--where", action="store_true", help="say 'hardware' or 'simulator' and run nothing")
    parser.add_argument("--reference", action="store_true", help="compute in numpy, without lava")
    chosen = parser.parse_args(arguments)
    if chosen.where:
        sys.stdout.write(f"{_where()}\n")
        return 0
    if chosen.folder is None:
        parser.error("name the folder of a request, or --where")
    try:
        network, spikes = read_request(chosen.folder)
        run = _reference if chosen.reference else _lava
        answer, trains = run(network, spikes, chosen.folder)
    except ChipError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    write_answer(chosen.folder, answer, trains)
    return 0


def _prepared() -> None:
    importlib.import_module("hardware.loihi.lava_import").prepare()


def _where() -> str:
    _prepared()
    loihi: ModuleType = importlib.import_module("lava.utils.loihi")
    importlib.import_module("hardware.loihi.chip")  # all that a run needs is there
    return "hardware" if loihi.is_installed() else "simulator"


def _lava(network: ChipNetwork, spikes: Spikes, folder: Path) -> tuple[Answer, tuple[Spikes, ...]]:
    _prepared()
    chip: ModuleType = importlib.import_module("hardware.loihi.chip")
    return cast("tuple[Answer, tuple[Spikes, ...]]", chip.run(network, spikes, folder, _versions()))


def _reference(network: ChipNetwork, spikes: Spikes, _folder: Path) -> tuple[Answer, tuple[Spikes, ...]]:
    began_s = time.monotonic()
    trains = simulate(network, spikes).trains
    answer = Answer(
        where="reference",
        recorded=tuple(range(len(trains))),
        duration_s=time.monotonic() - began_s,
        versions=_versions(),
        no_energy="the numpy reference is no chip",
    )
    return answer, trains


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    sys.exit(main())
