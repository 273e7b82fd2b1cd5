"""What the attacker of a study suspects: samples of the data set, some of them in the devices' updates, most not."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from contract.datasets import load
from contract.encodings import intensities
from contract.errors import ConfigurationError
from contract.streams import stream
from contract.task import TaskSpec


def write_candidates(path: Path, task: TaskSpec, count: int) -> Path:
    """Draws samples of the task's data set without looking at who holds them, and writes them for the attacker.

    Args:
        path: The `.npz` file; an existing one is kept, so that a resumed run asks about the same samples.
        task: Names the data set; its seed decides the draw.
        count: Number of samples.

    Raises:
        ConfigurationError: The data set has fewer samples.
    """
    if path.exists():
        return path
    data = load(task.dataset)
    if count > len(data.x):
        raise ConfigurationError(f"attack.candidates = {count}: data set {task.dataset!r} has {len(data.x)} samples")
    drawn = np.sort(stream(task.seed, "candidates").choice(len(data.x), size=count, replace=False))
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, x=intensities(task.encoding, data.x[list(drawn)]))
    return path
