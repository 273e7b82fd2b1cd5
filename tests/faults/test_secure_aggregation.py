"""Secure aggregation over a real broker, while devices and the server are killed: the sum stays exact."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from contract.codecs import decode_tensors
from contract.masking import quantised
from contract.messages import Update, unpack
from contract.secure import SecureAggregation
from deploy import broker
from edge_client.app import prepare
from edge_client.training import local_update, make_receipt, update_stream
from server.ledger import Ledger
from server.model import parameters_of
from server.settings import ScheduleEntry
from server.summary import summarise
from server.unmasking import summed
from tests.faults.chaos import parties
from tests.faults.chaos.parties import SERVER, TASK, Federation, federation, graphs
from tests.faults.chaos.zygote import Zygote

SECURE = SecureAggregation(patience_s=20.0, bits=20)
ENTRY = ScheduleEntry(local_steps=2, batch_size=8, secure=SECURE, deadline_s=6.0)
DEVICES = tuple(f"device-{number}" for number in range(7))
AFTER_SHARES, AFTER_UPDATE = "train-before:1", "ack-before-delete:1"


def run(tmp_path: Path, monkeypatch, schedule, deaths: dict[str, list[str]], protocol: str = "auto") -> Federation:
    monkeypatch.setattr(parties, "DEVICES", DEVICES)
    left = {name: iter(points) for name, points in deaths.items()}
    with (
        closing(Zygote(tmp_path / "zygote.log")) as zygote,
        broker.serve(broker.BrokerSection(kind="auto"), tmp_path) as running,
        federation(tmp_path / "run", replace(running.link, protocol=protocol), schedule, zygote) as made,
    ):
        made.run(lambda name: next(left.get(name, iter(())), None), timeout_s=120)
    assert sum(made.kills.values()) == sum(map(len, deaths.values())), made.kills
    return made


def plain_integers(made: Federation, row, parameters) -> dict[str, np.ndarray]:
    """The update of a ledger's row before it was masked: trained again from the device's seed."""
    settings = made.devices[row["node"]]
    shard, engine = prepare(settings, TASK, {export.name: export.blob for export in graphs()})
    plan, secret = ENTRY.plan, settings.seed
    receipt = make_receipt(
        TASK, plan, len(shard.x), secret=secret, node=row["node"], round_=row["round"], uid=row["uid"]
    )
    trained = local_update(engine, parameters, task=TASK, plan=plan, shard=shard, receipt=receipt)
    rng = update_stream(secret, "codec", row["node"], row["round"], row["uid"])
    return quantised(trained.tensors, SECURE, rng)


def require_exact_sum(made: Federation, ledger: Ledger, round_: int, version: int) -> tuple[str, ...]:
    """The server's sum is the plain sum, integer by integer; gives the devices in it."""
    total, _, uids = summed(ledger, round_)
    parameters = parameters_of(ledger.value("SELECT object FROM models WHERE version = ?", version))
    rows = [ledger.row("SELECT node, round, uid, object FROM updates WHERE uid = ?", uid) for uid in uids]
    plain = [plain_integers(made, row, parameters) for row in rows]
    for name, value in total.items():
        expected = np.sum([update[name].view(np.int32).astype(np.int64) for update in plain], axis=0)
        np.testing.assert_array_equal(value, expected)
        assert np.abs(expected).max() > 0
    return tuple(sorted(row["node"] for row in rows))


def test_two_of_seven_devices_killed_after_shares_and_after_the_update(tmp_path, monkeypatch):
    deaths = {"device-1": [AFTER_SHARES], "device-4": [AFTER_UPDATE]}
    made = run(tmp_path, monkeypatch, (ENTRY,), deaths)
    with Ledger.open_read(made.ledger) as ledger:
        nodes = require_exact_sum(made, ledger, 1, 0)
        assert nodes == tuple(name for name in DEVICES if name != "device-1")
        row = ledger.row("SELECT * FROM masked_sums")
        assert (row["threshold"], row["asked"], row["attempt"]) == (5, 7, 1)
        revealed = {r["node"] for r in ledger.rows("SELECT node FROM masking_messages WHERE message = 'Reveal'")}
        assert "device-4" not in revealed
        assert "device-1" not in revealed
        require_costs(ledger)
        require_masked(ledger)
    said = summarise(made.server.directory)["secure"]
    assert (said["rounds"], said["survivors"], said["lost"]) == (1, 6, 1)
    assert said["bytes_messages"] > 0
    assert said["bytes_messages_per_update"] == pytest.approx(said["bytes_messages"] / 6)


def require_costs(ledger: Ledger) -> None:
    """What secure aggregation added is there, in bytes and in joules, each with its provenance."""
    rows = ledger.rows("SELECT * FROM masking_costs WHERE part = 'setup'")
    assert len({row["update_uid"] for row in rows}) >= 5
    for row in rows:
        assert row["bytes_up"] > 500
        assert row["bytes_down"] > 500
        if row["work"] == "sending":
            assert row["provenance"] == "modelled"
            assert 0 < row["energy_j"] < 1
        else:
            assert row["duration_s"] > 0
    assert ledger.value("SELECT COUNT(*) FROM masking_costs WHERE part = 'reveal'") >= 2 * 5


def require_masked(ledger: Ledger) -> None:
    """No object is a plain update, and nothing was told of its values."""
    for row in ledger.rows("SELECT * FROM updates"):
        update, views = unpack(row["object"], Update)
        assert (row["norm"], row["loss"], update.masks) == (None, None, 1)
        with pytest.raises(ValueError, match="unknown codec"):
            decode_tensors(update.tensors, views)


def test_a_server_killed_among_the_updates_and_before_it_aggregates_opens_anew_and_ends_exact(tmp_path, monkeypatch):
    deaths = {SERVER: ["ack-after:3", "aggregate-before:1"], "device-2": ["chunks-sent:1"]}
    made = run(tmp_path, monkeypatch, (ENTRY,), deaths, "3.1.1")
    with Ledger.open_read(made.ledger) as ledger:
        openings = ledger.rows("SELECT attempt, closed FROM rounds ORDER BY attempt")
        assert [row["closed"] for row in openings[:2]] == ["interrupted"] * 2
        assert openings[-1]["closed"] in {"complete", "deadline"}
        require_exact_sum(made, ledger, 1, 0)
        assert ledger.value("SELECT COUNT(*) FROM aggregated") == len(summed(ledger, 1)[2])
    said = summarise(made.server.directory)["secure"]
    assert (said["rounds"], said["openings_failed"]) == (1, len(openings) - 1)
