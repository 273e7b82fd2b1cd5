"""Error feedback loses nothing: a crash before or after any write, refusals, audits; only a new task begins anew."""

from __future__ import annotations

import os
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from contract.codecs import decode_tensors
from contract.messages import Ack, Update, unpack
from contract.models.emissions import Emitted
from contract.models.layout import initial_parameters
from contract.pipeline import RETURNED
from contract.task import RoundPlan
from edge_client import events
from edge_client.account import Account
from edge_client.device import Device
from edge_client.energy import PhaseMeter
from edge_client.engine import StepResult
from edge_client.models import Models
from edge_client.objects import Workshop
from edge_client.spool import Spool
from edge_client.training import Shard
from hardware.energy_model import EnergyModel
from hardware.meter import open_meter
from server.admission import CODES
from tests.unit.edge_client_world import HASH, INFO, NODE, RUN, TASK, Silence, settings

SIGN = RoundPlan(algorithm="fedsgd", codec="sign", batch_size=1)
TOPK = RoundPlan(algorithm="fedsgd", codec="topk", share=0.05, batch_size=1, compression="zlib")
AUDIT = RoundPlan(kind="audit", algorithm="fedsgd", codec="sign", batch_size=1)
SHAPES = {name: value.shape for name, value in initial_parameters(TASK, INFO.shape, INFO.classes).items()}
SHARD = Shard(x=np.ones((3, *INFO.shape), dtype=np.float32), y=np.arange(3), classes=INFO.classes)
STORY = (
    (SIGN, "admitted", ""),
    (TOPK, "refused", "closed: round 2 is closed"),
    (AUDIT, "admitted", ""),
    (SIGN, "admitted", ""),
    (TOPK, "refused", "second: one is there"),
    (SIGN, "admitted", ""),
)


class Crash(BaseException):
    """The machine stops here."""


class Writes:
    """Counts renames and deletions of files, and stops before or after one of them."""

    def __init__(self, at: int, *, after: bool) -> None:
        self.left, self.after = at, after

    def around(self, real):
        def call(path: Path, *args, **kwargs):
            self.left -= 1
            if self.left == 0 and not self.after:
                raise Crash
            done = real(path, *args, **kwargs)
            if self.left == 0:
                raise Crash
            return done

        return call


class Life:
    """One device over its crashes: what it meant to say (`true`), and what of it was stored to be sent (`said`)."""

    name = "noise"

    def __init__(self, tmp_path: Path) -> None:
        self.settings = settings(tmp_path)
        self.true: dict[str, dict] = {}
        self.said: dict[str, dict] = {}
        self.refused: set[str] = set()
        self.stored: set[int] = set()
        self.rng = np.random.default_rng(5)
        self.uid = ""
        self.silence = Silence()
        self.epoch = 0
        self.born()

    def born(self) -> None:
        if self.epoch:
            self.spool.close()
        self.epoch += 1
        self.spool = Spool(self.settings.directory, RUN, NODE)
        phases = PhaseMeter((open_meter("none"),), lambda: 0.0)
        self.device = Device(
            self.settings,
            self.spool,
            mock.Mock(frame_bytes=4096),
            prepare=mock.Mock(),
            account=Account(phases, lambda: 0.0),
            model=EnergyModel.load("horowitz-45nm"),
            clock=lambda: 0.0,
            new_uid=self.new_uid,
            secret=9,
        )
        self.device._workshop = Workshop(node=NODE, secret=9, task=TASK, task_hash=HASH, shard=SHARD, engine=self)

    def new_uid(self, _text: str) -> str:
        self.uid = f"{len(self.true) + 1:032x}"
        return self.uid

    def emitted(self) -> tuple[Emitted, ...]:
        return self.silence.emitted()

    def gradients(self, _params, _frames, labels) -> StepResult:
        self.silence.passed(len(labels))
        found = {name: self.rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
        self.true[self.uid] = found
        return StepResult(gradients=found, loss=1.0)

    def train(self, round_: int, plan: RoundPlan) -> None:
        self.device._train(events.Train(round=round_, attempt=self.epoch, plan=plan, model_version=1))

    def settle(self, uid: str, status: str, reason: str) -> None:
        if status == "refused":
            self.refused.add(uid)
        self.device.handle(events.AckArrived(ack=Ack(uid=uid, status=status, reason=reason)))

    def look(self) -> dict[str, Update]:
        """Updates in the outbox; what they say is noted."""
        found = {}
        for uid in self.spool.outbox:
            item = self.spool.outbox.get(uid)
            if item.kind == "update":
                update, views = unpack(item.blob, Update)
                found[uid] = update
                self.stored.add(update.round)
                if update.plan.feeds_back:
                    self.said[uid] = decode_tensors(update.tensors, views)
        return found

    def imbalance(self) -> float:
        """Largest element of: all that was meant - all that was said - what is still owed."""
        pending, (_, note) = self.look(), self.device._residuals._held()
        owed = self.device._residuals.load(HASH, SIGN) or {name: np.zeros(shape) for name, shape in SHAPES.items()}
        returned = {uid for uid in self.refused if uid not in pending or (note and uid in note.returned)}
        total = {name: -np.asarray(value, dtype=np.float64) for name, value in owed.items()}
        for uid, said in self.said.items():
            for name in total:
                total[name] += self.true[uid][name] - (0.0 if uid in returned else said[name].astype(np.float64))
        return max(float(np.abs(value).max()) for value in total.values())


def tell(life: Life, writes: Writes | None) -> int:
    """The story with one crash; how many crashes there were."""
    crashes, step = 0, 0
    while step < len(STORY):
        plan, status, reason = STORY[step]
        patches = (
            mock.patch.object(Path, "replace", writes.around(Path.replace)),
            mock.patch.object(Path, "unlink", writes.around(Path.unlink)),
        ) if writes else ()  # fmt: skip
        try:
            for patch in patches:
                patch.start()
            mine = [uid for uid, update in life.look().items() if update.round == step + 1]
            if not mine:
                life.train(step + 1, plan)
                mine = [uid for uid, update in life.look().items() if update.round == step + 1]
            life.settle(mine[0], status, reason)
        except Crash:
            crashes += 1
            mock.patch.stopall()
            life.born()
            assert life.imbalance() < 1e-5
            waiting = {update.round for update in life.look().values()}
            step += step + 1 in life.stored - waiting  # acknowledged before the crash
            continue
        finally:
            mock.patch.stopall()
        assert life.imbalance() < 1e-5
        step += 1
    return crashes


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)
    monkeypatch.setattr(Models, "parameters", lambda _self, _version: {})


@pytest.mark.parametrize("after", [False, True])
def test_the_sum_holds_after_a_crash_at_any_write(tmp_path, after):
    crashes, at = 1, 0
    while crashes:
        at += 1
        life = Life(tmp_path / str(at))
        crashes = tell(life, Writes(at, after=after))
        assert len([uid for uid in life.said if uid not in life.refused]) == 3
        assert len(life.refused) == 2
        assert life.device._residuals.load(HASH, SIGN) is not None
        assert len(life.spool.residuals) == 1
        life.spool.close()
    assert at > 30


def test_a_refusal_heard_twice_counts_once_and_a_bad_update_is_not_returned(tmp_path):
    life = Life(tmp_path)
    life.train(1, SIGN)
    (uid,) = life.look()
    before = life.device._residuals.load(HASH, SIGN)
    life.device._residuals.give_back(uid)
    once = life.device._residuals.load(HASH, SIGN)
    life.settle(uid, "refused", "closed: late")
    assert all((life.device._residuals.load(HASH, SIGN)[name] == once[name]).all() for name in SHAPES)
    assert any((once[name] != before[name]).any() for name in SHAPES)
    life.train(2, SIGN)
    (uid,) = life.look()
    before = life.device._residuals.load(HASH, SIGN)
    life.device.handle(events.AckArrived(ack=Ack(uid=uid, status="refused", reason="norm: norm 1e9")))
    assert all((life.device._residuals.load(HASH, SIGN)[name] == before[name]).all() for name in SHAPES)
    life.spool.close()


def test_another_task_or_algorithm_begins_with_nothing_and_audits_leave_it_alone(tmp_path):
    life = Life(tmp_path)
    life.train(1, SIGN)
    residuals = life.device._residuals
    held = residuals.load(HASH, SIGN)
    assert held is not None
    assert residuals.load("0" * 64, SIGN) is None
    assert residuals.load(HASH, RoundPlan(codec="sign")) is None
    life.train(2, AUDIT)
    assert all((residuals.load(HASH, SIGN)[name] == held[name]).all() for name in SHAPES)
    assert len(life.spool.residuals) == 1
    life.spool.close()


def test_a_damaged_residual_is_set_aside_and_training_goes_on(tmp_path, caplog):
    life = Life(tmp_path)
    life.train(1, SIGN)
    (path,) = (life.settings.directory / "residuals").iterdir()
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    life.born()
    assert "damaged" in caplog.text
    assert life.device._residuals.load(HASH, SIGN) is None
    life.train(2, SIGN)
    assert life.device._residuals.load(HASH, SIGN) is not None
    life.spool.close()


def test_an_update_of_a_former_life_is_forgotten_durably_and_goes_into_the_next(tmp_path):
    life = Life(tmp_path)
    life.train(1, SIGN)
    assert life.spool.journal.made == (HASH, 1, 1)
    life.born()
    life.settle(life.uid, "refused", "epoch: epoch 1, the device was born again with 2")
    life.born()
    assert life.spool.journal.made is None
    assert life.device.state.made is None
    assert life.uid not in life.spool.outbox


def test_codes_that_return_an_update_are_the_servers():
    assert set(CODES) >= RETURNED


def test_under_noise_the_loss_stays_at_home(tmp_path):
    life = Life(tmp_path)
    life.train(1, RoundPlan(algorithm="fedsgd", batch_size=1, clip_norm=1.0, noise_multiplier=1.0))
    life.train(2, SIGN)
    assert [update.loss for update in life.look().values()] == [None, 1.0]
    life.spool.close()
