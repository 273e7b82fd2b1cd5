"""What may happen to a device, and what it may be asked to do: the two sides of the state machine in `client`."""

from __future__ import annotations

import msgspec

from contract.messages import Ack, GraphRecord, ServerState
from contract.task import RoundPlan
from edge_client.spool import SpoolItem


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    """Base of events and actions."""


# --- events ---------------------------------------------------------------------------------------------------------


class Up(_Record, frozen=True, kw_only=True):
    """The connection stands, subscriptions included."""


class Down(_Record, frozen=True, kw_only=True):
    """The connection is lost."""

    reason: str = ""


class TaskArrived(_Record, frozen=True, kw_only=True):
    """The server named a task that is not prepared.

    Attributes:
        missing: Graphs that the engine wants and that are not on this device.
    """

    task_hash: str
    missing: tuple[GraphRecord, ...] = ()


class GraphArrived(_Record, frozen=True, kw_only=True):
    """A graph is complete."""

    name: str
    sha256: str


class Prepared(_Record, frozen=True, kw_only=True):
    """The task's data and engine are ready."""

    task_hash: str


class StateArrived(_Record, frozen=True, kw_only=True):
    """The server said what it is doing."""

    state: ServerState


class ModelArrived(_Record, frozen=True, kw_only=True):
    """A model object is complete."""

    version: int
    sha256: str


class AckArrived(_Record, frozen=True, kw_only=True):
    """The server's verdict on one object."""

    ack: Ack


class MasksReady(_Record, frozen=True, kw_only=True):
    """The secure aggregation of a round is agreed upon: an update for it can be masked.

    Attributes:
        key: Task hash, round and attempt.
    """

    key: tuple[str, int, int]


class ReconstructionArrived(_Record, frozen=True, kw_only=True):
    """The attacker's answer to one of our updates is complete."""

    uid: str


class Made(_Record, frozen=True, kw_only=True):
    """Training or scoring brought forth objects to publish."""

    items: tuple[SpoolItem, ...]
    model_version: int = -1


class Lost(_Record, frozen=True, kw_only=True):
    """A stored object turned out to be unreadable."""

    uid: str


class Idle(_Record, frozen=True, kw_only=True):
    """Nothing waits to be read.

    Attributes:
        sending: The network still hands over what it was given: nobody can have missed that yet.
    """

    sending: bool = False


Event = (
    Up
    | Down
    | TaskArrived
    | GraphArrived
    | Prepared
    | StateArrived
    | ModelArrived
    | AckArrived
    | MasksReady
    | ReconstructionArrived
    | Made
    | Lost
    | Idle
)

# --- actions --------------------------------------------------------------------------------------------------------


class Announce(_Record, frozen=True, kw_only=True):
    """Publish the device's state."""


class FetchGraph(_Record, frozen=True, kw_only=True):
    """Subscribe to a graph's chunks."""

    name: str


class LeaveGraph(_Record, frozen=True, kw_only=True):
    """End that subscription."""

    name: str


class KeepGraph(_Record, frozen=True, kw_only=True):
    """Store the graph that just arrived: it is the one that the manifest names."""

    record: GraphRecord


class PrepareTask(_Record, frozen=True, kw_only=True):
    """Load the task's data and open the engine: its graphs are there."""

    task_hash: str


class FetchModel(_Record, frozen=True, kw_only=True):
    """Subscribe to a model's chunks."""

    version: int


class LeaveModel(_Record, frozen=True, kw_only=True):
    """End that subscription."""

    version: int


class Train(_Record, frozen=True, kw_only=True):
    """Make the update of a round from the model that is held."""

    round: int
    attempt: int
    plan: RoundPlan
    model_version: int


class SpoolPut(_Record, frozen=True, kw_only=True):
    """Store an object durably."""

    item: SpoolItem


class SpoolDelete(_Record, frozen=True, kw_only=True):
    """The server has it, or will never take it."""

    uid: str


class Send(_Record, frozen=True, kw_only=True):
    """Publish a stored object: these chunks, or all."""

    uid: str
    chunks: tuple[int, ...] | None = None


class CutSmaller(_Record, frozen=True, kw_only=True):
    """Cut objects into smaller frames from now on: this one does not get through."""

    uid: str


class TakeBack(_Record, frozen=True, kw_only=True):
    """An update was refused for its time alone: under error feedback its content goes into the next one."""

    uid: str


class AnswerAnew(_Record, frozen=True, kw_only=True):
    """The update of the round was refused for the life in which it was made: forget, durably, that it was made."""


class ReportEnergy(_Record, frozen=True, kw_only=True):
    """An update was settled: make its energy report."""

    uid: str
    admitted: bool
    sent_s: float | None


class ScoreReconstruction(_Record, frozen=True, kw_only=True):
    """Hold a reconstruction against the truth."""

    uid: str


class Warn(_Record, frozen=True, kw_only=True):
    """Write a line into the log."""

    text: str


class Finish(_Record, frozen=True, kw_only=True):
    """The run is over for this device."""

    undelivered: int = 0


Action = (
    Announce
    | FetchGraph
    | LeaveGraph
    | KeepGraph
    | PrepareTask
    | FetchModel
    | LeaveModel
    | Train
    | SpoolPut
    | SpoolDelete
    | Send
    | CutSmaller
    | TakeBack
    | AnswerAnew
    | ReportEnergy
    | ScoreReconstruction
    | Warn
    | Finish
)
