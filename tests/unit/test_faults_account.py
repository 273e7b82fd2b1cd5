"""What a federation's account of its updates must notice: the claims of the fault runs rest on it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from edge_client.spool import Spool, SpoolItem
from server.ledger import Ledger
from server.settings import ScheduleEntry
from tests.faults.chaos.federation import Federation
from tests.unit.server_world import World, name_of, settings


def federation(folder: Path) -> tuple[Federation, list[str]]:
    """Two devices, two rounds, nothing amiss; and the uids of the updates."""
    world = World(settings(folder / "server", ScheduleEntry(rounds=2, batch_size=4), clients=2))
    world.node("a")
    world.node("b")
    uids = [world.update(node) for _ in (1, 2) for node in ("a", "b")]
    for node in ("a", "b"):
        world.node(node, published=2, acknowledged=2)
    world.ledger.close()
    made = Federation.__new__(Federation)
    made.folder, made.directory, made.names = folder, folder / "server", ["a", "b"]
    made.witness = SimpleNamespace(
        sent=dict.fromkeys(uids, "a"), verdicts={uid: {"admitted"} for uid in uids}, stop=lambda: None
    )
    return made, uids


def test_a_clean_run_is_clean(tmp_path):
    fed, uids = federation(tmp_path)
    counts = fed.account()
    assert (counts["published"], counts["acknowledged"], counts["lost"], counts["duplicated"]) == (4, len(uids), 0, 0)


def test_an_update_that_was_sent_and_is_nowhere_is_lost_unless_it_lies_in_a_spool(tmp_path):
    fed, _ = federation(tmp_path)
    missing = name_of("missing")
    fed.witness.sent[missing] = "a"
    with pytest.raises(AssertionError, match="1 updates were sent and lie neither"):
        fed.account()
    spool = Spool(fed.spool("a"), "chaos", "a")
    spool.outbox.put(SpoolItem(uid=missing, kind="update", round=2))
    spool.close()
    fed.account()


def test_a_false_acknowledgement_is_noticed(tmp_path):
    fed, uids = federation(tmp_path)
    with Ledger(fed.directory / "ledger.sqlite") as ledger:
        ledger.execute("UPDATE updates SET status = 'refused' WHERE uid = ?", uids[0])
    with pytest.raises(AssertionError, match="1 updates were acknowledged as admitted"):
        fed.account()


def test_an_update_in_two_aggregates_is_noticed(tmp_path):
    fed, uids = federation(tmp_path)
    with Ledger(fed.directory / "ledger.sqlite") as ledger:
        ledger.insert("aggregated", {"version": 2, "round": 2, "uid": uids[0], "weight": 1.0})
    with pytest.raises(AssertionError, match="in more than one aggregate"):
        fed.account()


def test_an_update_in_an_aggregate_that_the_ledger_does_not_have_is_noticed(tmp_path):
    fed, _ = federation(tmp_path)
    with Ledger(fed.directory / "ledger.sqlite") as ledger:
        ledger.insert("aggregated", {"version": 2, "round": 2, "uid": name_of("foreign"), "weight": 1.0})
    with pytest.raises(AssertionError, match="not in the ledger"):
        fed.account()
