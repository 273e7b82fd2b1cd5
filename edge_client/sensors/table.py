"""A table with a line a reading, as loggers write them: windows of it are samples `[channels, readings]`."""

from __future__ import annotations

import csv
from collections.abc import Iterator

import numpy as np

from contract.errors import ConfigurationError
from contract.task import OwnData
from edge_client.sensors.sample import Sample
from edge_client.sensors.settings import SensorSettings


def read_table(settings: SensorSettings, data: OwnData) -> Iterator[Sample]:
    """Windows of lines that have one label throughout; a line without a label ends a stretch and belongs to none.

    The first line names the columns; commas separate them. What is left of a stretch at its end is no sample.

    Raises:
        ConfigurationError: No such file, a column that it lacks, a reading that is no number, or a task whose samples
            are no series of so many channels.
    """
    if not data.series or data.shape[0] != len(settings.channels):
        raise ConfigurationError(
            f"{settings.named}: {len(settings.channels)} channels ({', '.join(settings.channels)}), the task's samples "
            f"have the shape {list(data.shape)}{'' if data.series else ' without series = true'}: expected a series "
            f"[{len(settings.channels)}, readings] (task.own_data)"
        )
    length = data.shape[-1]
    stride = settings.stride or length
    window: list[list[float]] = []
    before, skipped = "", 0
    for number, label, readings in _lines(settings):
        if label != before:
            window, before, skipped = [], label, 0
        if not label:
            continue
        if skipped:
            skipped -= 1
            continue
        window.append(readings)
        if len(window) == length:
            place = f"{settings.path}, lines {number - length + 1} to {number}"
            yield Sample(values=np.array(window).T, label=label, place=place)
            window, skipped = window[stride:], max(stride - length, 0)


def _lines(settings: SensorSettings) -> Iterator[tuple[int, str, list[float]]]:
    """Number from 1, label and readings of each line after the first."""
    try:
        with settings.path.open(newline="", encoding="utf-8") as file:
            table = csv.DictReader(file)
            absent = [c for c in (*settings.channels, settings.label) if c not in (table.fieldnames or ())]
            if absent:
                raise ConfigurationError(
                    f"{settings.path}: has no column {absent[0]!r}; its columns: {', '.join(table.fieldnames or ())}"
                )
            for line in table:
                try:
                    readings = [float(line[channel]) for channel in settings.channels]
                except (TypeError, ValueError) as error:
                    raise ConfigurationError(f"{settings.path}, line {table.line_num}: {error}") from error
                yield table.line_num, (line[settings.label] or "").strip(), readings
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigurationError(f"{settings.path}: cannot be read: {error}") from error
