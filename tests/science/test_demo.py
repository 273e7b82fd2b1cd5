"""The demo, whole, as a newcomer runs it: what it promises must be in its results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from server.ledger import Ledger
from tests.conftest import spikeleak

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "out"
    done = spikeleak("demo", "--out", str(out), timeout_s=280)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "report.html" in done.stdout
    return out


@pytest.fixture(scope="module")
def summary(demo: Path) -> dict[str, Any]:
    return dict(json.loads((demo / "summary.json").read_text()))


def test_both_networks_learn(summary: dict[str, Any]) -> None:
    assert (summary["rounds"], summary["clients"]) == (15, 4)
    assert summary["accuracy"] >= 0.80
    assert summary["twin"]["accuracy"] >= 0.80


def test_nothing_is_lost_or_counted_twice(summary: dict[str, Any]) -> None:
    for part in (summary, summary["twin"]):
        updates = part["updates"]
        assert (updates["lost"], updates["duplicated"], updates["refused"]) == (0, 0, 0)
        assert updates["admitted"] == 10 * 4 + 5 * 2


@pytest.mark.parametrize("arm", [".", "twin"])
def test_every_energy_figure_has_a_provenance_and_none_is_measured(demo: Path, arm: str) -> None:
    with Ledger.open_read(demo / arm / "ledger.sqlite") as ledger:
        found = {row["provenance"] for row in ledger.rows("SELECT DISTINCT provenance FROM energy")}
        unexplained = ledger.value("SELECT COUNT(*) FROM energy WHERE energy_j IS NULL AND reason = ''")
    assert found == {"modelled", "unavailable"}
    assert unexplained == 0
    joules = json.loads((demo / "summary.json").read_text())
    joules = (joules if arm == "." else joules["twin"])["energy_j"]
    assert (joules["provenance"], list(joules["by_provenance"])) == ("modelled", ["modelled"])
    assert (joules["meters"], joules["reconciled"], joules["uncertainty"]) == ([], [], None)


def scores(demo: Path, arm: str, *attacks: str) -> list[list[float]]:
    """Per audited update, the PSNR of each named attack; an attack without an image has none."""
    marks = ", ".join("?" * len(attacks))
    with Ledger.open_read(demo / arm / "ledger.sqlite") as ledger:
        rows = ledger.rows(
            "SELECT s.update_uid AS uid, s.psnr_db AS db FROM scores s JOIN updates u ON u.uid = s.update_uid "
            f"WHERE u.round IN (SELECT round FROM rounds WHERE kind = 'audit') AND s.attack IN ({marks})",
            *attacks,
        )
    by_update: dict[str, list[float]] = {}
    for row in rows:
        by_update.setdefault(row["uid"], [])
        if row["db"] is not None:
            by_update[row["uid"]].append(row["db"])
    assert len(by_update) == 10
    return list(by_update.values())


def test_where_dlg_fails_on_the_spiking_network_the_ratio_does_not(demo: Path) -> None:
    assert all(found and max(found) < 15 for found in scores(demo, ".", "dlg"))
    assert all(found and max(found) > 60 for found in scores(demo, ".", "ratio"))


def test_the_twin_is_inverted_by_gradient_matching(demo: Path) -> None:
    best = sorted(max(found, default=0.0) for found in scores(demo, "twin", "dlg", "cosine"))
    assert best[len(best) // 2] > 40


@pytest.mark.parametrize("arm", [".", "twin"])
def test_another_sample_is_never_recovered(demo: Path, arm: str) -> None:
    with Ledger.open_read(demo / arm / "ledger.sqlite") as ledger:
        rows = ledger.rows("SELECT wrong_sample_db, mean_image_db FROM scores WHERE wrong_sample_db IS NOT NULL")
    assert len(rows) >= 10
    assert max(row["wrong_sample_db"] for row in rows) < 25
    wrong = sorted(row["wrong_sample_db"] for row in rows)
    mean = sorted(row["mean_image_db"] for row in rows)
    assert wrong[len(wrong) // 2] < mean[len(mean) // 2] + 3


def test_training_and_audit_rounds_are_told_apart(summary: dict[str, Any]) -> None:
    for part in (summary, summary["twin"]):
        by_schedule = part["leakage"]["by_schedule"]
        assert by_schedule["audit"]["worst_psnr_db"] > 60
        assert by_schedule["train"]["worst_psnr_db"] < 30


def test_the_report_is_one_file(demo: Path) -> None:
    text = (demo / "report.html").read_text()
    assert text.startswith("<!")
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert 50_000 < len(text) < 5_000_000
