"""Attackers elsewhere as their run sees them: asked for, lost, asked for again; and what they are sent."""

from __future__ import annotations

import stat

import msgspec
import pytest

from attack.settings import AttackSettings
from attack.threat import ThreatModel
from contract.configuration import decode_toml
from contract.errors import ConfigurationError, EnvironmentFaultError
from deploy import posted
from deploy.door import make
from deploy.posted import Asked, Ended, Post, PostedAttacker, controlled, controls_made
from deploy.study import AttackSection, Study
from deploy.sweep.attack_task import packed, unpacked
from server.ledger import FILE_NAME, Ledger
from server.settings import ScheduleEntry

HOST = "127.0.0.1"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run's attacker that has been asked for, and the post."""
    monkeypatch.setattr(posted, "_RESTART_DELAY_S", 1e-9)
    post = Post(tmp_path / "post", HOST)
    settings = AttackSettings(run="r", directory=tmp_path / "run" / "attack", noise_controls=2)
    party = PostedAttacker("snn-attack", settings, post, controlled=("update",), max_restarts=1)
    party.start()
    return post, party


def answered(post: Post, party: PostedAttacker, **ended: object) -> None:
    """Answers what is asked for, and lets the run look twice: it hears of the end, then asks again."""
    (asked,) = post.asked()
    post.answer(asked, Ended(**ended))
    party.watch()
    party.watch()


def lives(post: Post) -> list[int]:
    return [asked.life for asked in post.asked()]


def test_it_is_asked_for_once_and_finished_when_it_ended_well(run):
    post, party = run
    party.watch()
    assert lives(post) == [0]
    answered(post, party, status=0)
    assert party.finished
    assert lives(post) == []


def test_one_that_was_lost_is_asked_for_again_without_the_controls_that_it_made(run, tmp_path):
    post, party = run
    with Ledger(tmp_path / "run" / FILE_NAME) as ledger:
        for attack in ("label", "ratio"):
            place = {"update_uid": "a" * 32, "node": "n", "round": 1, "seen": "update"}
            ledger.insert("noise_controls", {**place, "attack": attack, "verdict": "x", "reason": "", "seconds": 0})
        ledger.connection.commit()
    answered(post, party, status=None, fault="its node")
    (again,) = post.asked()
    assert (again.life, again.settings.noise_controls) == (1, 1)
    assert controls_made(tmp_path / "run" / FILE_NAME, ("update", "aggregate")) == 0
    assert controls_made(tmp_path / "no-run" / FILE_NAME, ("update",)) == 0


def test_losses_are_forgiven_more_often_than_crashes(run):
    post, party = run
    for _ in range(posted.MOST_LOSSES):
        answered(post, party, status=None)
    answered(post, party, status=1, fault="crash")
    with pytest.raises(EnvironmentFaultError, match="crash again"):
        answered(post, party, status=1, fault="crash again")


def test_one_that_refuses_its_settings_ends_the_run(run):
    post, party = run
    with pytest.raises(ConfigurationError, match="snn-attack: no such attack"):
        answered(post, party, status=2, fault="no such attack")


def test_only_what_audits_show_is_controlled():
    audit = ScheduleEntry(kind="audit")
    assert controlled(Study(name="s", schedule=(audit,))) == ("update",)
    fellow = AttackSection(vantages=("server", "fellow"))
    assert controlled(Study(name="s", schedule=(audit,), attack=fellow)) == ("update", "models")


def test_an_attacker_is_sent_its_own_credentials_and_suspicions_and_nothing_else(tmp_path):
    door = make(HOST, tmp_path / "door")
    (tmp_path / "candidates.npz").write_bytes(b"suspected")
    settings = AttackSettings(
        run="r",
        link=door.link,
        directory=tmp_path / "attack",
        candidates=tmp_path / "candidates.npz",
        threat=ThreatModel(candidates=True),
    )
    parcel = packed(settings)
    theirs = {"ca": "ca.pem", "certificate": "attacker.pem", "key": "attacker.key"}
    assert parcel.files == {
        "candidates": b"suspected",
        **{key: (tmp_path / "door" / name).read_bytes() for key, name in theirs.items()},
    }
    (tmp_path / "there").mkdir()
    got = decode_toml(unpacked(parcel, tmp_path / "there"), AttackSettings)
    assert got.candidates.read_bytes() == b"suspected"
    assert got.directory == tmp_path / "there" / "attack"
    assert stat.S_IMODE(got.link.tls.key.stat().st_mode) == 0o600
    got.link.tls.context()
    here = {"link": settings.link, "directory": settings.directory, "candidates": settings.candidates}
    assert msgspec.structs.replace(got, **here) == settings


def test_what_is_asked_for_is_read_as_it_was_written(tmp_path):
    post = Post(tmp_path, HOST)
    settings = AttackSettings(run="r", directory=tmp_path / "attack", attacks=("ratio",))
    post.ask("own.name-attack-1", 3, settings)
    assert post.asked() == [Asked(name="own.name-attack-1", life=3, settings=settings)]
