"""The files that cross between the host and lava's process, all in one folder.

The host writes `network.json`, `network.npz` (see `hardware.loihi.description`) and `input.npz` (`spikes`, uint8
`[N, T, *inputs]`), then starts `python -m hardware.loihi.run FOLDER`. That process writes `output.npz` (`layer_0`, ...,
uint8 `[N, T, *outputs]`) and, last, `answer.json`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from hardware.loihi.cuba import Spikes
from hardware.loihi.description import ChipNetwork, load, save
from hardware.loihi.errors import ChipError

INPUT, OUTPUT, ANSWER = "input.npz", "output.npz", "answer.json"
Where = Literal["hardware", "simulator", "reference"]
"""On a chip, in lava's fixed-point simulator, or in `hardware.loihi.cuba`, which is no lava."""


class Answer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What lava's process says besides the spikes.

    Attributes:
        where: Where the network ran.
        recorded: Indices of the layers whose spikes were recorded.
        duration_s: Wall time of the run, without the start of the process.
        versions: Of what computed it.
        energy_j: From lava's profiler on hardware; `None` elsewhere.
        energy_s: Time on the chip that `energy_j` covers.
        no_energy: Why `energy_j` is not there; empty otherwise.
    """

    where: Where
    recorded: tuple[int, ...]
    duration_s: float
    versions: dict[str, str]
    energy_j: float | None = None
    energy_s: float | None = None
    no_energy: str = ""


def write_request(folder: Path, network: ChipNetwork, spikes: Spikes) -> None:
    """What the host asks for."""
    save(network, folder)
    np.savez_compressed(folder / INPUT, allow_pickle=False, spikes=spikes)


def read_request(folder: Path) -> tuple[ChipNetwork, Spikes]:
    """What lava's process is asked.

    Raises:
        ChipError: The files are not those of a request.
    """
    return load(folder), _arrays(folder / INPUT)["spikes"]


def write_answer(folder: Path, answer: Answer, trains: tuple[Spikes, ...]) -> None:
    """What lava's process found; `trains` in the order of `answer.recorded`."""
    named = {f"layer_{index}": train for index, train in zip(answer.recorded, trains, strict=True)}
    np.savez_compressed(folder / OUTPUT, allow_pickle=False, **named)
    (folder / ANSWER).write_bytes(msgspec.json.encode(answer))


def read_answer(folder: Path) -> tuple[Answer, tuple[Spikes, ...]]:
    """What the host is told.

    Raises:
        ChipError: The files are not those of an answer.
    """
    try:
        answer = msgspec.json.decode((folder / ANSWER).read_bytes(), type=Answer)
        arrays = _arrays(folder / OUTPUT)
        return answer, tuple(arrays[f"layer_{index}"] for index in answer.recorded)
    except (OSError, KeyError, msgspec.MsgspecError) as error:
        raise ChipError(f"{folder}: no answer of lava's process: {error}") from error


def _arrays(path: Path) -> dict[str, Spikes]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError) as error:
        raise ChipError(f"{path}: no arrays of this program: {error}") from error
    if bad := [name for name, array in found.items() if array.dtype != np.uint8]:
        raise ChipError(f"{path}: {', '.join(bad)} should be uint8")
    return found
