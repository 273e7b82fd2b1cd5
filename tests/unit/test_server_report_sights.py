"""The curious server's best of what it sees, certificates of what several devices share, and masks as they look."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from contract.messages import AttackScore
from contract.secure import SecureAggregation
from server.report import svg
from server.report.controls import controls, false_certificates
from server.report.data import Secure, View
from server.report.secure import parts
from server.report.sight_table import sight_lines, sight_notes
from server.report.sights import of_server
from tests.unit.test_server_report_page import Page, drawn_only, render
from tests.unit.test_server_report_synthetic import make_report

replace = msgspec.structs.replace
ROW = make_report().snn.scores[0]


def row(seen: str, update: str = "u1", attack: str = "ratio", **score):
    return replace(ROW, update=update, seen=seen, score=AttackScore(attack=attack, **{"verdict": "partial", **score}))


def test_a_server_takes_the_better_of_masked_update_and_sum_and_never_a_fellows():
    rows = [
        row("update", psnr_db=9.0),
        row("aggregate", psnr_db=None, verdict="failed"),
        row("models", psnr_db=99.0),
        row("update", "u2", verdict="refused"),
        row("aggregate", "u2", verdict="failed"),
        row("update", "u3", "label", labels_right=0),
        row("aggregate", "u3", "label", labels_right=1),
    ]
    best = of_server(rows)
    assert [(r.update, r.seen) for r in best] == [("u1", "update"), ("u2", "aggregate"), ("u3", "aggregate")]


@pytest.mark.parametrize(
    ("score", "false"),
    [
        ({"spike_precision": 0.25, "spike_recall": 1.0}, False),
        ({"spike_precision": 0.25, "spike_recall": 0.9}, True),
        ({"psnr_db": 39.0}, True),
        ({"psnr_db": 60.0}, False),
    ],
)
def test_a_certificate_over_several_devices_needs_all_that_one_of_them_has(score, false):
    assert bool(false_certificates([row("aggregate", verdict="exact", **score)])) is false
    if "spike_precision" in score:
        assert false_certificates([row("update", verdict="exact", **score)]), "of its own update all must be true"


def secure_report():
    data = make_report()
    told = {
        "rounds": 2,
        "openings_failed": 1,
        "survivors": 6,
        "lost": 2,
        "bytes_messages": 9000,
        "bytes_messages_per_update": 1500.0,
        "energy_j": [
            {
                "work": "computing",
                "energy_j": None,
                "provenance": "unavailable",
                "reason": "no meter",
                "duration_s": 0.5,
            },
            {"work": "sending", "energy_j": 2e-4, "provenance": "modelled", "reason": "", "duration_s": 0.1},
        ],
    }
    audits = tuple(
        replace(r, plan=replace(r.plan, codec="fp32", compression="none", secure=SecureAggregation()))
        if r.plan.kind == "audit"
        else r
        for r in data.snn.rounds
    )
    rounds = sorted({r.round for r in audits if r.plan.kind == "audit"})
    mine = [s for s in data.snn.scores if s.kind == "audit"]
    seen = (*mine, *(replace(s, seen="aggregate", score=replace(s.score, psnr_db=42.0)) for s in mine))
    views = (
        *(View(seen="aggregate", round=r, samples=(1, 1, 1)) for r in rounds),
        View(seen="models", round=1, samples=(), note="not supported: why"),
    )
    family = replace(data.snn, rounds=audits, seen=seen, views=views, secure=Secure(told=told, bytes_up=90_000))
    return replace(data, snn=family, twin=None)


def test_the_page_says_what_masks_hid_and_what_the_sum_showed(monkeypatch):
    monkeypatch.setattr(svg, "_render", drawn_only)
    data = secure_report()
    lines = sight_lines(data)
    assert [line.seen for line in lines] == ["each device's update, under its masks", "the opened mean of a round"]
    assert lines[1].of == "3 devices, 3 samples"
    assert lines[1].worst == "42.0"
    assert any("not supported: why" in note for note in sight_notes(data))
    (part,) = parts(data.families)
    words = " ".join(part.sentences)
    for expected in (
        "2 lost after they had dealt shares",
        "begun anew: 1",
        "10.0",
        "200 µJ for sending (modelled)",
        "none is known (no meter",
    ):
        assert expected in words.replace("\u202f", " "), (expected, words)
    assert part.chart is None, "no update to show: none is drawn"
    (ratio,) = [c for c in controls(data) if c.name.startswith("Ratio")]
    assert (ratio.outcome, "nobody sees the update" in ratio.observed) == ("not run", True)
    text = " ".join(Page(render(data)).text)
    assert "What was seen, and from where" in text
    assert np.all([word in text for word in ("broker, server", "not supported: why")])
