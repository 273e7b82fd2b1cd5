"""The retained topics: what the server tells everybody, kept true on the broker."""

from __future__ import annotations

from typing import Literal

from contract import messages, topics
from contract.messages import ServerState, TaskManifest
from contract.task import task_hash
from server.model import GlobalModel, Wire
from server.publication import PublishedGraphs
from server.rounds import Course, Phase, State
from server.settings import ServerSettings

Status = Literal["waiting", "open", "closed", "finished", "offline"]
_STATUS: dict[Phase, Status] = {"waiting": "waiting", "open": "open", "finished": "closed", "failed": "offline"}


class Herald:
    """Publishes task, graphs, models and state.

    Args:
        settings: The run.
        course: Its schedule, written out.
        model: The current model.
        graphs: The task's graphs.
        wire: The connection.
        epoch: This life's number.
    """

    def __init__(
        self,
        settings: ServerSettings,
        course: Course,
        model: GlobalModel,
        graphs: PublishedGraphs,
        wire: Wire,
        *,
        epoch: int,
    ) -> None:
        self._settings, self._course, self._model, self._graphs = settings, course, model, graphs
        self._wire, self._epoch = wire, epoch
        self._hash = task_hash(settings.task)
        self._said: ServerState | None = None

    def everything(self, state: State) -> None:
        """Publishes all retained topics anew: a broker may have lost them."""
        run = self._settings.run
        hello = TaskManifest(run=run, task=self._settings.task, task_hash=self._hash, graphs=self._graphs.records)
        self._wire.publish(topics.task_manifest(run), messages.encode(hello), retain=True)
        self._graphs.publish(run, self._wire)
        self._model.publish(run, self._wire, anew=True)
        self._said = None
        self.announce(state)

    def new_model(self) -> None:
        """Publishes the newest model and clears what is too old."""
        self._model.publish(self._settings.run, self._wire)

    def model_again(self, version: int) -> None:
        """Publishes one version once more, however old."""
        self._model.publish_version(self._settings.run, self._wire, version)

    def announce(self, state: State) -> None:
        """Publishes `server/state` when it says something new."""
        now = self.server_state(state)
        if now != self._said:
            topic = topics.server_state(self._settings.run)
            self._said = now if self._wire.publish(topic, messages.encode(now), retain=True) else None

    def server_state(self, state: State, status: Status | None = None) -> ServerState:
        """What `server/state` says of a state, or with another status (`offline`, `finished`)."""
        open_ = state.phase == "open"
        entry = self._course.entry(min(state.round, len(self._course.schedule)))
        return ServerState(
            run=self._settings.run,
            status=status or _STATUS[state.phase],
            epoch=self._epoch,
            round=state.round if open_ else state.round - 1,
            rounds=len(self._course.schedule),
            attempt=state.attempt,
            plan=entry.plan,
            model_version=self._model.version,
            model_sha256=self._model.sha256,
            task_hash=self._hash,
            selected=state.selected if open_ else (),
            deadline_s=entry.deadline_s if open_ else 0.0,
        )
