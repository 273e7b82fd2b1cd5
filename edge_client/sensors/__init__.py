"""A device's own data: read from a folder, a table or the user's own Python file, checked, and held as a shard.

numpy and the standard library only. Nothing here is sent anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from contract.errors import ConfigurationError
from contract.task import OwnData
from edge_client.sensors.entry import read_entry
from edge_client.sensors.folder import read_folder
from edge_client.sensors.sample import Sample
from edge_client.sensors.settings import SensorSettings
from edge_client.sensors.table import read_table
from edge_client.training import Shard

__all__ = ["READERS", "SensorSettings", "read_shard"]

Reader = Callable[[SensorSettings, OwnData], Iterator[Sample]]

READERS: dict[str, Reader] = {"folder": read_folder, "csv": read_table, "python": read_entry}
"""One reader a kind; each yields samples with the place that they come from, for errors."""
MOST_BYTES = 64 * 1024 * 1024
"""What a device may hold of its own samples: a board has little memory."""


def read_shard(sensor: SensorSettings | str, data: OwnData) -> Shard:
    """All samples of a device, as what it trains on.

    Args:
        sensor: Where they come from; a string is `FILE.py:FACTORY`.
        data: What the task says of them.

    Raises:
        ConfigurationError: A file that is not there or cannot be read, a sample of another shape, with a reading that
            is not finite or outside the range, or with a label that the task does not know; names the file. Also no
            sample at all, or more than fit.
    """
    settings = SensorSettings.of(sensor)
    x: list[NDArray[np.float32]] = []
    y: list[int] = []
    held = 0
    for sample in READERS[settings.kind](settings, data):
        x.append(_checked(sample, settings, data))
        y.append(_label(sample, settings, data))
        held += x[-1].nbytes
        if held > MOST_BYTES:
            raise ConfigurationError(
                f"{sample.place}: the samples up to here take {held} bytes, a device holds at most {MOST_BYTES}: name "
                "a smaller part of them in [sensor]"
            )
    if not x:
        raise ConfigurationError(
            f"{settings.named}: holds no sample of a known label; see edge_client/sensors/README.md"
        )
    return Shard(x=np.stack(x), y=np.array(y, dtype=np.int64), classes=data.classes)


def _checked(sample: Sample, settings: SensorSettings, data: OwnData) -> NDArray[np.float32]:
    """A sample in [0, 1]."""
    try:
        raw = np.asarray(sample.values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"{sample.place}: is no array of numbers ({error})") from error
    if raw.shape != data.shape:
        raise ConfigurationError(
            f"{sample.place}: a sample of shape {list(raw.shape)}, the task's (own_data.shape) {list(data.shape)}"
        )
    low, high = (0.0, 1.0) if sample.scaled else (settings.low, settings.high)
    outside = ~((raw >= low) & (raw <= high))  # not a number is neither
    if outside.any():
        place = tuple(int(i) for i in np.argwhere(outside)[0])
        raise ConfigurationError(
            f"{sample.place}: reading {raw[place]:g} at {list(place)} is outside {low:g} to {high:g}: "
            + ("scale it to [0, 1]" if sample.scaled else "set sensor.low and sensor.high to what the sensor can give")
        )
    return ((raw - low) / (high - low)).astype(np.float32)


def _label(sample: Sample, settings: SensorSettings, data: OwnData) -> int:
    given = sample.label
    if settings.labels and isinstance(given, str):
        if given not in settings.labels:
            raise ConfigurationError(
                f"{sample.place}: label {given!r} is none of sensor.labels: {', '.join(settings.labels)}"
            )
        label = settings.labels.index(given)
    else:
        try:
            label = int(given)
        except (TypeError, ValueError):
            raise ConfigurationError(
                f"{sample.place}: label {given!r} is no number: name the classes in their order in sensor.labels"
            ) from None
    if not 0 <= label < data.classes:
        raise ConfigurationError(
            f"{sample.place}: label {given!r} is class {label}, the task has 0 to {data.classes - 1} (own_data.classes)"
        )
    return label
