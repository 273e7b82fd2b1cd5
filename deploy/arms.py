"""The federated runs of a study: the task itself, and its ANN twin."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from contract.encodings import SERIES
from contract.task import TaskSpec
from server.settings import ScheduleEntry

if TYPE_CHECKING:
    from deploy.study import Study, TwinSection


class Arm(msgspec.Struct, frozen=True, kw_only=True):
    """One federated run of a study: the task itself, or its twin."""

    label: str
    task: TaskSpec
    schedule: tuple[ScheduleEntry, ...]
    directory: Path


def arms(study: Study, out: Path) -> list[Arm]:
    """The federated runs of a study: the task, and its twin when asked for."""
    label = study.task.model.family if study.task.model.own is None else "own"
    found = [Arm(label=label, task=study.task, schedule=study.schedule, directory=out)]
    if study.twin is not None:
        model = msgspec.structs.replace(study.task.model, family="ann", activation=study.twin.activation)
        schedule = tuple(_twin_entry(entry, study.twin) for entry in study.schedule)
        # A network without time sees whole intensities, not one step of their spikes.
        gain = 1.0 if study.task.encoding.kind in SERIES else study.task.encoding.gain
        encoding = msgspec.structs.replace(study.task.encoding, kind="direct", gain=gain)
        task = msgspec.structs.replace(study.task, model=model, encoding=encoding)
        found.append(Arm(label="twin", task=task, schedule=schedule, directory=out / "twin"))
    return found


def _twin_entry(entry: ScheduleEntry, twin: TwinSection) -> ScheduleEntry:
    if twin.learning_rate is None or entry.kind != "train":
        return entry
    return msgspec.structs.replace(entry, learning_rate=twin.learning_rate)
