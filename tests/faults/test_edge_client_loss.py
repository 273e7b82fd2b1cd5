"""A device over a network that loses and repeats, with restarts in between: nothing is lost, nothing is made twice."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest

from contract import topics
from contract.messages import EnergyReport, Score, Truth, Update
from edge_client import events
from edge_client.account import Account
from edge_client.device import Device
from edge_client.energy import PhaseMeter
from edge_client.engine import StepResult
from edge_client.objects import derived_uid
from edge_client.spool import Spool
from edge_client.training import Shard
from hardware.energy_model import EnergyModel
from hardware.meter import open_meter
from tests.unit.edge_client_world import GRAPH, INFO, NODE, RUN, MemoryLink, MemoryServer, Silence, settings

SHARD = Shard(
    x=np.random.default_rng(0).random((9, *INFO.shape), dtype=np.float32), y=np.arange(9) % 10, classes=INFO.classes
)
MODEL = EnergyModel.load("horowitz-45nm")


class Zero(Silence):
    """An engine without arithmetic."""

    name = "zero"

    def __init__(self, graphs) -> None:
        super().__init__()
        assert graphs == {"training": GRAPH}

    def gradients(self, params, _frames, labels) -> StepResult:
        self.passed(len(labels))
        gradients = {name: np.zeros_like(value) for name, value in params.items()}
        return StepResult(loss=1.0, gradients=gradients)


class LossyLink(MemoryLink):
    """Loses some messages in either direction, and repeats some."""

    def __init__(self, *args, chance: random.Random, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.chance = chance

    def publish(self, topic: str, payload: bytes, **_retain: bool) -> bool:
        kind = topics.parse(topic).kind
        times = 1 if kind == "node" else self.chance.choice([0, 1, 1, 1, 2])
        for _ in range(times):
            self.server.hear(topic, payload)
        return True

    def deliver(self, topic: str, payload: bytes) -> None:
        parsed = topics.parse(topic)
        lossy = parsed.kind in {"ack", "model"} or parsed.graph or "recon" in topic
        for _ in range(self.chance.choice([0, 1, 1, 2]) if lossy and "/recon/" not in topic else 1):
            super().deliver(topic, payload)


class Life:
    """One start of the device: its memory on disk outlives it."""

    def __init__(self, tmp_path, server: MemoryServer, clock, chance: random.Random, life: int) -> None:
        self.inbox: list = []
        self.spool = Spool(tmp_path / "device", RUN, NODE)
        self.link = LossyLink(
            server,
            None,
            NODE,
            will=None,
            on_message=lambda topic, payload: self.inbox.append((topic, payload)),
            on_up=lambda: self.inbox.append(events.Up()),
            chance=chance,
        )
        self.device = Device(
            settings(tmp_path),
            self.spool,
            self.link,
            prepare=lambda _task, graphs: (SHARD, Zero(graphs)),
            needs=("training",),
            account=Account(PhaseMeter((open_meter("none"),), clock), clock),
            model=MODEL,
            clock=clock,
            new_uid=lambda text: derived_uid(str(life), text),
            secret=life,
        )
        self.link.subscribe(*self.device.subscriptions())
        self.link.start()

    def work(self) -> None:
        """Reads what came; then one quiet moment."""
        while self.inbox:
            message = self.inbox.pop(0)
            if isinstance(message, tuple):
                self.device.receive(*message)
            else:
                self.device.handle(message)
        self.device.handle(events.Idle())


@pytest.mark.parametrize("seed", range(16))
def test_every_update_arrives_once_with_its_energy_and_score(tmp_path, seed):
    chance = random.Random(seed)
    now_s = [0.0]
    server = MemoryServer(rounds=4, frame_bytes=900)
    life = Life(tmp_path, server, lambda: now_s[0], chance, 1)
    lives = 1
    for tick in range(3000):
        now_s[0] += 1.0
        life.work()
        if tick % 30 == 29 and server.updates:  # a restart lost the reconstruction: the server mirrors again
            server.reconstruct(server.updates[-1])
        if life.device.finished:
            break
        if chance.random() < 0.2:
            life.spool.close()
            lives += 1
            life = Life(tmp_path, server, lambda: now_s[0], chance, lives)
        elif chance.random() < 0.2:  # reconnected: what is retained comes again
            life.inbox += [events.Down(), events.Up()]
            life.link.subscribe(*life.link.filters)
    assert life.device.finished
    assert lives > 1
    kinds = Counter(type(message) for message, _ in server.objects.values())
    assert kinds == {Update: 4, EnergyReport: 4, Score: 4, Truth: 4}
    updates = {m.uid: m.round for m, _ in server.objects.values() if isinstance(m, Update)}
    assert sorted(updates.values()) == [1, 2, 3, 4]
    assert {m.update_uid for m, _ in server.objects.values() if isinstance(m, Score)} == set(updates)
    assert (life.spool.journal.published, life.spool.journal.epoch) == (4, lives)
    assert life.spool.pending() == ()
    life.spool.close()


def test_a_crash_between_storing_and_journaling_is_made_good(tmp_path):
    server = MemoryServer(rounds=1)
    first = Life(tmp_path, server, lambda: 0.0, random.Random(0), 1)
    while not first.spool.pending():
        first.work()
        first.link.subscribe(*first.link.filters)
    made = first.spool.journal.made
    first.spool.record(published=0, made=None)
    first.spool.close()
    second = Life(tmp_path, server, lambda: 0.0, random.Random(0), 2)
    assert (second.spool.journal.published, second.spool.journal.made) == (1, made)
    assert made is not None
    second.spool.close()
