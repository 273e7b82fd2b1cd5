"""Who gets the bad payloads: the server's mind, a device, the attacker's books; in process, without a network."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from attack.desk import Desk
from attack.methods.label import LabelRecovery
from attack.methods.ratio import Ratio
from attack.worker import UpdateQueue
from contract import frames, messages, topics
from contract.messages import Ack, AttackResult, Reconstruction, ServerState
from contract.task import RoundPlan, TaskSpec
from edge_client import events
from edge_client.spool import SpoolItem
from server.settings import ScheduleEntry
from tests.attack_updates import audit_plan, manifest, model_blob, state, task_of, update_blob, worker
from tests.faults.chaos.families import bad_messages
from tests.faults.chaos.mutants import NODE, REPORTER, Base, Message
from tests.faults.chaos.spoiled import apart, cut, flipped, packed, spoil
from tests.faults.chaos.spoiled import frame as framed
from tests.faults.test_edge_client_loss import Life
from tests.unit.edge_client_world import NODE as DEVICE
from tests.unit.edge_client_world import PLAN, MemoryServer
from tests.unit.server_world import MemoryWire, World, settings


class DeafWire(MemoryWire):
    """Keeps nothing: what the server answers is not looked at here."""

    def publish(self, _topic: str, _payload: bytes, **_retain: bool) -> bool:
        return True


class Server:
    """The server's mind in an open round, with one honest update in its ledger."""

    def __init__(self, plan: RoundPlan, folder: Path) -> None:
        entry = ScheduleEntry(
            **{name: getattr(plan, name) for name in RoundPlan.__struct_fields__}, deadline_s=1e9, min_updates=3
        )
        self.world = World(settings(folder, entry))
        self.world.wire = DeafWire()
        self.world.restart()
        for node in (NODE, "b", REPORTER):
            self.world.node(node)
        self.world.node("late")  # born when the round was open already: not asked for
        self.reported = self.world.update(REPORTER)
        self.base = Base(plan, self.world.server.intake._inbox._max_bytes["up"], self.reported)
        self._taken = 0

    def bad(self, rng: np.random.Generator) -> Iterator[Message]:
        return bad_messages(rng, self.base)

    def take(self, topic: str, payload: bytes) -> None:
        self.world.server.message(topic, payload, self.world.at_s)
        self._taken += 1
        if self._taken % 50 == 0:
            self.world.wait(0.7)

    def check(self) -> None:
        """Nothing bad was admitted, what was admitted before is there, and a valid update still is taken.

        Raises:
            AssertionError: With what was admitted.
        """
        admitted = self.world.column("SELECT uid FROM updates WHERE status = 'admitted'")
        assert admitted == [self.reported], f"admitted: {admitted}, sent honestly: {self.reported}"
        assert self.world.model.version == 0, f"the model moved on to version {self.world.model.version}"
        honest = self.world.update("b")
        admitted = self.world.column("SELECT uid FROM updates WHERE status = 'admitted' AND uid = ?", honest)
        assert admitted == [honest], "after the bad payloads a valid update is not admitted"

    def codes(self) -> dict[str, int]:
        """Refused updates by code."""
        rows = self.world.ledger.rows("SELECT code, COUNT(*) FROM updates WHERE status = 'refused' GROUP BY code")
        return {row[0]: row[1] for row in rows}

    def close(self) -> None:
        self.world.ledger.close()


class _Spoiler:
    """Endless spoiled copies of valid messages: bare records, and objects in frames."""

    def __init__(self, bare: list[Message], objects: list[tuple[str, bytes]]) -> None:
        self._bare, self._objects = bare, objects

    def bad(self, rng: np.random.Generator) -> Iterator[Message]:
        while True:
            if rng.integers(3) == 0:
                topic, payload = self._bare[rng.integers(len(self._bare))]
                yield topic, self._record(rng, payload)
            else:
                topic, blob = self._objects[rng.integers(len(self._objects))]
                uid = rng.bytes(16).hex()
                yield topic, self._object(rng, blob, uid)

    def _record(self, rng: np.random.Generator, payload: bytes) -> bytes:
        kind = rng.integers(4)
        if kind < 2:
            return msgspec.msgpack.encode(spoil(rng, msgspec.msgpack.decode(payload)))
        return flipped(rng, payload) if kind == 2 else cut(rng, payload)

    def _object(self, rng: np.random.Generator, blob: bytes, uid: str) -> bytes:
        kind = rng.integers(6)
        if kind == 0:
            return flipped(rng, framed(blob, uid))
        if kind == 1:
            return cut(rng, framed(blob, uid))
        if kind == 2:
            return framed(b"abc", uid, count=2, total=int(rng.choice([1 << 14, 1 << 16, 2**40])))
        if kind == 3:
            return framed(flipped(rng, blob) if rng.integers(2) else cut(rng, blob), uid)
        tree, tensors = apart(blob)
        return framed(packed(spoil(rng, tree), tensors), uid)


class Books(_Spoiler):
    """The attacker's desk with a task, a model and room for a few updates."""

    def __init__(self) -> None:
        self.task: TaskSpec = task_of(hidden=(4,), steps=2)
        self.desk = Desk(worker({"label": LabelRecovery(), "ratio": Ratio()}), UpdateQueue(4))
        x = np.random.default_rng(3).random((1, 1, 8, 8), dtype=np.float32)
        update = update_blob(self.task, x, np.array([3]), audit_plan())
        hello = (topics.task_manifest("test"), manifest(self.task))
        self.desk.take(*hello)
        bare = [(topics.server_state("test"), state("open")), hello]
        mirror = topics.mirror_chunk("test", 3, "device-1", "0" * 32, 0)
        super().__init__(bare, [(topics.model_chunk("test", 1, 0), model_blob(self.task)), (mirror, update)])
        self._taken = 0

    def take(self, topic: str, payload: bytes) -> None:
        self.desk.take(topic, payload)
        self._taken += 1
        if self._taken % 100 == 0:
            self.desk.next_answer(float(self._taken))

    def check(self) -> None:
        assert self.desk.task == self.task, "a spoiled manifest changed the attacker's task"


class _NothingLost(random.Random):
    """Every message of the way there arrives once."""

    def choice(self, seq: Any) -> Any:
        return 1 if 1 in seq else seq[0]


class DeviceUnderFire(_Spoiler):
    """A device that made one update of which the server knows nothing yet, and waits to score another."""

    def __init__(self, folder: Path) -> None:
        self._now_s = 0.0
        server = MemoryServer(rounds=1)
        server.reconstruct = lambda _update: None  # type: ignore[method-assign]
        self.life = Life(folder, server, lambda: self._now_s, _NothingLost(), 1)
        for _ in range(40):
            self._now_s += 5.0
            self.life.work()
        (made,) = server.updates
        self.life.link.server = MemoryServer(rounds=0)  # which answers nothing from here on
        self.life.link.publish = lambda _topic, _payload, **_retain: True  # type: ignore[method-assign]
        self.life.spool.receipts.delete = lambda _uid: None  # type: ignore[method-assign]
        item = SpoolItem(uid="e" * 32, kind="update", round=1, note=self._note(), blob=b"x" * 100)
        self.life.device.handle(events.Made(items=(item,), model_version=1))
        self.open_state = messages.encode(
            ServerState(run="trial", status="open", epoch=1, round=2, plan=PLAN, selected=(DEVICE,), model_version=1)
        )
        bare, objects = self._valid(server, made.uid)
        super().__init__(bare, objects)
        self._taken = 0

    def _note(self) -> bytes:
        from edge_client.energy import UpdateWindows
        from edge_client.objects import UpdateNote

        windows = UpdateWindows(windows=(), operations=None, encoded_ahead=False)
        note = UpdateNote(model_version=1, published=2, made=("0" * 64, 1, 1), windows=windows)
        return msgspec.msgpack.encode(note)

    def _valid(self, server: MemoryServer, uid: str) -> tuple[list[Message], list[tuple[str, bytes]]]:
        images = np.full((1, 1, 8, 8), 0.5, dtype=np.float32)
        from contract.codecs import encode_tensors

        records, buffers = encode_tensors("fp32", {"0": images}, np.random.default_rng(0))
        result = AttackResult(attack="grey", verdict="partial", labels=(1,), images=0)
        recon = Reconstruction(
            uid="5" * 32, update_uid=uid, node=DEVICE, round=1, results=(result, result), tensors=records
        )
        ack = Ack(uid="e" * 32, status="missing", missing=(0, 3))
        graph = next(payload for topic, payload in server.retained.items() if "/training/" in topic)
        bare = [
            (topics.ack("trial", DEVICE), messages.encode(ack)),
            (topics.server_state("trial"), self.open_state),
            (topics.task_manifest("trial"), server.retained[topics.task_manifest("trial")]),
        ]
        objects = [
            (topics.recon_chunk("trial", DEVICE, 1, 0), messages.pack(recon, buffers)),
            (topics.model_chunk("trial", 1, 0), server.blob),
            (topics.graph_chunk("trial", "training", 0), messages.pack(ack) + graph[frames.HEADER.size :]),
        ]
        return bare, objects

    def bad(self, rng: np.random.Generator) -> Iterator[Message]:
        """Without manifests that follow SPEC.md and lack what this device's engine needs: these end it on purpose."""
        for topic, payload in super().bad(rng):
            if topic.endswith("/manifest"):
                try:
                    messages.decode(payload, messages.TaskManifest)
                except messages.WireError:
                    yield topic, payload
                continue
            yield topic, payload

    def take(self, topic: str, payload: bytes) -> None:
        self.life.device.receive(topic, payload)
        self._taken += 1
        if self._taken % 20 == 0:
            self._now_s += 0.1
            self.life.device.handle(events.Idle())

    def check(self) -> None:
        pending: Any = {p.uid for p in self.life.device.state.pending}
        assert "e" * 32 in pending, f"spoiled messages made the device give up its update; it holds {pending}"
        assert self.life.spool.outbox.get("e" * 32) is not None, "the update is gone from the outbox"
        assert not self.life.device.finished, "spoiled messages ended the device"

    def close(self) -> None:
        self.life.spool.close()
