"""Carries out what the state machine asks for. The network, the files' place and the clock are handed in."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from typing import Any, Protocol

import msgspec
import numpy as np

from contract import topics
from contract.codecs import decode_tensors, encode_tensors
from contract.errors import WireError
from contract.frames import Assembler, split
from contract.messages import (
    Ack,
    EnergyReport,
    Message,
    Model,
    NodeState,
    Reconstruction,
    Score,
    ServerState,
    TaskManifest,
    Truth,
    Update,
    decode,
    encode,
    pack,
    unpack,
)
from contract.task import TaskSpec, task_hash
from edge_client import client, energy, scoring, training
from edge_client.engine import Engine
from edge_client.settings import ClientSettings
from edge_client.spool import Spool, SpoolItem
from hardware.energy_model import EnergyModel

log = logging.getLogger(__name__)


class Network(Protocol):
    """What a device needs of a link."""

    frame_bytes: int

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        """See `contract.link.Link`."""
        ...

    def subscribe(self, *filters: str) -> None:
        """See `contract.link.Link`."""
        ...

    def unsubscribe(self, *filters: str) -> None:
        """See `contract.link.Link`."""
        ...


class UpdateNote(msgspec.Struct, frozen=True, kw_only=True):
    """What the device remembers about an update in its outbox."""

    model_version: int
    published: int
    made: tuple[str, int, int]
    windows: energy.UpdateWindows


class Workshop(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A task made ready to be worked on."""

    task: TaskSpec
    task_hash: str
    shard: training.Shard
    engine: Engine


class Device:
    """One device in one run.

    Args:
        settings: The device's settings.
        spool: Its durable memory, opened for this life.
        network: Where it publishes.
        prepare: Loads the data and opens the engine of a task.
        phases: Cuts the meter's energy into phases.
        model: Energy model.
        clock: Monotonic seconds.
        new_uid: Names an object; given the text that sets it apart.
    """

    def __init__(
        self,
        settings: ClientSettings,
        spool: Spool,
        network: Network,
        *,
        prepare: Callable[[TaskSpec], tuple[training.Shard, Engine]],
        phases: energy.PhaseMeter,
        model: EnergyModel,
        clock: Callable[[], float],
        new_uid: Callable[[str], str],
    ) -> None:
        self.settings, self.spool, self.network = settings, spool, network
        self._prepare, self._phases, self._energy_model = prepare, phases, model
        self._clock, self._new_uid = clock, new_uid
        self._inbox = Assembler()
        self._workshop: Workshop | None = None
        self._model = ("", bytearray())
        self._params: tuple[str, training.Parameters] = ("", {})
        self._recons: dict[str, bytearray] = {}
        self._idle: list[energy.Window] = []
        self._in_flight = ""
        self._bytes_sent: dict[str, int] = {}
        self.finished = False
        self.state = self._resumed()

    def _resumed(self) -> client.ClientState:
        items = self.spool.pending()
        notes = {i.uid: msgspec.msgpack.decode(i.note, type=UpdateNote) for i in items if i.kind == "update"}
        newest = max(notes.values(), key=lambda note: note.published, default=None)
        if newest is not None and newest.published > self.spool.journal.published:
            self.spool.record(published=newest.published, made=newest.made)
        versions = {uid: note.model_version for uid, note in notes.items()}
        return client.resumed(self.settings.node, items, versions, self.spool.journal.made)

    # --- what comes in ----------------------------------------------------------------------------------------------

    def subscriptions(self) -> tuple[str, ...]:
        """Topic filters that hold for the device's whole life."""
        return topics.subscriptions("client", self.settings.run, self.settings.node)

    def receive(self, topic: str, payload: bytes) -> None:
        """Takes a message from the network; what does not follow SPEC.md is logged and dropped."""
        try:
            parsed = topics.parse(topic)
            if payload and parsed.kind in _RECEIVERS:
                _RECEIVERS[parsed.kind](self, parsed, payload)
        except WireError as error:
            log.warning("message on %s dropped: %s", topic, error)

    def _receive_state(self, _topic: topics.Topic, payload: bytes) -> None:
        self.handle(client.StateArrived(state=decode(payload, ServerState)))

    def _receive_ack(self, _topic: topics.Topic, payload: bytes) -> None:
        self.handle(client.AckArrived(ack=decode(payload, Ack)))

    def _receive_task(self, _topic: topics.Topic, payload: bytes) -> None:
        manifest = decode(payload, TaskManifest)
        found = task_hash(manifest.task)
        if found != manifest.task_hash:
            raise WireError(f"task has the hash {found}, its manifest says {manifest.task_hash}")
        if self._workshop is not None and self._workshop.task_hash == found:
            return
        shard, engine = self._prepare(manifest.task)
        self._workshop = Workshop(task=manifest.task, task_hash=found, shard=shard, engine=engine)
        self._enter("idle")
        self._idle = []
        log.info("task %s: %d samples, engine %s", found[:12], len(shard.x), engine.name)
        self.handle(client.Prepared(task_hash=found))

    def _receive_model(self, topic: topics.Topic, payload: bytes) -> None:
        whole = self._inbox.add(payload)
        if whole is not None:
            self.handle(client.ModelArrived(version=topic.version, sha256=whole.sha256))
            if self.state.model == (topic.version, whole.sha256):
                self._model = (whole.sha256, whole.blob)

    def _receive_recon(self, _topic: topics.Topic, payload: bytes) -> None:
        whole = self._inbox.add(payload)
        if whole is not None:
            self._recons[whole.uid] = whole.blob
            self.handle(client.ReconstructionArrived(uid=whole.uid))
            self._recons = {uid: blob for uid, blob in self._recons.items() if uid in self.state.unscored}

    # --- the machine ------------------------------------------------------------------------------------------------

    def handle(self, event: client.Event) -> bool:
        """Gives an event to the state machine and carries out its actions; whether there were any."""
        self.state, actions = client.step(self.state, event, self._clock())
        for action in actions:
            _CARRIERS[type(action)](self, action)
        return bool(actions)

    def node_state(self, status: str) -> bytes:
        """The device's state for the wire: birth, counters, or farewell."""
        journal, workshop = self.spool.journal, self._workshop
        waiting = sum(p.kind == "update" for p in self.state.pending)
        return encode(
            NodeState(
                node=self.settings.node,
                epoch=journal.epoch,
                status="online" if status == "online" else "offline",
                board=self.settings.board,
                engine=self.settings.engine,
                meter=self.settings.meter,
                samples=0 if workshop is None else len(workshop.shard.x),
                published=journal.published,
                acknowledged=max(0, journal.published - waiting - journal.quarantined_updates),
                pending=waiting,
            )
        )

    def _announce(self, _action: client.Announce) -> None:
        topic = topics.node_state(self.settings.run, self.settings.node)
        self.network.publish(topic, self.node_state("online"), retain=True)

    def _fetch_model(self, action: client.FetchModel) -> None:
        self.network.subscribe(topics.model_filter(self.settings.run, action.version))

    def _leave_model(self, action: client.LeaveModel) -> None:
        self.network.unsubscribe(topics.model_filter(self.settings.run, action.version))

    def _put(self, action: client.SpoolPut) -> None:
        self.spool.outbox.put(action.item)
        if action.item.kind == "update":
            note = msgspec.msgpack.decode(action.item.note, type=UpdateNote)
            self.spool.record(published=note.published, made=note.made)

    def _delete(self, action: client.SpoolDelete) -> None:
        self.spool.outbox.delete(action.uid)
        self._bytes_sent.pop(action.uid, None)

    def _send(self, action: client.Send) -> None:
        item = self._item(action.uid)
        if item is None:
            return
        for index, frame in enumerate(split(item.blob, item.uid, frame_bytes=self.network.frame_bytes)):
            if action.chunks is not None and index not in action.chunks:
                continue
            if not self.network.publish(self._topic(item, index), frame):
                return  # offline: everything is sent again when the connection is back
            self._bytes_sent[item.uid] = self._bytes_sent.get(item.uid, 0) + len(frame)

    def _item(self, uid: str) -> SpoolItem | None:
        item = self.spool.outbox.get(uid)
        if item is None:
            kinds = {p.uid: p.kind for p in self.state.pending}
            if kinds.get(uid) == "update":
                self.spool.record(quarantined_updates=self.spool.journal.quarantined_updates + 1)
            self.handle(client.Lost(uid=uid))
        return item

    def _topic(self, item: SpoolItem, index: int) -> str:
        run, node = self.settings.run, self.settings.node
        if item.kind == "update":
            return topics.update_chunk(run, node, item.round, item.uid, index)
        return (topics.truth if item.kind == "truth" else topics.score)(run, node, item.round)

    def _warn(self, action: client.Warn) -> None:
        log.warning("%s", action.text)

    def _finish(self, action: client.Finish) -> None:
        if action.undelivered:
            text = "the run is finished, but %d objects were not acknowledged: they stay in %s"
            log.warning(text, action.undelivered, self.settings.directory / "outbox")
        self.finished = True

    # --- training ---------------------------------------------------------------------------------------------------

    def _enter(self, phase: str) -> energy.Window:
        window = self._phases.enter(phase)
        if window.phase == "idle":
            self._idle.append(window)
        if window.phase == "transmit":
            self._in_flight = ""
        return window

    def _train(self, action: client.Train) -> None:
        workshop, journal = self._workshop, self.spool.journal
        assert workshop is not None, "the machine trains for a prepared task only"
        uid = self._new_uid(f"{workshop.task_hash} {journal.epoch} {action.round} {action.attempt}")
        windows: list[energy.Window] = []
        self._enter("load")
        try:
            item = self._make_update(action, workshop, uid, windows)
        except (ValueError, ArithmeticError, RuntimeError, MemoryError):
            log.exception("round %d: no update, training failed", action.round)
            self._enter("idle")
            return
        self._in_flight = uid
        self.handle(client.Made(items=(item,), model_version=action.model_version))

    def _make_update(
        self, action: client.Train, workshop: Workshop, uid: str, windows: list[energy.Window]
    ) -> SpoolItem:
        settings, journal, plan = self.settings, self.spool.journal, action.plan
        windows += self._idle
        self._idle = []

        def enter(phase: str) -> None:
            if phase != self._phases.phase:
                windows.append(self._enter(phase))

        receipt = training.make_receipt(
            workshop.task,
            plan,
            len(workshop.shard.x),
            node=settings.node,
            round_=action.round,
            uid=uid,
            task_hash=workshop.task_hash,
        )
        params = self._parameters(action)
        made = training.local_update(workshop.engine, params, workshop.task, plan, workshop.shard, receipt, enter=enter)
        enter("compress")
        rng = training.update_generator(workshop.task, settings.node, action.round, f"{uid} codec")
        records, buffers = encode_tensors(plan.codec, made.tensors, rng)
        update = Update(
            uid=uid,
            node=settings.node,
            epoch=journal.epoch,
            round=action.round,
            model_version=action.model_version,
            task_hash=workshop.task_hash,
            plan=plan,
            samples=made.samples,
            loss=made.loss,
            tensors=records,
        )
        blob = pack(update, buffers)
        self.spool.keep_receipt(
            SpoolItem(uid=uid, kind="receipt", round=action.round, note=msgspec.msgpack.encode(receipt))
        )
        enter("transmit")
        note = UpdateNote(
            model_version=action.model_version,
            published=journal.published + 1,
            made=(workshop.task_hash, action.round, action.attempt),
            windows=energy.UpdateWindows(
                windows=tuple(windows), operations=made.operations, encoded_ahead=made.encoded_ahead
            ),
        )
        return SpoolItem(uid=uid, kind="update", round=action.round, note=msgspec.msgpack.encode(note), blob=blob)

    def _parameters(self, action: client.Train) -> training.Parameters:
        """The global model that the machine holds; decoded once."""
        sha256, blob = self._model
        if self._params[0] != sha256:
            model, views = unpack(memoryview(blob), Model)
            if model.version != action.model_version:
                raise WireError(f"model object is of version {model.version}, expected {action.model_version}")
            tensors = decode_tensors(model.tensors, views)
            self._params = (sha256, {name: np.array(value) for name, value in tensors.items()})
            self._model = (sha256, bytearray())
        return self._params[1]

    # --- after the acknowledgement ----------------------------------------------------------------------------------

    def _report_energy(self, action: client.ReportEnergy) -> None:
        item = self._item(action.uid)
        if not action.admitted:
            self.spool.receipts.delete(action.uid)
        if item is None:
            return
        note = msgspec.msgpack.decode(item.note, type=UpdateNote)
        sent_in_this_life = action.sent_s is not None and self._bytes_sent.get(action.uid, 0) > 0
        transmit_s = self._clock() - action.sent_s if action.sent_s is not None and sent_in_this_life else None
        if action.uid == self._in_flight and self._phases.phase == "transmit":
            measured = self._enter("idle").reading
        else:
            reason = "other work of the device, or a restart, lay between publication and acknowledgement"
            measured = self._phases.missing(reason, duration_s=transmit_s or 0.0)
        report = EnergyReport(
            uid=derived_uid(item.uid, "energy"),
            update_uid=item.uid,
            node=self.settings.node,
            round=item.round,
            operations=note.windows.operations,
            payload_bytes=len(item.blob),
            phases=energy.phase_energies(
                note.windows,
                measured,
                model=self._energy_model,
                meter=self._phases.name,
                payload_bytes=self._bytes_sent.get(item.uid, 0),
                transmit_s=transmit_s,
            ),
        )
        self._publish(SpoolItem(uid=report.uid, kind="energy", round=item.round, blob=pack(report)))

    def _publish(self, *items: SpoolItem) -> None:
        self.handle(client.Made(items=items))

    def _score(self, action: client.ScoreReconstruction) -> None:
        resting = self._phases.phase
        self._enter(energy.ELSEWHERE)
        try:
            self._score_blob(self._recons.pop(action.uid))
        except WireError as error:
            log.warning("reconstruction %s dropped: %s", action.uid, error)
        self._enter("idle" if resting == "transmit" else resting)

    def _score_blob(self, blob: bytearray) -> None:
        recon, views = unpack(memoryview(blob), Reconstruction)
        workshop, kept = self._workshop, self.spool.receipts.get(recon.update_uid)
        if kept is None:
            log.info("reconstruction of update %s: no receipt, or scored already", recon.update_uid)
            return
        receipt = msgspec.msgpack.decode(kept.note, type=training.Receipt)
        if workshop is None or receipt.task_hash != workshop.task_hash or recon.node != self.settings.node:
            raise WireError(f"update {recon.update_uid} belongs to another task or device")
        truth = scoring.Truth(x=workshop.shard.x, y=workshop.shard.y, samples=receipt.samples)
        rng = training.update_generator(workshop.task, self.settings.node, receipt.round, f"{receipt.uid} control")
        scores = scoring.score(recon, views, truth, rng)
        answer = Score(
            uid=derived_uid(receipt.uid, "score"),
            update_uid=receipt.uid,
            node=self.settings.node,
            round=receipt.round,
            samples=len(receipt.samples),
            attacks=scores,
        )
        items = [SpoolItem(uid=answer.uid, kind="score", round=receipt.round, blob=pack(answer))]
        if self.settings.publish_truth:
            items.append(self._truth(receipt, workshop.shard, scoring.named_samples(scores, len(receipt.samples))))
        self._publish(*items)
        self.spool.receipts.delete(receipt.uid)

    def _truth(self, receipt: training.Receipt, shard: training.Shard, indices: tuple[int, ...]) -> SpoolItem:
        positions = [receipt.samples[i] for i in indices]
        records, buffers = encode_tensors("fp32", {"truth": shard.x[positions]}, np.random.default_rng(0))
        message = Truth(
            uid=derived_uid(receipt.uid, "truth"),
            update_uid=receipt.uid,
            node=self.settings.node,
            round=receipt.round,
            indices=indices,
            labels=tuple(int(shard.y[p]) for p in positions),
            tensors=records,
        )
        return SpoolItem(uid=message.uid, kind="truth", round=receipt.round, blob=pack(message, buffers))


def derived_uid(update_uid: str, purpose: str) -> str:
    """The name of what follows from an update: the same again after a crash, so that it is never counted twice."""
    return hashlib.sha256(f"{update_uid} {purpose}".encode()).hexdigest()[:32]


_RECEIVERS: dict[str, Callable[[Device, topics.Topic, bytes], None]] = {
    "server": Device._receive_state,
    "ack": Device._receive_ack,
    "task": Device._receive_task,
    "model": Device._receive_model,
    "recon": Device._receive_recon,
}
_CARRIERS: dict[type[Message] | type, Callable[[Device, Any], None]] = {
    client.Announce: Device._announce,
    client.FetchModel: Device._fetch_model,
    client.LeaveModel: Device._leave_model,
    client.Train: Device._train,
    client.SpoolPut: Device._put,
    client.SpoolDelete: Device._delete,
    client.Send: Device._send,
    client.ReportEnergy: Device._report_energy,
    client.ScoreReconstruction: Device._score,
    client.Warn: Device._warn,
    client.Finish: Device._finish,
}
