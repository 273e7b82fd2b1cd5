from __future__ import annotations

import numpy as np

from contract.messages import Update
from contract.task import RoundPlan
from server.held_updates import HeldUpdates


def update(uid: str) -> Update:
    return Update(
        uid=uid.ljust(32, "0"),
        node="a",
        epoch=1,
        round=1,
        model_version=0,
        task_hash="t" * 64,
        plan=RoundPlan(),
        samples=1,
        loss=None,
        tensors=(),
    )


def test_the_oldest_give_way_and_what_is_taken_is_held_no_longer():
    held = HeldUpdates(most_bytes=8 * 4)
    for uid in "abc":
        held.put(update(uid), {"w": np.full(4, ord(uid), dtype=np.float32)})
    assert held.take(update("a").uid) is None
    found = held.take(update("b").uid)
    assert found is not None
    assert found[0] == update("b")
    assert found[1]["w"].tolist() == [ord("b")] * 4
    assert held.take(update("b").uid) is None
    held.put(update("c"), {"w": np.zeros(4, dtype=np.float32)})  # once more: not counted twice
    held.put(update("d"), {"w": np.zeros(4, dtype=np.float32)})
    assert held.take(update("c").uid) is not None
    held.put(update("e"), {"w": np.zeros(9, dtype=np.float32)})  # larger than all room
    assert held.take(update("e").uid) is None
    assert held.take(update("d").uid) is None
