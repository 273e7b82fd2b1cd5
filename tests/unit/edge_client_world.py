"""A server, its broker and an attacker in memory, for one device."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from contract import topics
from contract.codecs import encode_tensors
from contract.datasets import dataset_info
from contract.errors import WireError
from contract.frames import Assembler, split
from contract.messages import (
    Ack,
    AttackResult,
    EnergyReport,
    GraphRecord,
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
from contract.models.emissions import Emitted
from contract.models.layout import initial_parameters
from contract.task import EncodingSpec, ModelSpec, RoundPlan, TaskSpec, task_hash
from edge_client.emitted_sums import EmittedSums
from edge_client.settings import ClientSettings
from server.export import training_graph

RUN, NODE = "trial", "device-0"
TASK = TaskSpec(dataset="digits", encoding=EncodingSpec(steps=3), model=ModelSpec(hidden=(8,)))
HASH = task_hash(TASK)
INFO = dataset_info("digits")
GRAPH = training_graph(TASK, tuple(INFO.shape), INFO.classes)
RECORD = GraphRecord(name="training", sha256=hashlib.sha256(GRAPH).hexdigest(), nbytes=len(GRAPH))
PLAN = RoundPlan(kind="audit", algorithm="fedsgd", batch_size=2)


class Silence:
    """What an engine tells whose neurons never spike."""

    def __init__(self) -> None:
        self._sums = EmittedSums(TASK.model.hidden, TASK.encoding.steps)

    def passed(self, batch: int) -> None:
        self._sums.begin(batch)
        self._sums.open_pass()

    def emitted(self) -> tuple[Emitted, ...]:
        return self._sums.take()


class MemoryServer:
    """Broker and server in one: answers what the device publishes, round after round."""

    def __init__(
        self,
        rounds: int = 2,
        *,
        frame_bytes: int = 700,
        drop_first: bool = False,
        graphs: tuple[GraphRecord, ...] = (RECORD,),
    ) -> None:
        self.rounds, self.frame_bytes, self.drop_first = rounds, frame_bytes, drop_first
        self.retained: dict[str, bytes] = {}
        self.inbox = Assembler()
        self.objects: dict[str, object] = {}
        self.updates: list[Update] = []
        self.states: list[NodeState] = []
        self.link: MemoryLink | None = None
        self.settled = 0
        params = initial_parameters(TASK, INFO.shape, INFO.classes)
        records, buffers = encode_tensors("fp32", params, np.random.default_rng(0))
        self.params = params
        self.blob = pack(Model(version=1, task_hash=HASH, tensors=records), buffers)
        for index, frame in enumerate(split(self.blob, "0" * 31 + "1", frame_bytes=frame_bytes)):
            self.retained[topics.model_chunk(RUN, 1, index)] = frame
        manifest = TaskManifest(run=RUN, task=TASK, task_hash=HASH, graphs=graphs)
        self.retained[topics.task_manifest(RUN)] = encode(manifest)
        for index, frame in enumerate(split(GRAPH, RECORD.sha256[:32], frame_bytes=frame_bytes)):
            self.retained[topics.graph_chunk(RUN, "training", index)] = frame
        self.open(1)

    def open(self, round_: int) -> None:
        status = "open" if round_ <= self.rounds else "finished"
        state = ServerState(
            run=RUN,
            status=status,
            epoch=1,
            round=round_,
            rounds=self.rounds,
            attempt=1,
            plan=PLAN,
            model_version=1,
            model_sha256=hashlib.sha256(self.blob).hexdigest(),
            task_hash=HASH,
            selected=(NODE,),
        )
        self.say(topics.server_state(RUN), encode(state))

    def say(self, topic: str, payload: bytes) -> None:
        if "/state" in topic:
            self.retained[topic] = payload
        if self.link is not None:
            self.link.deliver(topic, payload)

    def hear(self, topic: str, payload: bytes) -> None:
        parsed = topics.parse(topic)
        if parsed.kind == "node":
            self.states.append(decode(payload, NodeState))
            return
        if self.drop_first and parsed.kind == "up" and parsed.index == 0:
            self.drop_first = False
            self.say(topics.ack(RUN, NODE), encode(Ack(uid=parsed.uid, status="missing", missing=(0,))))
            return
        whole = self.inbox.add(payload)
        if whole is None:
            return
        kinds = {"up": (Update,), "score": (EnergyReport, Score), "truth": (Truth,)}[parsed.kind]
        message, views = self.read(bytes(whole.blob), kinds)
        known, self.objects[whole.uid] = whole.uid in self.objects, (message, views)
        self.say(topics.ack(RUN, NODE), encode(Ack(uid=whole.uid, status="admitted")))
        if known:
            return
        if isinstance(message, Update):
            self.updates.append(message)
            self.reconstruct(message)
        self.settled += isinstance(message, Score | Truth)
        if self.settled == 2:
            self.settled = 0
            self.open(message.round + 1)

    @staticmethod
    def read(blob: bytes, kinds: tuple[type, ...]) -> tuple[object, tuple[memoryview, ...]]:
        for kind in kinds:
            try:
                return unpack(blob, kind)
            except WireError as error:
                last = error
        raise last

    def reconstruct(self, update: Update) -> None:
        images = np.full((1, *INFO.shape), 0.5, dtype=np.float32)
        records, buffers = encode_tensors("fp32", {"0": images}, np.random.default_rng(0))
        result = AttackResult(attack="grey", verdict="partial", labels=(1,), images=0)
        uid = update.uid[::-1]
        message = Reconstruction(
            uid=uid, update_uid=update.uid, node=NODE, round=update.round, results=(result,), tensors=records
        )
        for index, frame in enumerate(split(pack(message, buffers), uid, frame_bytes=self.frame_bytes)):
            self.say(topics.recon_chunk(RUN, NODE, update.round, index), frame)


class MemoryLink:
    """Stands in for `contract.link.Link`."""

    def __init__(
        self, server: MemoryServer, _settings: object, _client_id: str, *, will, on_message, on_up, **_ignored
    ):
        self.server, self.will, self.on_message, self.on_up = server, will, on_message, on_up
        self.frame_bytes = server.frame_bytes
        self.filters: set[str] = set()
        self.sending = False
        self.farewell: tuple[str, bytes] | None = None
        server.link = self

    def _reads(self, topic: str) -> bool:
        def matches(pattern: str) -> bool:
            a, b = pattern.split("/"), topic.split("/")
            return len(a) == len(b) and all(x in {"+", y} for x, y in zip(a, b, strict=True))

        return any(matches(f) for f in self.filters)

    def deliver(self, topic: str, payload: bytes) -> None:
        if self._reads(topic):
            self.on_message(topic, payload)

    def subscribe(self, *filters: str) -> None:
        self.filters.update(filters)
        for topic, payload in list(self.server.retained.items()):
            self.deliver(topic, payload)

    def unsubscribe(self, *filters: str) -> None:
        self.filters.difference_update(filters)

    def cut_smaller(self) -> bool:
        self.frame_bytes = max(200, self.frame_bytes // 4)
        return True

    def start(self) -> None:
        self.on_up()

    def publish(self, topic: str, payload: bytes, **_retain: bool) -> bool:
        self.server.hear(topic, payload)
        return True

    def stop(self, *, farewell: tuple[str, bytes] | None = None) -> None:
        self.farewell = farewell


def settings(tmp_path: Path, **changes) -> ClientSettings:
    base = {"run": RUN, "node": NODE, "directory": tmp_path / "device", "shard": 1, "shards": 4, "publish_truth": True}
    return ClientSettings(**(base | changes))
