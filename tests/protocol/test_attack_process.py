"""The attack process on a real broker: mirror in, reconstruction out, and it ends by itself."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections import deque
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from attack.app import _Process, run_attack
from attack.settings import AttackSettings
from attack.worker import Answer
from contract import topics
from contract.codecs import decode_tensors
from contract.datasets import load
from contract.errors import EnvironmentFaultError
from contract.frames import Assembler
from contract.link import Link, LinkSettings
from contract.messages import Reconstruction, unpack
from contract.metrics import psnr
from tests.attack_updates import audit_plan, frames_of, manifest, model_blob, state, task_of, update_blob

TASK = task_of(hidden=(16,), steps=4)


def settings_of(link, directory) -> AttackSettings:
    return AttackSettings(run="test", link=link, directory=directory, attacks=("label", "ratio"), budget_s=2.0)


def test_process_answers_a_mirrored_update_and_ends(running_broker, tmp_path):
    data = load("digits")
    x, y = np.array(data.x[:1]), np.array(data.y[:1])
    heard: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    address = running_broker.link
    server = Link(address, "server", on_message=lambda _topic, payload: heard.put(payload))
    server.subscribe("spikeleak/v1/test/recon/+/+/+")
    server.start(timeout_s=10.0)
    server.publish(topics.server_state("test"), state("open"), retain=True)
    server.publish(topics.task_manifest("test"), manifest(TASK), retain=True)
    for index, frame in enumerate(frames_of(model_blob(TASK))):
        server.publish(topics.model_chunk("test", 1, index), frame, retain=True)
    codes: list[int] = []
    process = threading.Thread(target=lambda: codes.append(run_attack(settings_of(address, tmp_path / "attack"))))
    process.start()
    update = frames_of(update_blob(TASK, x, y, audit_plan()))
    assembler, whole = Assembler(), None
    deadline = time.monotonic() + 20.0
    while whole is None and time.monotonic() < deadline:
        for index, frame in enumerate(update):  # again until it listens, as a server does without a score
            server.publish(topics.mirror_chunk("test", 3, "device-1", "0" * 32, index), frame)
        try:
            whole = assembler.add(heard.get(timeout=0.5))
        except queue.Empty:
            continue
    server.publish(topics.server_state("test"), state("finished"), retain=True)
    process.join(20.0)
    server.stop()
    assert codes == [0]
    message, views = unpack(bytes(whole.blob), Reconstruction)
    assert psnr(decode_tensors(message.tensors, views)["ratio"][0], x[0]) > 100
    journal = (tmp_path / "attack" / "attack.jsonl").read_text().splitlines()
    assert json.loads(journal[0])["update_uid"] == message.update_uid


def test_folder_that_cannot_be_written_is_the_machines_fault(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentFaultError, match="cannot be written"):
        run_attack(settings_of(LinkSettings(port=1), tmp_path / "file" / "attack"))


def test_journal_on_a_full_disk_is_the_machines_fault(tmp_path):
    message = Reconstruction(uid="0" * 32, update_uid="1" * 32, node="pi", round=1, results=(), tensors=())
    with Path("/dev/full").open("ab", buffering=0) as journal:
        process = SimpleNamespace(
            outbox=deque(),
            answered=0,
            journal=journal,
            settings=SimpleNamespace(directory=tmp_path),
            _send=lambda: None,
        )
        with pytest.raises(EnvironmentFaultError, match=r"No space left.*make room there"):
            _Process._answer(process, Answer(message=message, blob=b"", job="1" * 32))


def test_broker_that_is_not_there_is_the_machines_fault(tmp_path, monkeypatch):
    monkeypatch.setattr("attack.app._CONNECT_S", 0.5)
    with pytest.raises(EnvironmentFaultError, match="not reached"):
        run_attack(settings_of(LinkSettings(port=1), tmp_path))


def test_stopped_from_outside_it_ends(running_broker, tmp_path):
    stop = threading.Event()
    stop.set()
    assert run_attack(settings_of(running_broker.link, tmp_path), stop) == 0
