"""What larger fleets need: the README's tables are computed, and the computing is right."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from contract.errors import ConfigurationError
from contract.messages import MAX_HEAD_BYTES, ServerState, encode
from deploy.cluster.broker_cost import BrokerCost, measure
from deploy.cluster.sizing import BUSY, MOST_ASKED, Measured, need, table
from deploy.cluster.traffic import ACK_BYTES, Traffic, measured, state_bytes
from tests.conftest import ROOT

CLUSTER = ROOT / "deploy" / "cluster"
TRAFFIC = Traffic(
    updates=10,
    update_bytes=600_000.0,
    report_bytes=2_000.0,
    score_bytes=3_000.0,
    other_bytes=5_000.0,
    model_bytes=800_000.0,
    task_bytes=4_000.0,
    attack_s=2.0,
)
COST = BrokerCost(broker="b", message_s=1e-4, byte_s=1e-9, connection_bytes=20_000.0)


def test_the_tables_of_the_readme_follow_from_the_figures_beside_it() -> None:
    found = msgspec.json.decode((CLUSTER / "measured.json").read_bytes(), type=Measured)
    text = (CLUSTER / "README.md").read_text()
    for options in ({"period_s": 3600.0}, {"period_s": 600.0, "asked": 1000}):
        assert table(found, (10**3, 10**5, 10**7), **options) in text, table(found, (10**3, 10**5, 10**7), **options)
    assert f"{MOST_ASKED // 1000},000" in text


def test_the_needs_of_a_fleet_by_hand() -> None:
    got = need(Measured(run="r", traffic=TRAFFIC, cost=COST), 1000, period_s=100.0, asked=200)
    assert got.updates_per_s == 2.0
    states, state = 2 * 1000 / 100, state_bytes(200)
    assert got.deliveries_per_s == pytest.approx(2 * (3 + 4 + 1 + 1 + 3 + 1 + 2) + states)
    came = 600_000 + ACK_BYTES + 2_000 + 600_000 + 3_000 + 5_000
    went = came + 800_000 + 5_000
    assert got.in_bytes_per_s == pytest.approx(2 * came)
    assert got.out_bytes_per_s == pytest.approx(2 * went + states * state)
    assert got.connections_bytes == 20_000_000
    assert got.broker_cores == pytest.approx((got.deliveries_per_s * 1e-4 + got.out_bytes_per_s * 1e-9) / BUSY)
    assert got.ledger_bytes_per_day == pytest.approx(2 * 600_000 * 86_400)
    assert got.workers == pytest.approx(2 * 2.0 / BUSY)


def test_without_an_attacker_nothing_is_mirrored() -> None:
    quiet = msgspec.structs.replace(TRAFFIC, attack_s=None)
    got = need(Measured(run="r", traffic=quiet, cost=COST), 1000, period_s=100.0, asked=200)
    assert got.workers is None
    assert got.in_bytes_per_s == pytest.approx(2 * (600_000 + ACK_BYTES + 2_000))
    assert "| none |" in table(Measured(run="r", traffic=quiet, cost=COST), (1000,), period_s=100.0)


def test_a_round_asks_no_more_devices_than_a_record_holds() -> None:
    def state(count: int) -> int:
        names = tuple(f"board-{at:05d}" for at in range(count))
        hashes = {"model_sha256": "0" * 64, "task_hash": "0" * 64}
        return len(encode(ServerState(run="run", status="open", epoch=1, selected=names, **hashes)))

    assert state(MOST_ASKED) == pytest.approx(state_bytes(MOST_ASKED), abs=4)
    assert state(MOST_ASKED) <= MAX_HEAD_BYTES + 4 < state(MOST_ASKED + 2)
    assert "refused" in table(Measured(run="r", traffic=TRAFFIC, cost=COST), (MOST_ASKED + 1,), period_s=1.0)
    assert "refused" not in table(Measured(run="r", traffic=TRAFFIC, cost=COST), (MOST_ASKED,), period_s=1.0)


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"holds no ledger\.sqlite"):
        measured(tmp_path)


def test_a_broker_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("CONNECTIONS", 40), ("SMALL_COUNT", 300), ("LARGE_COUNT", 60)):
        monkeypatch.setattr(f"deploy.cluster.broker_cost.{name}", value)
    found = measure()
    assert found.broker.startswith("mosquitto")
    assert 0 <= found.byte_s < 1e-6
    assert -1e-4 < found.message_s < 1e-2
    assert 5_000 < found.connection_bytes < 200_000
