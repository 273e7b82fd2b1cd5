"""A whole run under secure aggregation and with a curious fellow: what is seen from where, in summary and report."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

from server.ledger import Ledger
from server.report.data import ScoreRow
from server.report.ledger_rows import read_scores
from tests.conftest import ROOT

STUDY = """
name = "seen"
clients = 3
task = { dataset = "digits", encoding = { kind = "direct", steps = 3 }, model = { hidden = [32] } }
devices = { per_process = 3, seed = 5, radio_mbit_s = 20.0 }
server = { evaluate = false }
[attack]
attacks = ["label", "ratio", "image_lp"]
budget_s = 3.0
noise_controls = 1
vantages = ["server", "fellow"]
[[schedule]]
kind = "audit"
algorithm = "fedsgd"
batch_size = 1
secure = { clip = 8.0, bits = 20 }
[[schedule]]
kind = "audit"
algorithm = "fedsgd"
batch_size = 1
apply = true
"""


def best(rows: list[ScoreRow], seen: str, round_: int) -> list[float]:
    figures: dict[str, float] = {}
    for row in rows:
        if (row.seen, row.round) == (seen, round_):
            figures[row.node] = max(figures.get(row.node, 0.0), row.score.psnr_db or 0.0)
    return [figures[node] for node in sorted(figures)]


def test_the_sum_leaks_what_the_masks_hid_and_two_models_leak_what_a_fellow_wants(tmp_path):
    (tmp_path / "study.toml").write_text(STUDY)
    program = [sys.executable, "-m", "deploy.cli", "run", "study.toml", "--out", "out"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        program, cwd=tmp_path, capture_output=True, text=True, timeout=280, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    with Ledger.open_read(tmp_path / "out" / "ledger.sqlite") as ledger:
        rows = read_scores(ledger)
        shown = {row["seen"]: row["round"] for row in ledger.rows("SELECT * FROM views WHERE object IS NOT NULL")}
        why = ledger.value("SELECT note FROM views WHERE object IS NULL")
    assert shown == {"aggregate": 1, "models": 2}
    assert "left the model as it was" in why
    assert len(best(rows, "update", 1)) == len(best(rows, "aggregate", 1)) == 3
    assert max(best(rows, "update", 1)) < 20, "masked"
    assert min(best(rows, "aggregate", 1)) > 30, "all three samples of three devices, out of one opened mean"
    assert min(best(rows, "update", 2)) > 100, "the positive control: bare"
    assert len(best(rows, "models", 2)) == 2, "the fellow's own is not among them"
    assert min(best(rows, "models", 2)) > 40

    said = json.loads((tmp_path / "out" / "summary.json").read_text())["leakage"]
    assert list(said["by_sight"]) == ["update", "aggregate", "models"]
    assert said["by_sight"]["models"]["vantages"] == ["fellow client"]
    assert (said["unscored"], said["certificates"]["false"], said["noise"]["certified"]) == (0, 0, 0)
    assert said["noise"]["updates"] == 3, "one control for each kind of sight"

    page = (tmp_path / "out" / "report.html").read_text()
    section = page[page.index('<section id="seen">') : page.index('<section id="energy">')]
    for words in ("the opened mean of a round", "3 devices, 3 samples", "2 devices, 2 samples", "fellow client"):
        assert words in section
    assert "device-000 took its own update out" in section
    assert len(re.findall(r"p = [\d.]+", section)) == 2
    assert section.count("data:image/png") == 3
    assert "rounds that were summed under masks: 1" in section
