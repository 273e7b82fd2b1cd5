"""Writes lava-dl's network exchange file. Runs in lava's environment only, which has h5py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hardware.loihi.description import ChipNetwork
from hardware.loihi.netx_records import records


def write(network: ChipNetwork, path: Path) -> None:
    """Writes the file, in place of what is there."""
    with h5py.File(path, "w") as file:
        group = file.create_group("layer")
        for index, record in enumerate(records(network)):
            _put(group.create_group(str(index)), record)


def _put(group: Any, record: dict[str, Any]) -> None:
    for name, value in record.items():
        if isinstance(value, dict):
            _put(group.create_group(name), value)
        elif isinstance(value, str):
            group.create_dataset(name, data=np.array([value.encode("ascii")]))
        else:
            group.create_dataset(name, data=value)
