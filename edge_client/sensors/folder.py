"""A folder of files, one a sample: `.npy` arrays, or `.wav` recordings as cochleagrams (`contract.cochlea`)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from contract.cochlea import cochleagram, read_wav
from contract.errors import ConfigurationError
from contract.task import OwnData
from edge_client.sensors.sample import Sample
from edge_client.sensors.settings import SensorSettings

KINDS = (".wav", ".npy")


def read_folder(settings: SensorSettings, data: OwnData) -> Iterator[Sample]:
    """The files of a folder in the order of their names.

    A file's label is the name of the folder below `path` that holds it, or, of a file directly in `path`, what stands
    before the first `_` of its name.

    Raises:
        ConfigurationError: No such folder, a file that cannot be read, or recordings in a task without series.
    """
    if not settings.path.is_dir():
        raise ConfigurationError(f"{settings.named}: is no folder")
    for path in sorted(p for p in settings.path.rglob("*") if p.suffix.lower() in KINDS and p.is_file()):
        below = path.relative_to(settings.path).parts
        label = below[0] if len(below) > 1 else path.stem.partition("_")[0]
        sound = path.suffix.lower() == ".wav"
        values = _recording(path, data) if sound else _array(path)
        yield Sample(values=values, label=label, place=str(path), scaled=sound)


def _recording(path: Path, data: OwnData) -> Any:
    if not data.series:
        raise ConfigurationError(
            f"{path}: a recording becomes a series [bands, moments], the task's samples have the shape "
            f"{list(data.shape)} without series = true: set task.own_data.shape = [32, 64] and series = true"
        )
    bands, moments = data.shape
    try:
        return cochleagram(*read_wav(path.read_bytes()), bands=bands, frames=moments)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path}: cannot be read: {error}") from error


def _array(path: Path) -> Any:
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ConfigurationError(f"{path}: cannot be read: {error}") from error
