"""A task made ready once for all devices of a process: the data set dealt, the engine opened."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from contract.datasets import held_out_split, load_part, partition, task_info
from contract.datasets.cache import Samples
from contract.encodings import input_shape
from contract.task import TaskSpec, task_hash
from edge_client.engine import Engine, Graphs, open_engine
from edge_client.settings import ClientSettings
from edge_client.training import Shard


class _Ready(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    rows: tuple[NDArray[np.int64], ...]
    x: Samples
    y: NDArray[np.int64]
    classes: int
    engine: Engine


class SharedPreparation:
    """Stands in for `edge_client.app.prepare`: what that does for one device, for all of them at the cost of one.

    The devices of a process train one after the other, and an engine keeps nothing from one update to the next.
    """

    def __init__(self) -> None:
        self._ready: dict[tuple[str, int], _Ready] = {}

    @property
    def made(self) -> bool:
        """Whether a task is ready: what it needs of graphs is then on the disk."""
        return bool(self._ready)

    def __call__(self, settings: ClientSettings, task: TaskSpec, graphs: Graphs) -> tuple[Shard, Engine]:
        """The device's part of the data, and the engine.

        Raises:
            ConfigurationError: The data set or the engine is not to be had here.
        """
        key = (task_hash(task), settings.shards)
        if key not in self._ready:
            self._ready[key] = _prepared(settings, task, graphs)
        ready = self._ready[key]
        mine = ready.rows[settings.shard]
        return Shard(x=ready.x[mine], y=ready.y[mine], classes=ready.classes), ready.engine


def _prepared(settings: ClientSettings, task: TaskSpec, graphs: Graphs) -> _Ready:
    info = task_info(task)
    rows: list[NDArray[np.int64]] = []

    def train(y: NDArray[np.int64], users: NDArray[np.int64] | None) -> NDArray[np.int64]:
        chosen, _ = held_out_split(task, y, users)
        rows[:] = partition(task, y[chosen], settings.shards, None if users is None else users[chosen])
        return chosen

    data = load_part(task.dataset, train)
    shape = input_shape(task.encoding, info.shape)
    engine = open_engine(settings.engine, task, shape, info.classes, threads=settings.threads, graphs=graphs)
    return _Ready(rows=tuple(rows), x=data.x, y=data.y, classes=info.classes, engine=engine)
