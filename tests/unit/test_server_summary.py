from __future__ import annotations

import json

import pytest

from contract import messages
from contract.errors import ConfigurationError
from contract.messages import AttackResult, AttackScore, Reconstruction
from hardware.energy import EnergyReading
from server.mirror import GIVEN_UP
from server.report import write_report
from server.settings import ScheduleEntry
from server.summary import summarise
from tests.attack_updates import audit_plan, update_blob
from tests.unit.server_world import MODELLED, NO_METER, World, energy_report, name_of, score, settings
from tests.unit.test_attack_worker import TASK as ATTACKED_TASK
from tests.unit.test_attack_worker import mirror, ready_desk, samples

TRAIN = ScheduleEntry(batch_size=4)
AUDIT = ScheduleEntry(kind="audit", algorithm="fedsgd", batch_size=1, rounds=2)
MEASURED = EnergyReading(energy_j=2.0, duration_s=1, source="rapl:0", scope="package", provenance="measured", samples=3)
RADIO = EnergyReading(energy_j=0.5, duration_s=1, source="model:wifi", scope="radio", provenance="modelled")

DESIGNED = {
    "rounds": None,
    "clients": None,
    "accuracy": None,
    "updates": ("published", "admitted", "refused", "lost", "duplicated"),
    "bytes_up": None,
    "energy_j": ("value", "provenance"),
    "leakage": ("worst_psnr_db", "worst_attack", "by_attack", "by_schedule"),
    "wall_s": None,
}


def hit(attack: str, psnr_db: float | None, **changes) -> AttackScore:
    verdict = "failed" if psnr_db is None else "recovered"
    return AttackScore(**{"attack": attack, "verdict": verdict, "psnr_db": psnr_db, "seconds": 1.0, **changes})


def finished_run(tmp_path, readings=(NO_METER, MODELLED), scores=None, **counters) -> World:
    """Two devices, one training and two audit rounds, all admitted and all accounted for."""
    world = World(settings(tmp_path, TRAIN, AUDIT, clients=2))
    world.node("a")
    world.node("b")
    for round_ in (1, 2, 3):
        for node in ("a", "b"):
            uid = world.update(node)
            blob, report = energy_report(node, round_, uid, *readings)
            world.send("score", node, round_, report, blob)
            if scores is not None:
                blob, scored = score(node, round_, uid, *scores(node, round_))
                world.send("score", node, round_, scored, blob)
    for node in ("a", "b"):
        world.node(node, **{"published": 3, "acknowledged": 3, **counters})
    world.ledger.close()
    return world


def test_it_has_the_designed_keys_and_is_json(tmp_path):
    finished_run(tmp_path / "snn")
    finished_run(tmp_path / "ann")
    found = summarise(tmp_path / "snn", tmp_path / "ann")
    for part in (found, found["twin"]):
        for key, inner in DESIGNED.items():
            assert key in part
            assert all(name in part[key] for name in inner or ())
        assert set(part["leakage"]["by_schedule"]) == {"train", "audit"}
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert "twin" not in summarise(tmp_path / "snn")


def test_counts_of_a_clean_run(tmp_path):
    finished_run(tmp_path)
    found = summarise(tmp_path)
    assert (found["rounds"], found["rounds_planned"], found["clients"]) == (3, 3, 2)
    assert found["rounds_by_kind"] == {"train": 1, "audit": 2}
    updates = found["updates"]
    assert {name: updates[name] for name in DESIGNED["updates"]} == {
        "published": 6, "admitted": 6, "refused": 0, "lost": 0, "duplicated": 0,
    }  # fmt: skip
    assert (updates["unscored"], updates["without_energy"]) == (6, 0)
    assert found["bytes_up"] > 6 * 32
    assert found["accuracy"] is None, "nobody evaluated: that is not 0 %"
    assert found["leakage"]["worst_psnr_db"] is None
    assert found["leakage"]["by_attack"] == {}


def test_what_a_device_published_and_the_ledger_lacks_is_lost_unless_it_is_pending(tmp_path):
    finished_run(tmp_path / "1", published=5, acknowledged=4, pending=1)
    updates = summarise(tmp_path / "1")["updates"]
    assert (updates["published"], updates["pending"], updates["lost"]) == (10, 2, 2)
    world = World(settings(tmp_path / "2", TRAIN, clients=1))
    world.node("a")
    blob, uid = energy_report("a", 1, name_of("never arrived"))
    world.send("score", "a", 1, uid, blob)
    world.ledger.close()
    updates = summarise(tmp_path / "2")["updates"]
    assert (updates["published"], updates["admitted"], updates["lost"]) == (1, 0, 1), "its energy report names it"


def test_an_update_that_entered_two_aggregates_is_seen(tmp_path):
    world = finished_run(tmp_path)
    world = World(world.settings)
    world.ledger.execute(
        "INSERT INTO aggregated SELECT version + 1, round + 1, uid, weight, 0, 1 FROM aggregated LIMIT 1"
    )
    world.ledger.close()
    assert summarise(tmp_path)["updates"]["duplicated"] == 1


def test_refusals_by_code(tmp_path):
    world = World(settings(tmp_path, TRAIN, clients=1))
    world.node("a")
    world.update("a", uid="1" * 32, task_hash="0" * 64)
    world.update("a", uid="2" * 32, samples=5)
    world.update("a")
    world.ledger.close()
    updates = summarise(tmp_path)["updates"]
    assert (updates["refused"], updates["refused_by_code"]) == (2, {"samples": 1, "task": 1})
    assert (updates["published"], updates["lost"]) == (3, 0)


# --- energy -----------------------------------------------------------------------------------------------------


def test_modelled_energy_is_one_sum_over_its_disjoint_scopes(tmp_path):
    finished_run(tmp_path, readings=(NO_METER, MODELLED, RADIO))
    found = summarise(tmp_path)["energy_j"]
    assert (found["value"], found["provenance"]) == (pytest.approx(6 * 0.75), "modelled")
    assert (found["updates_covered"], found["updates_admitted"]) == (6, 6)
    assert [(row["reason"], row["readings"]) for row in found["unavailable"]] == [("no meter was asked for", 6)]


def test_measured_energy_stands_for_the_run_only_when_every_update_has_it(tmp_path):
    finished_run(tmp_path / "all", readings=(MEASURED, MODELLED))
    found = summarise(tmp_path / "all")["energy_j"]
    assert (found["value"], found["provenance"]) == (12.0, "measured")
    assert found["by_provenance"] == {"measured": 12.0, "modelled": 1.5}

    world = World(settings(tmp_path / "some", TRAIN, clients=2))
    for node in ("a", "b"):
        world.node(node)
    for node, readings in (("a", (MEASURED, MODELLED)), ("b", (NO_METER, MODELLED))):
        blob, uid = energy_report(node, 1, world.update(node), *readings)
        world.send("score", node, 1, uid, blob)
    world.ledger.close()
    found = summarise(tmp_path / "some")["energy_j"]
    assert (found["value"], found["provenance"]) == (0.5, "modelled"), "measured and modelled are never added up"


def test_two_meters_on_one_board_are_not_added_up(tmp_path):
    board = EnergyReading(energy_j=3.0, duration_s=1, source="ina", scope="board", provenance="measured")
    finished_run(tmp_path, readings=(MEASURED, board, MODELLED))
    assert summarise(tmp_path)["energy_j"]["provenance"] == "modelled"


def test_no_figure_is_null_and_not_zero(tmp_path):
    finished_run(tmp_path, readings=(NO_METER,))
    found = summarise(tmp_path)["energy_j"]
    assert (found["value"], found["provenance"], found["by_provenance"]) == (None, "unavailable", {})


# --- leakage ----------------------------------------------------------------------------------------------------


def test_leakage_is_the_worst_case_and_failures_count(tmp_path):
    def scores(node: str, round_: int) -> list[AttackScore]:
        if round_ == 1:
            return [hit("ratio", 12.0, wrong_sample_db=9.0, mean_image_db=11.0), hit("dlg", None)]
        ratio = hit("ratio", 80.0 if node == "a" else None, verdict="exact" if node == "a" else "failed")
        refused = hit("labels", None, verdict="refused")
        return [ratio, hit("dlg", 10.0 + round_), refused]

    finished_run(tmp_path, scores=scores)
    found = summarise(tmp_path)["leakage"]
    assert (found["worst_psnr_db"], found["worst_attack"]) == (80.0, "ratio")
    train, audit = found["by_schedule"]["train"], found["by_schedule"]["audit"]
    assert (train["worst_psnr_db"], train["worst_attack"]) == (12.0, "ratio")
    assert train["controls"] == {"wrong_sample_max_db": 9.0, "mean_image_max_db": 11.0, "n": 2}
    dlg = train["by_attack"]["dlg"]
    assert (dlg["n"], dlg["failed"], dlg["median_psnr_db"], dlg["max_psnr_db"]) == (2, 2, None, None)
    ratio = audit["by_attack"]["ratio"]
    assert (ratio["n"], ratio["failed"], ratio["exact"], ratio["max_psnr_db"]) == (4, 2, 2, 80.0)
    assert ratio["median_psnr_db"] is None, "half of the trials gave nothing: no mean over the survivors"
    assert ratio["ci95"][0] is None
    assert audit["by_attack"]["dlg"]["median_psnr_db"] == pytest.approx(12.5)
    labels = audit["by_attack"]["labels"]
    assert (labels["n"], labels["refused"]) == (0, 4), "a refusal by the threat model is no trial"
    assert (found["updates_scored"], found["unscored"]) == (6, 0)


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(ConfigurationError, match="no such ledger"):
        summarise(tmp_path)


def test_what_no_attack_was_tried_on_is_counted_as_never_attacked_and_as_no_trial(tmp_path):
    world = World(settings(tmp_path, ScheduleEntry(rounds=2, batch_size=4), clients=2))
    world.node("a")
    world.node("b")
    world.wire.online = False  # admitted, and the mirror cannot hand it on
    cut = world.update("a")
    world.wire.online = True
    seen, given_up = world.update("b"), world.update("a")
    reason = queue_overflow()
    for node, round_, uid, said in (
        ("b", 1, seen, hit("ratio", 30.0)),
        ("a", 2, given_up, hit("ratio", None, reason=reason)),
    ):
        blob, scored = score(node, round_, uid, said)
        world.send("score", node, round_, scored, blob)
    assert world.server.intake.mirror.dropped == 1
    world.ledger.execute("UPDATE sessions SET mirror_dropped = ?", world.server.intake.mirror.dropped)
    world.ledger.close()
    leaked = summarise(tmp_path)["leakage"]
    assert (leaked["never_attacked"], leaked["mirror_dropped"]) == (2, 1), cut
    assert (leaked["by_attack"]["ratio"]["n"], leaked["by_attack"]["ratio"]["failed"]) == (1, 0)
    write_report(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "2 of 3 admitted updates were never attacked" in page
    assert "the mirror could not hand on an update 1 times" in page


@pytest.mark.parametrize("order", ["recon first", "score first"])
def test_what_the_attacks_reach_on_noise_stands_beside_what_they_reach(tmp_path, order):
    world = World(settings(tmp_path, AUDIT, clients=2))
    world.node("a")
    world.node("b")
    for node, figures in (("a", (9.0, None)), ("b", ())):
        uid = world.update(node)
        told = [AttackResult(attack=name, verdict="partial") for name in ("ratio", "dlg")]
        held = tuple(
            AttackScore(attack=name, verdict="partial", psnr_db=figure)
            for name, figure in zip(("ratio", "dlg"), figures, strict=False)
        )
        place = {"update_uid": uid, "node": node, "round": 1}
        recon = Reconstruction(uid=name_of("recon", uid), **place, results=tuple(told), noise=tuple(told))
        blob, scored = score(node, 1, uid, hit("ratio", 144.0), hit("dlg", 5.0), noise=held)
        sent = [("recon", recon.uid, messages.pack(recon)), ("score", scored, blob)]
        for kind, name, content in sent if order == "recon first" else sent[::-1]:
            world.send(kind, node, 1, name, content)
    world.ledger.close()
    found = summarise(tmp_path)["leakage"]["noise"]
    assert (found["updates"], found["attacks"], found["scored"]) == (2, 4, 1), "of b no score of the noise came"
    assert (found["median_psnr_db"], found["max_psnr_db"], found["beside_median_psnr_db"]) == (9.0, 9.0, 144.0)
    write_report(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "median 9.0 dB, largest 9.0, over n = 1 noise update; on the same updates as they were sent 144.0 dB" in page


def queue_overflow() -> str:
    """What the attacker says of an update that it gave up, in its own words."""
    books = ready_desk(limit=1)
    for seed in (0, 1):
        mirror(books, update_blob(ATTACKED_TASK, *samples(), audit_plan(), seed=seed))
    result = books.next_answer(0.0).message.results[0]
    assert result.reason.startswith(GIVEN_UP)
    return result.reason
