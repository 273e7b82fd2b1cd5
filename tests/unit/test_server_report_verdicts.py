"""Controls and conclusions: what the page says follows from its figures, in both directions."""

from __future__ import annotations

import msgspec
import pytest

from hardware.energy import EnergyReading, unavailable
from server.report.conclusion import conclusion
from server.report.controls import controls, false_certificates
from server.report.data import EnergyRow, Family, ReportData
from server.report.energy import gaps, modelled_j, spent, totals
from server.report.headline import tiles
from server.report.quantities import percent
from server.report.verdict_chart import round_verdicts, verdict_chart
from tests.unit.test_server_report_synthetic import make_report

replace = msgspec.structs.replace


def rescored(family: Family, attack: str, **changes: object) -> Family:
    """A family in which every audit score of one attack is changed."""
    rows = [
        replace(row, score=replace(row.score, **changes))
        if row.kind == "audit" and row.score.attack == attack and row.score.verdict != "refused"
        else row
        for row in family.scores
    ]
    return replace(family, scores=tuple(rows))


def recoded(family: Family, codec: str) -> Family:
    return replace(family, rounds=tuple(replace(r, plan=replace(r.plan, codec=codec)) for r in family.rounds))


def outcomes(data: ReportData) -> dict[str, str]:
    return {control.name: control.outcome for control in controls(data)}


def told(data: ReportData) -> str:
    return " ".join(conclusion(data, controls(data)))


def test_all_controls_of_a_good_run_pass() -> None:
    assert set(outcomes(make_report()).values()) == {"pass"}
    assert "All 10 controls that ran passed." in told(make_report())


@pytest.mark.parametrize(
    ("codec", "psnr_db", "outcome"),
    [("fp32", 100.0, "pass"), ("fp32", 99.9, "fail"), ("int8", 60.0, "pass"), ("int8", 59.9, "fail")],
)
def test_ratio_control_depends_on_the_codec(codec: str, psnr_db: float, outcome: str) -> None:
    data = make_report()
    data = replace(data, snn=recoded(rescored(data.snn, "ratio", psnr_db=psnr_db), codec))
    assert outcomes(data)["Ratio attack on the SNN"] == outcome


def test_a_control_that_some_updates_reach_is_partly_met() -> None:
    data = make_report()
    snn = rescored(data.snn, "ratio", psnr_db=50.0)
    first = next(i for i, row in enumerate(snn.scores) if row.kind == "audit" and row.score.attack == "ratio")
    one = replace(snn.scores[first], score=replace(snn.scores[first].score, psnr_db=140.0))
    data = replace(data, snn=replace(snn, scores=(*snn.scores[:first], one, *snn.scores[first + 1 :])))
    assert outcomes(data)["Ratio attack on the SNN"] == "partly"
    assert "1 of 10 controls did not pass (Ratio attack on the SNN)" in told(data)


def test_twin_control_takes_the_better_of_the_two() -> None:
    data = make_report()
    worse = rescored(data.twin, "dlg", psnr_db=5.0)
    assert outcomes(replace(data, twin=worse))["DLG or cosine attack on the ANN twin"] == "pass"
    both = rescored(worse, "cosine", psnr_db=None, verdict="failed")
    assert outcomes(replace(data, twin=both))["DLG or cosine attack on the ANN twin"] == "fail"


def test_controls_that_do_not_apply_are_not_run_and_say_why() -> None:
    data = make_report()
    task = data.snn.task
    assert task is not None
    rate = replace(task, encoding=replace(task.encoding, kind="rate"))
    data = replace(data, snn=replace(data.snn, task=rate), twin=None, twin_missing="it was asked for but has not run")
    found = {control.name: control for control in controls(data)}
    assert found["Ratio attack on the SNN"].outcome == "not run"
    assert found["DLG or cosine attack on the ANN twin"].observed == "it was asked for but has not run"
    assert "2 could not be run" in told(data)


def test_a_wrong_sample_that_fits_fails_its_control() -> None:
    data = make_report()
    data = replace(data, snn=rescored(data.snn, "ratio", wrong_sample_db=60.0))
    for attack in ("dlg", "cosine"):
        data = replace(data, snn=rescored(data.snn, attack, wrong_sample_db=60.0))
    assert outcomes(data)["Wrong sample, SNN"] == "fail"
    assert outcomes(data)["Wrong sample, ANN twin"] == "pass"


def test_conclusion_names_the_worst_attack_and_what_it_means() -> None:
    text = told(make_report())
    assert "The SNN's audit updates (one sample each) give inputs away" in text
    assert "20 of 20 scored updates reach 40 dB or more" in text
    assert "the optimisation attacks get no further than" in text
    assert "No joule on this page was measured: no meter found" in text


def test_conclusion_does_not_claim_a_contrast_that_is_not_there() -> None:
    data = make_report()
    assert "optimisation" not in told(replace(data, snn=rescored(data.snn, "dlg", psnr_db=139.0)))


def test_conclusion_of_an_identical_image_and_of_ties() -> None:
    data = make_report()
    snn = rescored(rescored(data.snn, "ratio", psnr_db=200.0), "dlg", psnr_db=200.0)
    text = told(replace(data, snn=snn))
    assert "dlg (ratio as much), rebuilds one without any error" in text


def test_lost_updates_reach_the_conclusion() -> None:
    data = make_report()
    data = replace(data, snn=replace(data.snn, counts=replace(data.snn.counts, lost=2, duplicated=1)))
    assert "pdates of the SNN: 2 lost and 1 duplicated" in told(data)


def energy_row(phase: str, energy_j: float | None, *, provenance: str = "modelled", source: str = "m") -> EnergyRow:
    reading = (
        unavailable(source, "board", f"no figure for phase {phase!r}")
        if energy_j is None
        else EnergyReading(energy_j=energy_j, duration_s=1.0, source=source, scope="board", provenance=provenance)
    )
    return EnergyRow(node="a", round=1, kind="train", phase=phase, reading=reading)


def test_like_is_added_to_like_only() -> None:
    rows = [
        energy_row("train", 1.0),
        energy_row("transmit", 2.0),
        energy_row("train", 4.0, provenance="measured", source="rapl"),
        energy_row("train", 8.0, provenance="measured", source="plug"),
        energy_row("load", None),
    ]
    found = {(t.provenance, t.source): (t.energy_j, t.readings) for t in totals(rows)}
    assert found == {("measured", "plug"): (8.0, 1), ("measured", "rapl"): (4.0, 1), ("modelled", "m"): (3.0, 2)}


def test_idle_time_is_no_cost_of_an_update() -> None:
    rows = (energy_row("idle", 100.0), energy_row("train", 1.0))
    assert [row.phase for row in spent(rows)] == ["train"]
    assert modelled_j(Family(title="SNN", status="", energy=rows)) == 1.0
    assert modelled_j(Family(title="SNN", status="", energy=(energy_row("train", None),))) is None


def test_gaps_that_differ_by_the_phase_only_are_one() -> None:
    (gap,) = gaps([energy_row("load", None), energy_row("idle", None), energy_row("train", 1.0)])
    assert (gap.phases, gap.reason, gap.readings, gap.devices) == (("idle", "load"), "no figure for this phase", 2, 1)


def test_a_meter_on_some_devices_does_not_stand_for_all() -> None:
    data = make_report()
    reading = EnergyReading(energy_j=9.0, duration_s=1.0, source="rapl", scope="package", provenance="measured")
    row = replace(data.snn.energy[0], reading=reading)
    idle = replace(row, phase="idle", reading=replace(reading, energy_j=1000.0))
    data = replace(data, snn=replace(data.snn, energy=(row, idle, *data.snn.energy)))
    lines = next(tile for tile in tiles(data) if tile.title.startswith("Energy")).lines
    assert [line.badge for line in lines if line.who == "SNN"] == ["modelled", "measured"]
    assert lines[1].value == "9.00\u202fJ"
    assert "1 of 60 updates" in lines[1].note
    assert "60 of 60 updates" in lines[0].note


def test_a_certificate_on_noise_fails_the_control_and_names_the_attack() -> None:
    data = make_report()
    claimed = tuple(replace(row, verdict="exact") if row.attack == "ratio" else row for row in data.snn.noise)
    found = {c.name: c for c in controls(replace(data, snn=replace(data.snn, noise=claimed)))}
    control = found["Noise in place of an update, SNN"]
    assert (control.outcome, "certified by ratio" in control.observed) == ("fail", True)
    assert found["Noise in place of an update, ANN twin"].outcome == "pass"
    refused = tuple(replace(row, verdict="refused") for row in data.snn.noise)
    assert outcomes(replace(data, snn=replace(data.snn, noise=refused)))[control.name] == "not run"


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({}, "pass"),
        ({"psnr_db": 39.9}, "fail"),
        ({"psnr_db": 20.0, "spike_precision": 1.0}, "pass"),
        ({"psnr_db": 200.0, "spike_precision": 0.999}, "fail"),
        ({"psnr_db": None, "labels_right": 0}, "fail"),
        ({"psnr_db": None, "labels_right": 1}, "pass"),
    ],
)
def test_certificates_are_held_against_the_truth(changes: dict[str, object], outcome: str) -> None:
    data = make_report()
    snn = rescored(data.snn, "ratio", verdict="exact", **changes)
    assert outcomes(replace(data, snn=snn))["Certificates against the truth, SNN"] == outcome
    wrong = false_certificates(snn.scores)
    assert {row.score.attack for row in wrong} == ({"ratio"} if outcome == "fail" else set())


def test_verdicts_over_rounds_are_shares_of_all_updates_by_their_best_verdict() -> None:
    data = make_report()
    snn = rescored(data.snn, "ratio", verdict="failed", psnr_db=None)
    snn = rescored(rescored(snn, "dlg", verdict="partial", psnr_db=10.0), "cosine", verdict="failed", psnr_db=None)
    audits = sorted({row.round for row in snn.scores if row.kind == "audit"})
    points = round_verdicts(snn)
    assert [point.round for point in points] == audits
    assert {point.shares for point in points} == {(0.0, 0.0, 1.0)}
    assert {point.frames for point in points} == {None}
    one = next(row for row in snn.scores if row.kind == "audit" and row.score.attack == "ratio")
    best = replace(one, score=replace(one.score, verdict="exact", psnr_db=180.0, frames_exact=1.0))
    points = round_verdicts(replace(snn, scores=(*(row for row in snn.scores if row is not one), best)))
    first = next(point for point in points if point.round == one.round)
    assert first.shares == (1 / first.updates, 1 / first.updates, 1.0)
    assert first.frames == 1 / first.updates
    assert [p.frames for p in points if p.round != one.round] == [0.0] * (len(points) - 1)
    assert verdict_chart([snn]) is not None
    assert verdict_chart([replace(snn, scores=tuple(r for r in snn.scores if r.round == audits[0]))]) is None


def test_spikes_found_are_told_even_where_the_image_stays_blurred() -> None:
    data = make_report()
    figures = {"psnr_db": 27.0, "frames_exact": 1.0, "rate_bound_db": 27.2}
    snn = data.snn
    for attack in ("idlg", "ratio", "dlg", "cosine"):
        snn = rescored(snn, attack, psnr_db=12.0)
    spiking = told(replace(data, snn=rescored(snn, "ratio", **figures)))
    updates = len({row.update for row in data.snn.scores if row.kind == "audit"})
    assert f"bit for bit in {updates} of {updates} of them ({percent(1.0)} of all true frames)" in spiking
    assert "give no more than 27.2 dB" in spiking
    assert "bit for bit" not in told(replace(data, snn=snn))
