"""From a ledger to the page: what the server writes is what the report shows."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import msgspec
import numpy as np
import pytest

from contract.codecs import encode_tensors
from contract.errors import ConfigurationError, EnvironmentFaultError
from contract.messages import (
    AttackResult,
    AttackScore,
    EnergyReport,
    NodeState,
    Operations,
    PhaseEnergy,
    Reconstruction,
    Score,
    Truth,
)
from contract.task import ModelSpec, RoundPlan, TaskSpec, task_hash
from hardware.energy import unavailable
from hardware.energy_model import EnergyModel
from server import journal
from server.ledger import Ledger
from server.report import picture as chart
from server.report import svg, write_report
from server.report.data import ReportData
from server.report.ledger_pictures import first_by_device
from server.report.source import read_report_data
from tests.unit.test_server_report_page import Page, drawn_only
from tests.unit.test_server_report_trials import row as score_row

PLANS = {1: RoundPlan(), 2: RoundPlan(kind="audit", algorithm="fedsgd", batch_size=1)}
NODES = ("device-0", "device-1")
RNG = np.random.default_rng(5)


def uid(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def tensors(name: str, images: np.ndarray):
    return encode_tensors("fp32", {name: images.astype(np.float32)}, RNG)


def write_update(ledger: Ledger, node: str, round_: int, *, truth: np.ndarray) -> str:
    update = uid(ledger.path, node, round_)
    ledger.insert(
        "updates",
        {
            "uid": update,
            "node": node,
            "round": round_,
            "status": "admitted",
            "code": "",
            "reason": "",
            "samples": 1,
            "bytes": 1000,
            "sha256": "",
            "received_wall": 0.0,
        },
    )
    model = EnergyModel.load()
    train = model.compute(macs=10**9, acs=0, membrane_updates=0, backward_macs=0, memory_bytes=0, duration_s=1.0)
    phases = (
        PhaseEnergy(phase="train", readings=(unavailable("none", "board", "no meter"), train)),
        PhaseEnergy(phase="transmit", readings=(model.radio(1000, 1.0),)),
    )
    place = {"update_uid": update, "node": node, "round": round_}
    report = EnergyReport(
        uid=uid("e", update), operations=Operations(macs=10**9), payload_bytes=1000, phases=phases, **place
    )
    journal.write_report(ledger, report, (), nbytes=10)
    records, views = tensors("ratio", np.stack([np.zeros_like(truth), truth]))
    results = (
        AttackResult(attack="ratio", verdict="exact", images=0, seconds=0.01),
        AttackResult(attack="dlg", verdict="failed", reason="objective not finite", seconds=1.0),
    )
    recon = Reconstruction(uid=uid("r", update), results=results, tensors=records, **place)
    journal.write_reconstruction(ledger, recon, [memoryview(v).cast("B") for v in views], keep=64)
    attacks = (
        AttackScore(attack="dlg", verdict="failed", reason="objective not finite", seconds=1.0),
        AttackScore(
            attack="ratio",
            verdict="exact",
            seconds=0.01,
            psnr_db=150.0,
            sample=0,
            candidate=1,
            wrong_sample_db=9.0,
            mean_image_db=11.0,
        ),
    )
    score = Score(uid=uid("s", update), samples=1, attacks=attacks, **place)
    journal.write_report(ledger, score, (), nbytes=10)
    records, views = tensors("truth", truth[None])
    shown = Truth(uid=uid("t", update), indices=(0,), labels=(7,), tensors=records, **place)
    journal.write_report(ledger, shown, [memoryview(v).cast("B") for v in views], nbytes=10)
    return update


def write_run(directory: Path, family: str = "snn") -> None:
    task = TaskSpec(model=ModelSpec(family=family))
    with Ledger(directory / "ledger.sqlite") as ledger:
        ledger.claim({"run": "r", "task": msgspec.to_builtins(task)})
        for key, value in {"run": "r", "task_hash": task_hash(task), "rounds": "2", "outcome": "finished"}.items():
            ledger.set_meta(key, value)
        ledger.start_session()
        for node in NODES:
            journal.write_node(ledger, NodeState(node=node, epoch=1, status="online", board="old board"))
            journal.write_node(ledger, NodeState(node=node, epoch=2, status="online", board="emulated", samples=9))
        for round_, plan in PLANS.items():
            for attempt in (1, 2):
                ledger.insert(
                    "rounds",
                    {
                        "round": round_,
                        "attempt": attempt,
                        "epoch": 1,
                        "kind": plan.kind,
                        "algorithm": plan.algorithm,
                        "plan": msgspec.json.encode(plan).decode(),
                        "model_version": 0,
                        "invited": json.dumps(NODES),
                        "selected": json.dumps(NODES),
                        "needed": 2,
                        "deadline_s": 30.0,
                        "opened_wall": 0.0,
                        "closed": "interrupted" if attempt == 1 else "complete",
                        "admitted": None if attempt == 1 else 2,
                    },
                )
        for version, accuracy in ((0, 0.1), (1, 0.875)):
            row = {"version": version, "round": version, "accuracy": accuracy, "loss": 1.0, "samples": 40}
            ledger.insert("evaluations", {**row, "duration_s": 1.0})
        for node in NODES:
            for round_ in PLANS:
                write_update(ledger, node, round_, truth=np.full((1, 8, 8), 0.5))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_run(tmp_path)
    write_run(tmp_path / "twin", "ann")
    (tmp_path / "config.toml").write_text(
        'name = "my run"\n[twin]\n[broker]\nkind = "amqtt"\n[attack.threat]\nvantage = "server"\nlabels = false\n'
    )
    updates = {"published": 5, "admitted": 4, "refused": 0, "lost": 1, "duplicated": 0}
    (tmp_path / "summary.json").write_text(json.dumps({"updates": updates, "bytes_up": 4000, "twin": {}}))
    return tmp_path


@pytest.fixture
def data(run: Path) -> ReportData:
    return read_report_data(run)


def test_rows_of_the_ledger_arrive(data: ReportData) -> None:
    assert data.problems == ()
    assert (data.name, data.broker) == ("my run", "as configured: kind amqtt")
    assert data.threat == (("vantage", "server"), ("labels", "not known"))
    snn = data.snn
    assert (snn.title, snn.status, snn.rounds_planned, snn.evaluated_on) == ("SNN", "finished", 2, 40)
    assert [(row.round, row.plan.kind, row.accuracy) for row in snn.rounds] == [(1, "train", 0.875), (2, "audit", None)]
    assert snn.initial_accuracy == 0.1
    assert [(d.node, d.board, d.samples) for d in snn.devices] == [(node, "emulated", 9) for node in NODES]
    assert (snn.counts.published, snn.counts.lost, snn.bytes_up) == (5, 1, 4000)
    assert {(row.kind, row.score.attack) for row in snn.scores} == {
        (kind, attack) for kind in ("train", "audit") for attack in ("ratio", "dlg")
    }
    assert len(snn.energy) == 4 * 3


def test_the_twin_is_read_beside_it(data: ReportData) -> None:
    assert data.twin is not None
    assert data.twin.title == "ANN twin"
    assert data.twin.task is not None
    assert data.twin.task.model.family == "ann"
    assert data.twin.counts.published is None


def test_pictures_show_the_candidate_that_was_scored(data: ReportData) -> None:
    audit = [picture for picture in data.snn.pictures if picture.kind == "audit"]
    assert {picture.node for picture in audit} == set(NODES)
    for picture in audit:
        images = {candidate.score.attack: candidate.image for candidate in picture.candidates}
        np.testing.assert_array_equal(images["ratio"], picture.truth)
        assert images["dlg"] is None
        assert picture.label == 7
    train = [picture for picture in data.snn.pictures if picture.kind == "train"]
    assert all(candidate.image is None for picture in train for candidate in picture.candidates)


def test_only_constants_that_were_used_are_listed(data: ReportData) -> None:
    names = {constant.name for constant in data.constants}
    assert {"fp32_add", "fp32_multiply", "wifi_upload_slope"} <= names
    assert "cortex_a_mac" not in names


def test_report_is_written_once_whole(run: Path) -> None:
    path = write_report(run)
    assert path == run / "report.html"
    page = Page(path.read_text(encoding="utf-8"))
    for text in ("my run", "87.5", "150.0 dB", "task hash", "labels not known", "modelled"):
        assert text in page.words, text
    assert not list(run.glob("*.partial"))


def test_report_of_a_run_that_only_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(svg, "_render", drawn_only)
    with Ledger(tmp_path / "ledger.sqlite"):
        pass
    page = Page(write_report(tmp_path, tmp_path / "other.html").read_text(encoding="utf-8"))
    assert "no round was opened" in page.words
    assert "summary.json is not there" in page.words
    assert "No ANN twin: the study did not ask for one" in page.words


def test_unreadable_neighbours_are_problems_not_crashes(run: Path) -> None:
    (run / "summary.json").write_text("{")
    (run / "config.toml").write_text("= 3")
    (run / "twin" / "ledger.sqlite").write_bytes(b"not a ledger, and long enough to look like a file" * 50)
    data = read_report_data(run)
    assert data.twin is None
    assert data.snn.counts.published is None
    assert data.snn.counts.admitted == 4
    assert len(data.problems) == 3


def test_a_folder_without_a_run_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no such ledger"):
        write_report(tmp_path)


def test_a_report_that_cannot_be_written_is_the_machines_fault(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(svg, "_render", drawn_only)
    with pytest.raises(EnvironmentFaultError, match="choose a folder"):
        write_report(run, run / "no such folder" / "report.html")


def test_pictures_are_chosen_without_looking_at_results() -> None:
    def update(node: str, round_: int, kind: str, psnr_db: float):
        one = score_row(psnr_db, update=f"{node}{round_}")
        return [msgspec.structs.replace(one, node=node, round=round_, kind=kind)]

    updates = [update("a", 1, "train", 90.0), update("a", 3, "audit", 5.0), update("a", 2, "audit", 9.0)]
    updates += [update("b", 4, "audit", 200.0)]
    chosen = [(rows[0].node, rows[0].round) for rows in first_by_device(updates, most=3)]
    assert chosen == [("a", 2), ("b", 4), ("a", 3)]


def test_the_leakage_chart_stands_alone_as_a_picture(run: Path) -> None:
    text = chart.picture(run)
    root = ET.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    used = set(re.findall(r"var\((--\w+)\)", text))
    assert {"--ink", "--paper"} <= used
    assert all(f"{name}:" in text for name in used), "a colour that the file does not bring"
