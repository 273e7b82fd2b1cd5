"""Strangers make the server hold what never gets whole: how much memory that takes."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np

from contract import topics
from contract.frames import MAX_CHUNKS, object_cost
from contract.task import RoundPlan
from server.coordinator import MAX_DEVICES
from server.inbox import HELD_BYTES
from tests.faults.chaos.mutants import RUN
from tests.faults.chaos.spoiled import frame as framed
from tests.faults.chaos.victims import Server

SLACK_BYTES = 4 << 20
"""For what is no object: births, the ledger's cache, the interpreter."""
HOARDERS = tuple(f"hoarder-{i}" for i in range(64))


def hoard(count: int, folder: Path, seed: int) -> tuple[int, float]:
    """Opens objects that never get whole: large ones and small ones, under the names of many devices, and bears names.

    Args:
        count: First chunks sent.
        folder: For the ledger.
        seed: Of the draws.

    Returns:
        Messages sent, and the most memory that the server took, in MiB.

    Raises:
        AssertionError: It is more than the limit and one update.
    """
    server = Server(RoundPlan(), folder)
    limit = HELD_BYTES + server.base.update_limit + SLACK_BYTES
    rng = np.random.default_rng(seed)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        names = [*HOARDERS, *(f"name-{i}" for i in range(min(count // 4, 2 * MAX_DEVICES)))]
        for name in names:
            server.world.node(name, status="offline")
        inbox = server.world.server.intake._inbox
        for sent in range(count):
            topic, payload = _opening(rng, server.base.update_limit)
            server.world.server.message(topic, payload, server.world.at_s)
            assert inbox.held_bytes <= HELD_BYTES, f"{inbox.held_bytes} bytes are held, the limit is {HELD_BYTES}"
            if sent % 500 == 499:
                server.world.wait(0.1)
        _, peak = tracemalloc.get_traced_memory()
        assert peak - before <= limit, f"{peak - before} bytes at most, the limit and one update are {limit}"
        assert inbox.held_bytes > 0.9 * HELD_BYTES, f"only {inbox.held_bytes} bytes were held: the limit was not met"
        server.check()
    finally:
        tracemalloc.stop()
        server.close()
    return len(names) + count, (peak - before) / 2**20


def _opening(rng: np.random.Generator, update_limit: int) -> tuple[str, bytes]:
    """One chunk of a new object, the largest of its kind or a small one of many chunks."""
    node, uid = HOARDERS[rng.integers(len(HOARDERS))], rng.bytes(16).hex()
    kind = int(rng.integers(4))
    most = (update_limit, 1 << 20, 16 << 20, 16 << 20)[kind]
    total = most if rng.integers(3) == 0 else int(rng.integers(2, 2000))
    count = min(total, MAX_CHUNKS, int(rng.integers(2, 200)))
    assert object_cost(total, count) < HELD_BYTES
    topic = (
        topics.update_chunk(RUN, node, 1, uid, 0),
        topics.score(RUN, node, 1),
        topics.truth(RUN, node, 1),
        topics.recon_chunk(RUN, node, 1, 0),
    )[kind]
    return topic, framed(b"a", uid, count=count, total=total)
