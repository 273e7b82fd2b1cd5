"""Carries out what the state machine asks for. The network, the files' place and the clock are handed in."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from typing import Any

import msgspec

from contract import topics
from contract.errors import WireError
from contract.frames import Assembler, split
from contract.messages import (
    MAX_IMAGES_BYTES,
    Ack,
    NodeState,
    Reconstruction,
    Seen,
    ServerState,
    TaskManifest,
    decode,
    encode,
    unpack,
)
from contract.perceptual import Perceptual
from contract.task import task_hash
from edge_client import client, energy, events, inference, objects, training
from edge_client.account import Account
from edge_client.exchange import MaskExchange
from edge_client.models import Models
from edge_client.preparation import Network, Preparation, Prepare
from edge_client.residual import Residuals
from edge_client.settings import ClientSettings
from edge_client.spool import Spool, SpoolItem
from hardware.energy_model import EnergyModel

log = logging.getLogger(__name__)

BACKLOG_BYTES = 64 << 20
"""Reconstructions that may wait to be scored, all together."""


class _Unsettled(msgspec.Struct, frozen=True, kw_only=True):
    """What the energy report of an update will say, kept until its acknowledgement."""

    note: objects.UpdateNote
    nbytes: int


class Device:
    """One device in one run.

    Args:
        settings: The device's settings.
        spool: Its durable memory, opened for this life.
        network: Where it publishes.
        prepare: Loads the data and opens the engine of a task, given the graphs that it needs.
        needs: Names of these graphs.
        account: Books time and joules on updates.
        model: Energy model.
        clock: Monotonic seconds.
        new_uid: Names an update; given the text that sets it apart.
        wait: Does nothing for some seconds, or until the device is told to stop.
        models: The model's place; `None`: one of its own.
    """

    def __init__(
        self,
        settings: ClientSettings,
        spool: Spool,
        network: Network,
        *,
        prepare: Prepare,
        needs: tuple[str, ...] = (),
        account: Account,
        model: EnergyModel,
        clock: Callable[[], float],
        new_uid: Callable[[str], str],
        secret: int,
        perceptual: Perceptual | None = None,
        wait: Callable[[float], object] = time.sleep,
        models: Models | None = None,
    ) -> None:
        self.settings, self.spool, self.network = settings, spool, network
        self._account, self._energy_model = account, model
        self._preparation = Preparation(settings, network, prepare, needs)
        self._clock, self._new_uid, self._secret, self._wait = clock, new_uid, secret, wait
        self._perceptual = perceptual
        self._exchange = MaskExchange(settings, network, account, model=model, clock=clock)
        self._recon_inbox = Assembler(max_object_bytes=MAX_IMAGES_BYTES)
        self._models = models or Models(settings.run, network)
        self._workshop: objects.Workshop | None = None
        self._inferred: tuple[str, int] = ("", -1)
        self._recons: dict[str, bytearray] = {}
        self._fresh: dict[str, SpoolItem] = {}
        self._unsettled: dict[str, _Unsettled] = {}
        self._receivers: dict[str, Callable[[topics.Topic, bytes], None]] = {
            "server": self._receive_state,
            "ack": self._receive_ack,
            "task": self._receive_task,
            "model": self._receive_model,
            "recon": self._receive_recon,
            "relay": self._receive_relay,
        }
        self._carriers: dict[type, Callable[[Any], None]] = {
            events.Announce: self._announce,
            events.FetchGraph: self._preparation.fetch,
            events.LeaveGraph: self._preparation.leave,
            events.KeepGraph: self._preparation.keep,
            events.PrepareTask: self._prepare_task,
            events.FetchModel: self._fetch_model,
            events.LeaveModel: self._leave_model,
            events.Train: self._train,
            events.SpoolPut: self._put,
            events.SpoolDelete: self._delete,
            events.Send: self._send,
            events.CutSmaller: self._cut_smaller,
            events.TakeBack: self._take_back,
            events.AnswerAnew: self._answer_anew,
            events.ReportEnergy: self._report_energy,
            events.ScoreReconstruction: self._score,
            events.Warn: self._warn,
            events.Finish: self._finish,
        }
        self.finished = False
        self._residuals = Residuals(spool)
        self.state = self._resumed()

    def _resumed(self) -> client.ClientState:
        items = self.spool.pending()
        notes = {item.uid: _note(item) for item in items if item.kind == "update"}
        newest = max(notes.values(), key=lambda note: note.published, default=None)
        if newest is not None and newest.published > self.spool.journal.published:
            self.spool.record(published=newest.published, made=newest.made, **_residual(newest))
        self._residuals.settle()
        versions = {uid: note.model_version for uid, note in notes.items()}
        return client.resumed(self.settings.node, items, versions, self.spool.journal.made)

    def subscriptions(self) -> tuple[str, ...]:
        """Topic filters that hold for the device's whole life."""
        return topics.subscriptions("client", self.settings.run, self.settings.node)

    def node_state(self, status: str) -> bytes:
        """The device's state for the wire: birth and counters while `online`, otherwise farewell."""
        journal = self.spool.journal
        waiting = sum(p.kind == "update" for p in self.state.pending)
        return encode(
            NodeState(
                node=self.settings.node,
                epoch=journal.epoch,
                status="online" if status == "online" else "offline",
                board=self.settings.board,
                engine=self.settings.engine if self._workshop is None else self._workshop.engine.name,
                meter=self.settings.meter,
                samples=0 if self._workshop is None else len(self._workshop.shard.x),
                published=journal.published,
                acknowledged=max(0, journal.published - waiting - journal.quarantined_updates),
                pending=waiting,
            )
        )

    # --- what comes in ----------------------------------------------------------------------------------------------

    def handle(self, event: events.Event) -> bool:
        """Gives an event to the state machine and carries out its actions; whether there were any."""
        if isinstance(event, events.Idle):
            journal, state = self.spool.journal, self.state
            self._exchange.tend(state.server, state.task_hash, journal.made, journal.epoch)
        self.state, actions = client.step(self.state, event, self._clock())
        for action in actions:
            self._carriers[type(action)](action)
        self._fresh.clear()
        return bool(actions)

    def receive(self, topic: str, payload: bytes) -> None:
        """Takes a message from the network; what does not follow SPEC.md is logged and dropped."""
        try:
            parsed = topics.parse(topic)
            if payload and parsed.kind in self._receivers:
                self._receivers[parsed.kind](parsed, payload)
        except WireError as error:
            log.warning("message on %s dropped: %s", topic, error)

    def _receive_state(self, _topic: topics.Topic, payload: bytes) -> None:
        self.handle(events.StateArrived(state=_server_state(payload)))

    def _receive_ack(self, _topic: topics.Topic, payload: bytes) -> None:
        self.handle(events.AckArrived(ack=decode(payload, Ack)))

    def _receive_task(self, topic: topics.Topic, payload: bytes) -> None:
        if topic.graph:
            arrived = self._preparation.chunk(topic, payload)
            if arrived is not None:
                self.handle(arrived)
            return
        manifest = decode(payload, TaskManifest)
        found = task_hash(manifest.task)
        if found != manifest.task_hash:
            raise WireError(f"task has the hash {found}, its manifest says {manifest.task_hash}")
        if self._workshop is not None and self._workshop.task_hash == found:
            return
        self.handle(self._preparation.named(manifest))

    def _receive_model(self, topic: topics.Topic, payload: bytes) -> None:
        whole = self._models.chunk(topic, payload)
        if whole is None:
            return
        arrived, blob = whole
        self.handle(arrived)
        if self.state.model == (arrived.version, arrived.sha256):
            self._models.keep(arrived, blob)

    def _receive_relay(self, _topic: topics.Topic, payload: bytes) -> None:
        ready = self._exchange.receive(payload)
        if ready is not None:
            self.handle(ready)

    def _receive_recon(self, _topic: topics.Topic, payload: bytes) -> None:
        whole = self._recon_inbox.add(payload)
        if whole is None:
            return
        held = sum(map(len, self._recons.values()))
        if held + len(whole.blob) > BACKLOG_BYTES:
            log.warning("reconstruction %s dropped: %d bytes wait to be scored already", whole.uid, held)
            return
        self.handle(events.ReconstructionArrived(uid=whole.uid))
        if whole.uid in self.state.unscored:
            self._recons[whole.uid] = whole.blob

    # --- what goes out ----------------------------------------------------------------------------------------------

    def _announce(self, _action: events.Announce) -> None:
        topic = topics.node_state(self.settings.run, self.settings.node)
        self.network.publish(topic, self.node_state("online"), retain=True)

    def _fetch_model(self, action: events.FetchModel) -> None:
        goal = self.state.goal
        self._models.fetch(action.version, goal[1] if goal is not None and goal[0] == action.version else "")

    def _leave_model(self, action: events.LeaveModel) -> None:
        self._models.leave(action.version)

    def _put(self, action: events.SpoolPut) -> None:
        self.spool.outbox.put(action.item)
        self._fresh[action.item.uid] = action.item  # sent at once from memory, if it is sent at once
        if action.item.kind == "update":
            note = _note(action.item)
            self._unsettled[action.item.uid] = _Unsettled(note=note, nbytes=len(action.item.blob))
            self.spool.record(published=note.published, made=note.made, **_residual(note))
            self._residuals.settle()

    def _delete(self, action: events.SpoolDelete) -> None:
        self.spool.outbox.delete(action.uid)

    def _send(self, action: events.Send) -> None:
        item = self._fresh.pop(action.uid, None) or self.spool.outbox.get(action.uid)
        if item is None:
            self._lost(action.uid)
            return
        wanted = None if action.chunks is None else frozenset(action.chunks)
        for index, frame in enumerate(split(item.blob, item.uid, frame_bytes=self.network.frame_bytes)):
            if wanted is not None and index not in wanted:
                continue
            if not self.network.publish(self._topic(item, index), frame):
                return  # offline: everything is sent again when the connection is back
            if item.kind == "update":
                self._account.sent(item.uid, len(frame))

    def _cut_smaller(self, action: events.CutSmaller) -> None:
        if self.network.cut_smaller():
            text = "the server does not hear of object %s: frames of %d bytes from now on"
            log.warning(text, action.uid, self.network.frame_bytes)

    def _lost(self, uid: str) -> None:
        self._unsettled.pop(uid, None)
        if any(p.uid == uid and p.kind == "update" for p in self.state.pending):
            self.spool.record(quarantined_updates=self.spool.journal.quarantined_updates + 1)
        self.handle(events.Lost(uid=uid))

    def _topic(self, item: SpoolItem, index: int) -> str:
        run, node = self.settings.run, self.settings.node
        if item.kind == "update":
            return topics.update_chunk(run, node, item.round, item.uid, index)
        return (topics.truth if item.kind == "truth" else topics.score)(run, node, item.round)

    def _warn(self, action: events.Warn) -> None:
        log.warning("%s", action.text)

    def _finish(self, action: events.Finish) -> None:
        if action.undelivered:
            text = "the run is finished, but %d objects were not acknowledged: they stay in %s"
            log.warning(text, action.undelivered, self.settings.directory / "outbox")
        self.finished = True

    # --- the work ---------------------------------------------------------------------------------------------------

    def _prepare_task(self, action: events.PrepareTask) -> None:
        task, shard, engine = self._preparation.ready()
        self._workshop = objects.Workshop(
            node=self.settings.node,
            secret=self._secret,
            task=task,
            task_hash=action.task_hash,
            shard=shard,
            engine=engine,
            perceptual=self._perceptual,
        )
        self._account.measure_baselines(self.settings.baseline_s, self._wait)
        for idle in self._account.baselines or ():
            log.info("idle power: %s", idle)
        self._account.rest()
        log.info("task %s: %d samples, engine %s", action.task_hash[:12], len(shard.x), engine.name)
        self.handle(events.Prepared(task_hash=action.task_hash))

    def _train(self, action: events.Train) -> None:
        self._infer(action.model_version)
        self._account.begin()
        try:
            item = self._make_update(action)
        except (ValueError, ArithmeticError, RuntimeError, MemoryError):
            log.exception("round %d: no update, training failed", action.round)
            self._account.gave_up()
            return
        log.info("round %d: update %s made, %d bytes", action.round, item.uid, len(item.blob))
        self.handle(events.Made(items=(item,), model_version=action.model_version))

    def _infer(self, version: int) -> None:
        """Classifies samples of its own by a new model, where the engine does that on a chip."""
        workshop = self._workshop
        if workshop is None or not isinstance(workshop.engine, inference.Classifies):
            return
        if self._inferred == (workshop.task_hash, version):
            return
        try:
            params = self._models.parameters(version)
        except WireError:
            return  # training by it says what is wrong
        self._inferred = (workshop.task_hash, version)
        with self._account.aside():
            found = inference.infer(
                workshop.engine,
                params,
                task=workshop.task,
                shard=workshop.shard,
                samples=self.settings.infer_samples,
                secret=workshop.secret,
                model_version=version,
            )
            inference.keep(self.settings.directory, found)

    def _make_update(self, action: events.Train) -> SpoolItem:
        workshop, journal = self._workshop, self.spool.journal
        assert workshop is not None, "the machine asks for updates of a prepared task only"
        which = f"{action.round} {action.attempt}"
        if action.plan.mode == "asynchronous":  # one of many of this round
            which += f" {journal.published}"
        uid = self._new_uid(f"{workshop.task_hash} {journal.epoch} {which}")
        receipt = training.make_receipt(
            workshop.task,
            action.plan,
            len(workshop.shard.x),
            secret=workshop.secret,
            node=workshop.node,
            round_=action.round,
            uid=uid,
            fellows=self.settings.fellows,
        )
        made = training.local_update(
            workshop.engine,
            self._models.parameters(action.model_version),
            task=workshop.task,
            plan=action.plan,
            shard=workshop.shard,
            receipt=receipt,
            enter=self._account.enter,
        )
        self._account.enter("compress")
        before = self._residuals.load(workshop.task_hash, action.plan) if action.plan.feeds_back else None
        blob, residual = objects.update_blob(
            workshop,
            made,
            action.plan,
            epoch=journal.epoch,
            model_version=action.model_version,
            residual=before,
            attempt=action.attempt,
            masked=lambda update, draws: self._exchange.press(action.plan, action.attempt, update, draws),
        )
        up, down = self._exchange.traffic()
        note = objects.UpdateNote(
            model_version=action.model_version,
            published=journal.published + 1,
            made=(workshop.task_hash, action.round, action.attempt),
            windows=energy.UpdateWindows(
                windows=self._account.made(uid),
                operations=made.operations,
                encoded_ahead=made.encoded_ahead,
                masking=self._account.overheads(),
                masking_up=up,
                masking_down=down,
                baselines=self._account.baselines or (),
                sleeps=self.settings.sleep is not None,
            ),
            residual=uid if residual is not None else "",
        )
        if residual is not None:
            self._residuals.prepare(uid, action.round, workshop.task_hash, action.plan, residual)
        self.spool.keep_receipt(objects.receipt_item(receipt))
        return SpoolItem(uid=uid, kind="update", round=action.round, note=msgspec.msgpack.encode(note), blob=blob)

    def _take_back(self, action: events.TakeBack) -> None:
        self._residuals.give_back(action.uid)

    def _answer_anew(self, _action: events.AnswerAnew) -> None:
        self.spool.record(made=None)

    def _report_energy(self, action: events.ReportEnergy) -> None:
        if not action.admitted:
            self.spool.receipts.delete(action.uid)
        transmit, transmit_s, sent_bytes = self._account.settled(action.uid, action.sent_s)
        transmit_s = energy.radio_s(self.settings.radio_mbit_s, sent_bytes, transmit_s)
        update = self._unsettled.pop(action.uid, None) or self._stored(action.uid)
        if update is None:
            return
        note = update.note
        masking = self._exchange.cost(note.windows, sent_bytes, transmit_s)
        phases = energy.phase_energies(
            note.windows,
            transmit,
            model=self._energy_model,
            meters=self._account.meters,
            sent_bytes=sent_bytes,
            transmit_s=transmit_s,
        )
        node, nbytes = self.settings.node, update.nbytes
        item = objects.energy_item(note, node, phases, masking, uid=action.uid, payload_bytes=nbytes)
        self.handle(events.Made(items=(item,)))

    def _stored(self, uid: str) -> _Unsettled | None:
        """What an earlier life left in the outbox."""
        item = self.spool.outbox.get(uid)
        return None if item is None else _Unsettled(note=_note(item), nbytes=len(item.blob))

    def _score(self, action: events.ScoreReconstruction) -> None:
        with self._account.aside():
            try:
                self._score_blob(self._recons.pop(action.uid))
            except WireError as error:
                log.warning("reconstruction %s dropped: %s", action.uid, error)

    def _score_blob(self, blob: bytearray) -> None:
        recon, views = unpack(memoryview(blob), Reconstruction)
        workshop, kept = self._workshop, self.spool.receipts.get(recon.update_uid)
        if kept is None:
            log.info("reconstruction of update %s: no receipt, or scored already", recon.update_uid)
            return
        receipt = msgspec.msgpack.decode(kept.note, type=training.Receipt)
        if workshop is None or receipt.task_hash != workshop.task_hash:
            raise WireError(f"update {recon.update_uid} belongs to another task than the present one")
        if recon.seen not in receipt.awaited:
            log.info("reconstruction of update %s from %r: not awaited, or scored already", receipt.uid, recon.seen)
            return
        items = objects.scored_items(workshop, receipt, recon, views, publish_truth=self.settings.publish_truth)
        self.handle(events.Made(items=items))
        self._settle(receipt, recon.seen)

    def _settle(self, receipt: training.Receipt, seen: Seen) -> None:
        """Notes that a receipt served; the last time it goes."""
        awaited = tuple(other for other in receipt.awaited if other != seen)
        if awaited:
            self.spool.receipts.put(objects.receipt_item(msgspec.structs.replace(receipt, awaited=awaited)))
        else:
            self.spool.receipts.delete(receipt.uid)


@functools.lru_cache(maxsize=4)
def _server_state(payload: bytes) -> ServerState:
    """Decoded once for all devices of a process: it names all who were drawn."""
    return decode(payload, ServerState)


def _note(item: SpoolItem) -> objects.UpdateNote:
    return msgspec.msgpack.decode(item.note, type=objects.UpdateNote)


def _residual(note: objects.UpdateNote) -> dict[str, str]:
    """What an update changes in the journal: one without error feedback leaves the residual alone."""
    return {"residual": note.residual} if note.residual else {}
