"""The task's graphs on the server: made once in a run's life, on the broker in every one."""

from __future__ import annotations

import hashlib

import pytest

from contract import frames, messages, topics
from contract.messages import GraphRecord, TaskManifest
from server.export import Export
from server.publication import ensure_exported
from server.settings import ScheduleEntry
from tests.unit.server_world import RUN, World, settings

TRAINING, INFERENCE = bytes(range(256)) * 20, b"inference"
GRAPHS = tuple(
    Export(name=name, blob=blob, sha256=hashlib.sha256(blob).hexdigest(), error=2e-7, seconds=0.5)
    for name, blob in (("training", TRAINING), ("inference", INFERENCE))
)


@pytest.fixture
def world(tmp_path):
    found = World(settings(tmp_path, ScheduleEntry(rounds=1)))
    ensure_exported(found.ledger, lambda: GRAPHS)
    return found


def manifest(world: World) -> TaskManifest:
    return messages.decode(world.wire.retained()[topics.task_manifest(RUN)], TaskManifest)


def on_broker(world: World) -> dict[str, list[bytes]]:
    """Retained chunks by graph."""
    found: dict[str, list[bytes]] = {}
    for topic, payload in sorted(world.wire.retained().items()):
        if name := topics.parse(topic).graph:
            found.setdefault(name, []).append(payload)
    return found


def graph(world: World, name: str) -> bytes:
    assembler = frames.Assembler()
    whole = [assembler.add(chunk) for chunk in on_broker(world)[name]][-1]
    assert whole is not None
    assert whole.uid == whole.sha256[:32]
    return bytes(whole.blob)


def test_graphs_are_retained_and_named_in_the_manifest(world):
    world.server.up(world.at_s)
    assert {record.name: record for record in manifest(world).graphs} == {
        g.name: GraphRecord(name=g.name, sha256=hashlib.sha256(g.blob).hexdigest(), nbytes=len(g.blob)) for g in GRAPHS
    }
    assert (graph(world, "training"), graph(world, "inference")) == (TRAINING, INFERENCE)
    assert len(on_broker(world)["training"]) == 2


def test_a_later_life_publishes_the_same_bytes_without_exporting(world):
    world.restart()
    ensure_exported(world.ledger, lambda: pytest.fail("it is all in the ledger"))
    world.wire.sent.clear()  # a broker without persistence was started again
    world.server.up(world.at_s)
    assert (graph(world, "training"), graph(world, "inference")) == (TRAINING, INFERENCE)


def test_another_cut_leaves_no_chunk_of_the_old_one(world):
    world.wire.frame_bytes = 600
    world.server.up(world.at_s)
    assert len(on_broker(world)["training"]) == 10
    world.wire.frame_bytes = 3000
    world.server.up(world.at_s)
    assert len(on_broker(world)["training"]) == 2
    assert graph(world, "training") == TRAINING


def test_what_could_not_be_cleared_is_cleared_the_next_time(world):
    world.wire.frame_bytes = 600
    world.server.up(world.at_s)
    world.wire.frame_bytes, world.wire.online = 3000, False
    world.server.up(world.at_s)
    world.wire.online = True
    world.server.up(world.at_s)
    assert len(on_broker(world)["training"]) == 2


def test_without_export_none_is_published_and_old_ones_go(tmp_path, world):
    world.server.up(world.at_s)
    world.settings = settings(tmp_path, ScheduleEntry(rounds=1), export=False)
    world.restart()
    world.server.up(world.at_s)
    assert manifest(world).graphs == ()
    assert on_broker(world) == {}


def test_a_failed_export_leaves_nothing_behind(tmp_path):
    world = World(settings(tmp_path, ScheduleEntry(rounds=1)))

    def broken():
        yield GRAPHS[0]
        raise RuntimeError("gradients differ")

    with pytest.raises(RuntimeError, match="differ"):
        ensure_exported(world.ledger, broken)
    assert world.ledger.rows("SELECT * FROM graphs") == []
