"""The graphs that an engine wants: which of them a device still has to fetch (pure), and where it keeps them (disk).

A part of the state machine in `client`: a task is prepared once all its graphs are there. Brokers lose messages, so
that a graph that does not come is subscribed to again: what is retained is then sent anew.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import msgspec

from contract.messages import GraphRecord
from edge_client.events import (
    Action,
    FetchGraph,
    GraphArrived,
    Idle,
    KeepGraph,
    LeaveGraph,
    PrepareTask,
    TaskArrived,
    Warn,
)
from edge_client.spool import write_durably

log = logging.getLogger(__name__)

FIRST_WAIT_S = 5.0
"""How long a graph is waited for before it is asked for again; doubled each time."""
LONGEST_WAIT_S = 60.0


class Awaited(msgspec.Struct, frozen=True, kw_only=True):
    """What is missing before a task can be prepared.

    Attributes:
        task_hash: The task.
        records: Graphs that are not here yet.
        due_s: When to ask for them again.
        tries: How often they were asked for.
    """

    task_hash: str
    records: tuple[GraphRecord, ...]
    due_s: float
    tries: int = 1


Step = tuple[Awaited | None, list[Action]]


def task_arrived(awaited: Awaited | None, event: TaskArrived, now_s: float) -> Step:
    """A task to prepare: at once, or when its graphs are there. The last task named is the one that counts."""
    before = () if awaited is None else awaited.records
    if awaited is not None and (awaited.task_hash, before) == (event.task_hash, event.missing):
        return awaited, []
    actions: list[Action] = [LeaveGraph(name=record.name) for record in before]
    if not event.missing:
        return None, [*actions, PrepareTask(task_hash=event.task_hash)]
    actions += [FetchGraph(name=record.name) for record in event.missing]
    return Awaited(task_hash=event.task_hash, records=event.missing, due_s=now_s + FIRST_WAIT_S), actions


def graph_arrived(awaited: Awaited | None, event: GraphArrived, _now_s: float) -> Step:
    """Takes a graph whose SHA-256 is the manifest's, and refuses any other."""
    record = next((r for r in (awaited.records if awaited else ()) if r.name == event.name), None)
    if awaited is None or record is None:
        return awaited, []
    if event.sha256 != record.sha256:
        text = (
            f"graph {event.name!r} refused: its SHA-256 is {event.sha256}, the task's manifest says {record.sha256}; "
            "no training until the right one comes"
        )
        return awaited, [Warn(text=text)]
    actions: list[Action] = [LeaveGraph(name=record.name), KeepGraph(record=record)]
    rest = tuple(r for r in awaited.records if r is not record)
    if rest:
        return msgspec.structs.replace(awaited, records=rest), actions
    return None, [*actions, PrepareTask(task_hash=awaited.task_hash)]


def overdue(awaited: Awaited | None, _event: Idle, now_s: float) -> Step:
    """Asks again for what did not come in time."""
    if awaited is None or now_s < awaited.due_s:
        return awaited, []
    names = [record.name for record in awaited.records]
    wait_s = min(FIRST_WAIT_S * 2**awaited.tries, LONGEST_WAIT_S)
    actions: list[Action] = [
        Warn(text=f"graph {' and '.join(map(repr, names))} not received yet: asking again, then in {wait_s:g} s")
    ]
    for name in names:
        actions += [LeaveGraph(name=name), FetchGraph(name=name)]
    return msgspec.structs.replace(awaited, due_s=now_s + wait_s, tries=min(awaited.tries + 1, 16)), actions


class GraphCache:
    """Graphs on disk by their SHA-256.

    Args:
        folder: Made when something is kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _path(self, record: GraphRecord) -> Path:
        return self._folder / f"{record.sha256}.onnx"

    def get(self, record: GraphRecord) -> bytes | None:
        """The graph, if a sound copy of it is here; a damaged copy is not."""
        path = self._path(record)
        try:
            blob = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            log.warning("%s cannot be read (%s): the graph is fetched again", path, error)
            return None
        if hashlib.sha256(blob).hexdigest() != record.sha256:
            log.warning("%s is damaged: the graph is fetched again", path)
            return None
        return blob

    def keep(self, record: GraphRecord, blob: bytes) -> None:
        """Stores a graph durably.

        Raises:
            EnvironmentFaultError: The disk is full, read-only or broken.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        write_durably(self._path(record), blob)
