"""The mean that secure aggregation opens, attacked as one update of all devices' samples."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import torch

from attack.aggregate import as_update
from attack.desk import Desk
from attack.methods import METHODS
from attack.threat import ThreatModel
from attack.worker import Job, UpdateQueue
from contract import topics
from contract.codecs import encode_tensors
from contract.datasets import load
from contract.errors import WireError
from contract.frames import split
from contract.masking import quantised, signed
from contract.messages import Aggregate, AggregatePart, Reconstruction, pack, unpack
from contract.metrics import psnr
from contract.secure import SecureAggregation
from contract.task import task_hash
from tests.attack_updates import (
    audit_plan,
    frames_of,
    local_update,
    manifest,
    model_blob,
    parameters_of,
    state,
    task_of,
    worker,
)

TASK = task_of(hidden=(32,), steps=4)
SECURE = SecureAggregation(clip=8.0, bits=20)
"""Gradients of the readout reach 2: at the default clip of 1 devices would cut them off."""
DEVICES = 4
PLAN = msgspec.structs.replace(audit_plan(), secure=SECURE)
PARTS = tuple(AggregatePart(f"device-{i}", f"{i:032x}", 1) for i in range(DEVICES))
CHEAP = {name: METHODS[name] for name in ("ratio", "image_lp")}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def samples(seed: int):
    data = load("digits")
    chosen = np.random.default_rng(seed).choice(len(data.x), DEVICES, replace=False)
    return np.array(data.x[chosen]), np.array(data.y[chosen])


def opened(x, y, seed: int, *, plan=PLAN) -> tuple[Aggregate, bytes]:
    """The mean of four devices' gradients of one sample each, as the server opens and mirrors it."""
    rng = np.random.default_rng(seed)
    sent = [quantised(local_update(TASK, x[[i]], y[[i]], audit_plan(), rng), SECURE, rng) for i in range(DEVICES)]
    mean = {
        name: (np.sum([signed(s[name]) for s in sent], axis=0) * (SECURE.step / DEVICES)).astype(np.float32)
        for name in sent[0]
    }
    records, buffers = encode_tensors("fp32", mean, rng)
    head = Aggregate(
        uid=f"{seed + 100:032x}",
        seen="aggregate",
        round=3,
        model_version=1,
        task_hash=task_hash(TASK),
        plan=plan,
        parts=PARTS,
        errors=(SECURE.step,) * len(records),
        tensors=records,
    )
    return head, pack(head, buffers)


def job_of(blob: bytes) -> Job:
    head, views = unpack(blob, Aggregate)
    return Job(update=as_update(head), views=views, aggregate=head)


def test_the_mean_gives_away_samples_of_each_device_within_the_error_that_is_stated():
    found, off = [], []
    for seed in range(3):
        x, y = samples(seed)
        job = job_of(opened(x, y, seed)[1])
        observation = worker(CHEAP).observe(job, TASK, parameters_of(TASK))
        assert (observation.samples, observation.single, observation.masked) == (DEVICES, False, False)
        truth = local_update(TASK, x, y, audit_plan(DEVICES), np.random.default_rng(0))
        for name, value in observation.update.items():
            off.append(np.abs(value - truth[name]).max() / observation.error_bound(name))
        answer = worker(CHEAP).attack(job, TASK, parameters_of(TASK))
        for index, one in enumerate((answer, *answer.copies)):
            message, views = unpack(one.blob, Reconstruction)
            result = next(result for result in message.results if result.attack == "image_lp")
            shape = message.tensors[result.images].shape
            images = np.frombuffer(views[result.images], dtype="<f4").reshape(shape)
            found.append(max(psnr(image, x[index]) for image in images))
    assert 0.05 < max(off) <= 1.01, "the stated error holds, and is no wild guess"
    assert np.median(found) > 40
    assert sum(db > 40 for db in found) >= 3 * DEVICES - 2


def test_every_device_gets_the_answer_under_its_own_uid_and_the_control_is_told_once():
    x, y = samples(1)
    job = job_of(opened(x, y, 1)[1])
    made = worker({"ratio": METHODS["ratio"]}, noise_controls=1)
    answers = [made.attack(job, TASK, parameters_of(TASK))]
    answers += [made.attack(job, TASK, None), worker(CHEAP, threat=ThreatModel(vantage="client")).attack(job, TASK, {})]
    for answer, verdict in zip(answers, ("partial", "failed", "refused"), strict=True):
        messages = [one.message for one in (answer, *answer.copies)]
        assert [(m.node, m.update_uid) for m in messages] == [(part.node, part.uid) for part in PARTS]
        assert len({m.uid for m in messages}) == DEVICES
        assert {m.seen for m in messages} == {"aggregate"}
        assert {m.results[0].verdict for m in messages} == {verdict}
        assert unpack(answer.copies[0].blob, Reconstruction)[0] == answer.copies[0].message
    assert [bool(one.message.noise) for one in (answers[0], *answers[0].copies)] == [True, False, False, False]
    names = [[record.name for record in one.message.tensors] for one in (answers[0], *answers[0].copies)]
    assert names == [["ratio", "noise.ratio"], ["ratio"], ["ratio"], ["ratio"]]


def test_the_desk_takes_it_from_the_mirror_and_answers_again_when_asked_again():
    x, y = samples(2)
    head, blob = opened(x, y, 2)
    desk = Desk(worker({"ratio": METHODS["ratio"]}), UpdateQueue(4))
    desk.take(topics.server_state("test"), state("open"))
    desk.take(topics.task_manifest("test"), manifest(TASK))
    for index, frame in enumerate(frames_of(model_blob(TASK))):
        desk.take(topics.model_chunk("test", 1, index), frame)
    for _ in range(2):
        for index, frame in enumerate(split(blob, head.uid)):
            desk.take(topics.mirror_chunk("test", 3, "aggregate", head.uid, index), frame)
        found = desk.next_answer(0.0)
        assert (found.job, len(found.copies)) == (head.uid, DEVICES - 1)
    assert desk.idle


def test_its_plan_is_one_devices_that_would_look_the_same():
    noisy = msgspec.structs.replace(PLAN, clip_norm=1.0, noise_multiplier=0.02)
    head, _ = opened(*samples(3), 3, plan=noisy)
    update = as_update(head)
    assert (update.samples, update.plan.batch_size) == (DEVICES, DEVICES)
    assert update.plan.noise_multiplier == pytest.approx(0.01)  # of the mean of four
    with pytest.raises(WireError, match="1 errors of 4 tensors"):
        as_update(msgspec.structs.replace(head, errors=(0.1,)))
