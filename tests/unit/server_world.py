"""A server without a network: a wire that remembers, and updates made by hand."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from contract import frames, messages, topics
from contract.codecs import encode_tensors
from contract.messages import Ack, EnergyReport, Message, NodeState, Operations, PhaseEnergy, Score, Update
from contract.task import RoundPlan, TaskSpec, task_hash
from hardware.energy import EnergyReading, unavailable
from server.coordinator import Coordinator
from server.ledger import FILE_NAME, Ledger
from server.model import GlobalModel
from server.settings import ScheduleEntry, ServerSettings

RUN = "run"
TASK = TaskSpec(dataset="digits")
HASH = task_hash(TASK)
INITIAL = {
    "layers.0.weight": np.arange(6, dtype=np.float32).reshape(2, 3) / 7,
    "layers.0.bias": np.array([0.5, -0.25], dtype=np.float32),
}


def name_of(*parts: object) -> str:
    """A uid that depends on nothing but its parts."""
    return uuid.uuid5(uuid.NAMESPACE_OID, "/".join(map(str, parts))).hex


class MemoryWire:
    """Remembers what was published; can be cut."""

    def __init__(self, frame_bytes: int = 4096) -> None:
        self.frame_bytes = frame_bytes
        self.online = True
        self.sent: list[tuple[str, bytes, bool]] = []

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        if self.online:
            self.sent.append((topic, payload, retain))
        return self.online

    def retained(self) -> dict[str, bytes]:
        last = {topic: payload for topic, payload, retain in self.sent if retain}
        return {topic: payload for topic, payload in last.items() if payload}

    def acks(self, node: str | None = None) -> list[Ack]:
        return [
            messages.decode(payload, Ack)
            for topic, payload, _ in self.sent
            if (parsed := topics.parse(topic)).kind == "ack" and node in {None, parsed.node}
        ]

    def verdicts(self, uid: str) -> list[tuple[str, str]]:
        return [(ack.status, ack.reason.partition(":")[0]) for ack in self.acks() if ack.uid == uid]

    def mirrored(self) -> dict[str, bytes]:
        """Objects that an attacker would have put together."""
        assembler = frames.Assembler()
        found = {}
        for topic, payload, _ in self.sent:
            if topics.parse(topic).kind == "mirror":
                whole = assembler.add(payload)
                if whole is not None:
                    found[whole.uid] = bytes(whole.blob)
        return found


def settings(directory: Path, *schedule: ScheduleEntry, **changes: Any) -> ServerSettings:
    return ServerSettings(
        **{"run": RUN, "directory": directory, "task": TASK, "clients": 3, "schedule": schedule, **changes}
    )


class World:
    """One life of a server on a ledger in a folder; `restart` gives it another."""

    def __init__(self, run_settings: ServerSettings, *, at_s: float = 0.0) -> None:
        self.settings = run_settings
        self.at_s = at_s
        self.wire = MemoryWire()
        self._begin()

    def _begin(self) -> None:
        self.ledger = Ledger(self.settings.directory / FILE_NAME)
        self.ledger.claim(self.settings.identity())
        self.ledger.set_meta("run", RUN)
        self.ledger.set_meta("rounds", str(self.settings.rounds))
        self.model = GlobalModel(self.ledger, HASH, lambda: {name: value.copy() for name, value in INITIAL.items()})
        epoch = self.ledger.start_session()
        self.server = Coordinator(self.settings, self.ledger, self.model, self.wire, epoch=epoch, at_s=self.at_s)
        self.server.up(self.at_s)

    def restart(self) -> None:
        self.ledger.close()
        self._begin()

    @property
    def state(self) -> Any:
        return self.server.state

    def wait(self, seconds: float) -> None:
        self.at_s += seconds
        self.server.tick(self.at_s)

    def node(self, name: str, status: str = "online", epoch: int = 1, **counters: int) -> None:
        state = NodeState(node=name, epoch=epoch, status=status, **counters)  # type: ignore[arg-type]
        self.server.message(topics.node_state(RUN, name), messages.encode(state), self.at_s)

    def send(
        self, kind: str, node: str, round_: int, uid: str, blob: bytes, *, chunks: Sequence[int] | None = None
    ) -> None:
        cut = list(frames.split(blob, uid, frame_bytes=self.wire.frame_bytes))
        for index in range(len(cut)) if chunks is None else chunks:
            self.server.message(_topic(kind, node, round_, uid, index), cut[index], self.at_s)

    def update(self, node: str, round_: int | None = None, **changes: Any) -> str:
        """Makes and sends the update that the open round asks for, with changes; gives its uid."""
        blob, uid = make_update(
            node,
            self.state.round if round_ is None else round_,
            **{"plan": self._plan, "model_version": self.model.version, **changes},
        )
        self.send("up", node, self.state.round if round_ is None else round_, uid, blob)
        return uid

    @property
    def _plan(self) -> RoundPlan:
        return self.settings.entry(min(self.state.round, self.settings.rounds)).plan

    def send_again(self, node: str, round_: int) -> None:
        """Delivers an update of an earlier moment once more, if there is one."""
        row = self.ledger.row("SELECT * FROM updates WHERE uid = ?", name_of("update", node, round_))
        if row is not None:
            self.send("up", node, round_, row["uid"], row["object"])

    def column(self, sql: str, *values: Any) -> list[Any]:
        return [row[0] for row in self.ledger.rows(sql, *values)]


def _topic(kind: str, node: str, round_: int, uid: str, index: int) -> str:
    if kind == "up":
        return topics.update_chunk(RUN, node, round_, uid, index)
    if kind == "recon":
        return topics.recon_chunk(RUN, node, round_, index)
    return {"score": topics.score, "truth": topics.truth}[kind](RUN, node, round_)


def difference(*seed: object) -> dict[str, np.ndarray]:
    """An update's tensors: numbers whose float sums depend on their order."""
    rng = np.random.default_rng(int(name_of(*seed)[:8], 16))
    return {
        name: (rng.standard_normal(v.shape) * 10.0 ** rng.integers(-6, 1)).astype(np.float32)
        for name, v in INITIAL.items()
    }


def make_update(
    node: str,
    round_: int,
    *,
    plan: RoundPlan,
    model_version: int,
    uid: str | None = None,
    tensors: Mapping[str, np.ndarray] | None = None,
    codec: str | None = None,
    **changes: Any,
) -> tuple[bytes, str]:
    uid = uid or name_of("update", node, round_)
    tensors = difference(node, round_) if tensors is None else tensors
    records, buffers = encode_tensors(codec or plan.codec, tensors, np.random.default_rng(1))
    fields: dict[str, Any] = {
        "uid": uid,
        "node": node,
        "epoch": 1,
        "round": round_,
        "model_version": model_version,
        "task_hash": HASH,
        "plan": plan,
        "samples": 1 + int(uid[:2], 16) % plan.batch_size,
        "loss": 1.5,
        "tensors": records,
        **changes,
    }
    return messages.pack(Update(**fields), buffers), uid


MODELLED = EnergyReading(energy_j=0.25, duration_s=1.0, source="model:x", scope="operations", provenance="modelled")
NO_METER = unavailable("none", "none", "no meter was asked for")


def energy_report(
    node: str, round_: int, update_uid: str, *readings: EnergyReading, phase: str = "train"
) -> tuple[bytes, str]:
    uid = name_of("energy", update_uid)
    phases = (PhaseEnergy(phase=phase, readings=readings or (NO_METER, MODELLED)),)
    return messages.pack(
        EnergyReport(
            uid=uid,
            update_uid=update_uid,
            node=node,
            round=round_,
            operations=Operations(macs=5),
            payload_bytes=100,
            phases=phases,
        )
    ), uid


def score(node: str, round_: int, update_uid: str, *attacks: Any, noise: tuple[Any, ...] = ()) -> tuple[bytes, str]:
    uid = name_of("score", update_uid)
    place = {"uid": uid, "update_uid": update_uid, "node": node, "round": round_}
    message: Message = Score(**place, samples=1, attacks=attacks, noise=noise)
    return messages.pack(message), uid
