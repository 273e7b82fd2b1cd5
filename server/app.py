"""One server process: the connection, the clock, the signals. Everything else is decided in `coordinator`."""

from __future__ import annotations

import contextlib
import gc
import logging
import queue
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

import msgspec
from safetensors import SafetensorError
from safetensors.numpy import save_file

from contract import datasets, messages, topics
from contract.encodings import input_shape
from contract.errors import ConfigurationError, EnvironmentFaultError
from contract.link import Link
from contract.messages import ServerState
from contract.models.layout import initial_parameters
from contract.task import TaskSpec, task_hash
from server.checkpoints import Checkpoints
from server.coordinator import Coordinator
from server.evaluation import Evaluator, evaluate_pending
from server.herald import Status
from server.integer_inference import note_int8_inference
from server.ledger import FILE_NAME, Ledger
from server.model import GlobalModel
from server.outgoing import Outgoing
from server.publication import ensure_exported
from server.settings import AdmissionSettings, ScheduleEntry, ServerSettings

if TYPE_CHECKING:
    from contract.models.own import UserNetwork
    from server.export import Export

__all__ = ["AdmissionSettings", "ScheduleEntry", "ServerSettings", "run_server"]

log = logging.getLogger(__name__)

INTERRUPTED = 130
"""Exit status of a run that was asked to stop; starting it again resumes it."""
_TICK_S = 0.05
_SESSION_EVERY_S = 2.0
_LINGER_S = 1.0
_LINGER_AT_MOST_S = 5.0
_BATCH = 64


def run_server(settings: ServerSettings, stop: threading.Event | None = None) -> int:
    """Runs all rounds of a schedule, or goes on with a ledger's.

    Args:
        settings: The run.
        stop: Set to end early, cleanly and resumably; `None` installs handlers for SIGINT and SIGTERM.

    Returns:
        0 when all rounds are done and drained, 1 when the run failed, 130 when it was stopped.

    Raises:
        ConfigurationError: A run name or data set that cannot be, or a ledger of a run with other settings.
        EnvironmentFaultError: The broker is not reached, or the folder cannot be written, also when it fills up later.
    """
    if not topics.valid_name(settings.run):
        raise ConfigurationError(f"run = {settings.run!r}: 1 to 63 letters, digits, '_', '.', '-'")
    if settings.link.tls is not None:
        settings.link.tls.context()  # a file that cannot be used is said now, not after the graphs are made
    info = datasets.task_info(settings.task)
    shape = input_shape(settings.task.encoding, info.shape)
    network, settings = _own_network(settings, shape, info.classes)
    stop = stop or _stop_on_signals()
    with Ledger(settings.directory / FILE_NAME) as ledger, _faults_of(settings.directory):
        if ledger.claim(settings.identity()):
            log.info("resuming %s", settings.directory)
        _note_run(ledger, settings)
        model = GlobalModel(
            ledger,
            task_hash(settings.task),
            lambda: network.initial_parameters() if network else initial_parameters(settings.task, shape, info.classes),
        )
        if settings.export:
            ensure_exported(ledger, lambda: _exported(settings.task, shape, info.classes, network))
        return _Process(settings, ledger, model, stop, network).run()


@contextlib.contextmanager
def _faults_of(folder: Path) -> Iterator[None]:
    """A folder that cannot be written any more, as one message; what was acknowledged is in the ledger all the same.

    Raises:
        EnvironmentFaultError: In place of an error of SQLite, or of the file that holds the model.
    """
    try:
        yield
    except (sqlite3.OperationalError, OSError, SafetensorError) as error:
        raise EnvironmentFaultError(
            f"{folder} cannot be written ({_first(error)}): make room there, or mend it, and start the server again "
            "with the same settings; it goes on where it stopped"
        ) from error


def _first(error: BaseException) -> BaseException:
    """The fault before those of the cleaning up after it."""
    while error.__context__ is not None:
        error = error.__context__
    return error


def _own_network(
    settings: ServerSettings, shape: tuple[int, ...], classes: int
) -> tuple[UserNetwork | None, ServerSettings]:
    """The user's own network where there is one, and the settings with the task that states it.

    Raises:
        ConfigurationError: The file cannot be used, or is missing, or is not that of the task.
    """
    if settings.model is None:
        if settings.task.model.own is not None:
            raise ConfigurationError(
                "task.model.kind = 'own' without model: name the network's file as model = 'FILE.py:FACTORY'"
            )
        return None, settings
    from contract.models.own import user_network  # noqa: PLC0415 - torch

    named = f"model = {settings.model!r}"
    if not settings.export:
        raise ConfigurationError(f"{named} with export = false: devices train on its graph alone; set export = true")
    network, task = user_network(settings.model, settings.task, shape, classes, named=named)
    return network, msgspec.structs.replace(settings, task=task)


def _exported(task: TaskSpec, shape: tuple[int, ...], classes: int, network: UserNetwork | None) -> Iterator[Export]:
    """The graphs, checked.

    Raises:
        ConfigurationError: The user's own network cannot be exported.
        EnvironmentFaultError: One does not compute on this machine what it must.
    """
    from server import export  # noqa: PLC0415 - onnx and torch, in a run's first life only

    try:
        yield from export.exported(task, shape, classes, network)
    except export.GraphMismatchError as error:
        raise EnvironmentFaultError(
            f"{error}; install a newer onnxruntime, or give the server export = false and the devices engine = 'torch'"
        ) from error


def _note_run(ledger: Ledger, settings: ServerSettings) -> None:
    with ledger.transaction():
        ledger.set_meta("run", settings.run)
        ledger.set_meta("task_hash", task_hash(settings.task))
        ledger.set_meta("rounds", str(settings.rounds))
        ledger.set_meta("unevaluated", settings.unevaluated)
        ledger.execute("DELETE FROM meta WHERE key = 'outcome' AND value != 'finished'")


def _stop_on_signals() -> threading.Event:
    stop = threading.Event()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
    return stop


class _Process:
    """One life: network callbacks fill the mailbox, one loop empties it."""

    def __init__(
        self,
        settings: ServerSettings,
        ledger: Ledger,
        model: GlobalModel,
        stop: threading.Event,
        network: UserNetwork | None,
    ) -> None:
        self._settings, self._ledger, self._model, self._stop = settings, ledger, model, stop
        self._start_s = self._noted_s = time.monotonic()
        self._epoch = ledger.start_session()
        self._bytes_in = 0
        self._ending = False
        self._mailbox: queue.SimpleQueue[tuple[str, bytes] | None] = queue.SimpleQueue()
        self._faults: list[EnvironmentFaultError] = []
        self._topic = topics.server_state(settings.run)
        will = messages.encode(ServerState(run=settings.run, status="offline", epoch=self._epoch))
        self._link = Link(
            settings.link,
            f"spikeleak-server-{settings.run}",
            will=(self._topic, will),
            on_message=lambda topic, payload: self._mailbox.put((topic, payload)),
            on_up=lambda: self._mailbox.put(None),
            on_down=self._lost,
            on_fault=self._faults.append,
        )
        self._wire = Outgoing(self._link, ledger)
        self._coordinator = Coordinator(settings, ledger, model, self._wire, epoch=self._epoch, at_s=self._start_s)
        self._network, self._evaluator = network, cast("Evaluator | None", None)

    def run(self) -> int:
        """Lives until the run is finished, has failed, or is to stop."""
        self._link.subscribe(*topics.subscriptions("server", self._settings.run))
        try:
            self._link.start()
        except EnvironmentFaultError as error:
            self._note(f"failed: {error}")
            raise
        gc.freeze()  # what was imported stays: no collection during a round need look at it
        ended = "stopped"
        try:
            done = self._ledger.meta("outcome") == "finished"
            with Checkpoints(self._ledger.path) as checkpoints:
                ended = "finished" if done else self._live(checkpoints)
            if ended == "finished":
                self._finish()
        except EnvironmentFaultError as error:
            self._note(f"failed: {error}")
            raise
        finally:
            state = self._farewell("finished" if ended == "finished" else "offline")
            self._ending = True
            self._link.stop(farewell=(self._topic, messages.encode(state)))
        self._note(ended)
        return {"finished": 0, "stopped": INTERRUPTED}.get(ended, 1)

    def _live(self, checkpoints: Checkpoints) -> str:
        while not self._stop.is_set():
            if self._faults:
                raise self._faults[0]
            self._empty_mailbox(_TICK_S)
            checkpoints.look(self._bytes_in)
            now_s = time.monotonic()
            self._coordinator.tick(now_s)
            if self._coordinator.failure:
                log.error("%s", self._coordinator.failure)
                return f"failed: {self._coordinator.failure}"
            evaluated = self._evaluate() if self._mailbox.empty() else True
            drain = self._coordinator.drain
            if drain is not None and drain.done and not evaluated:
                return "finished"
            if now_s - self._noted_s >= _SESSION_EVERY_S:
                self._note("")
        return "stopped"

    def _empty_mailbox(self, wait_s: float) -> int:
        """Handles what has come, at most a batch, with one commit; waits for the first a little. Returns how many."""
        try:
            item = self._mailbox.get(timeout=wait_s)
        except queue.Empty:
            return 0
        with self._wire.together():
            for count in range(1, _BATCH + 1):
                self._handle(item)
                try:
                    item = self._mailbox.get_nowait()
                except queue.Empty:
                    return count
            self._handle(item)
        return _BATCH + 1

    def _handle(self, item: tuple[str, bytes] | None) -> None:
        if item is None:
            self._coordinator.up(time.monotonic())
        else:
            self._bytes_in += len(item[1])
            self._coordinator.message(*item, time.monotonic())

    def _evaluate(self) -> bool:
        """Evaluates one version that still lacks it; whether there was one."""
        if self._settings.unevaluated:
            return False
        return evaluate_pending(self._ledger, self._evaluated())

    def _evaluated(self) -> Evaluator:
        """The evaluator, made on first use."""
        task, held_out = self._settings.task, self._settings.held_out
        self._evaluator = self._evaluator or Evaluator(task, network=self._network, held_out=held_out)
        return self._evaluator

    def _finish(self) -> None:
        """Says that the run is finished, leaves the model behind, and serves stragglers for a moment."""
        save_file(self._model.parameters, self._settings.directory / "model.safetensors")
        with self._ledger.transaction():
            self._ledger.set_meta("outcome", "finished")
        self._link.publish(self._topic, messages.encode(self._farewell("finished")), retain=True)
        log.info("finished")
        end_s = time.monotonic() + _LINGER_AT_MOST_S
        quiet_s = time.monotonic() + _LINGER_S
        while time.monotonic() < min(end_s, quiet_s):
            if self._empty_mailbox(_TICK_S):
                quiet_s = time.monotonic() + _LINGER_S
        if not self._settings.unevaluated:
            note_int8_inference(self._ledger, self._evaluated())

    def _lost(self, reason: str) -> None:
        if not self._ending:
            log.warning("connection to the broker lost: %s", reason)

    def _farewell(self, status: Status) -> ServerState:
        return self._coordinator.herald.server_state(self._coordinator.state, status)

    def _note(self, ended: str) -> None:
        """Keeps this life's row true."""
        self._noted_s = time.monotonic()
        intake = self._coordinator.intake
        self._ledger.execute(
            "UPDATE sessions SET duration_s = ?, bytes_in = ?, frames_bad = ?, mirror_dropped = ?, ended = ? "
            "WHERE epoch = ?",
            self._noted_s - self._start_s,
            self._bytes_in,
            intake.frames_bad,
            intake.mirror.dropped,
            ended,
            self._epoch,
        )
