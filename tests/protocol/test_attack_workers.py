"""Three attack workers on one mirror: shared out by mosquitto (MQTT 5), or by themselves where the broker cannot."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
import pytest

from attack.app import run_attack
from attack.settings import AttackSettings
from contract import topics
from contract.datasets import load
from contract.errors import WireError
from contract.frames import Assembler
from contract.link import Link, LinkSettings
from contract.messages import Reconstruction, Update, unpack
from server.ledger import Ledger
from server.mirror import Mirror
from tests.attack_updates import audit_plan, frames_of, manifest, model_blob, state, task_of, update_blob
from tests.conftest import spikeleak

TASK = task_of(hidden=(16,), steps=4)
WORKERS = 3
FRAME_BYTES = 2048


class Server:
    """The server's side of the mirror: first chunks, claims, answers; on the product's own `Mirror`."""

    def __init__(self, link: LinkSettings) -> None:
        self.link = Link(link, "server", on_message=self._heard)
        self.link.subscribe("spikeleak/v1/test/recon/+/+/+", "spikeleak/v1/test/claim/+/+/+")
        self._inbox: queue.SimpleQueue[tuple[str, bytes]] = queue.SimpleQueue()
        self._assembler = Assembler()
        self.mirror = Mirror("test", self.link.publish, first=True)
        self.blobs: dict[str, bytes] = {}
        self.claims: Counter[str] = Counter()
        self.answers: Counter[str] = Counter()

    def _heard(self, topic: str, payload: bytes) -> None:
        self._inbox.put((topic, payload))

    def start(self) -> None:
        self.link.start(timeout_s=10.0)
        self.link.publish(topics.server_state("test"), state("open"), retain=True)
        self.link.publish(topics.task_manifest("test"), manifest(TASK), retain=True)
        for index, frame in enumerate(frames_of(model_blob(TASK))):
            self.link.publish(topics.model_chunk("test", 1, index), frame, retain=True)

    def make(self, count: int) -> None:
        """Admitted updates, of several chunks each."""
        data = load("digits")
        for seed in range(count):
            blob = update_blob(
                TASK, np.array(data.x[seed : seed + 1]), data.y[seed : seed + 1], audit_plan(), seed=seed
            )
            self.blobs[unpack(blob, Update)[0].uid] = blob

    def show(self, *uids: str) -> None:
        for uid in uids or self.blobs:
            self.mirror.send("device-1", 3, uid, self.blobs[uid], FRAME_BYTES)

    def listen(self, until: Callable[[], bool], timeout_s: float) -> bool:
        """Serves claims until a condition holds."""
        deadline = time.monotonic() + timeout_s
        while not until() and time.monotonic() < deadline:
            try:
                topic, payload = self._inbox.get(timeout=0.2)
            except queue.Empty:
                continue
            found = topics.parse(topic)
            if found.kind == "claim":
                self.claims[found.uid] += 1
                self.mirror.rest("device-1", 3, found.uid, self.blobs[found.uid], FRAME_BYTES)
            elif (whole := self._assembler.add(payload)) is not None:
                self.answers[unpack(bytes(whole.blob), Reconstruction)[0].update_uid] += 1
        return until()


class Workers:
    """Attack processes, as threads."""

    def __init__(self, link: LinkSettings, folder: Path) -> None:
        self.folder = folder
        self.stops = [threading.Event() for _ in range(WORKERS)]
        self.threads = []
        for index, stop in enumerate(self.stops):
            settings = AttackSettings(
                run="test",
                link=link,
                directory=folder / str(index),
                attacks=("ratio",),
                noise_controls=0,
                workers=WORKERS,
                worker=index,
            )
            self.threads.append(threading.Thread(target=run_attack, args=(settings, stop)))

    def attacked(self) -> list[list[str]]:
        """Uids that each worker attacked."""
        journals = [self.folder / str(index) / "attack.jsonl" for index in range(WORKERS)]
        return [[json.loads(line)["update_uid"] for line in path.read_text().splitlines()] for path in journals]


@contextmanager
def attacking(server: Server, link: LinkSettings, folder: Path) -> Iterator[Workers]:
    """Three workers that have subscribed; nobody is left afterwards."""
    workers = Workers(link, folder)
    server.start()
    try:
        for thread in workers.threads:
            thread.start()
        time.sleep(2.0)  # until they have subscribed, which nobody can see from outside
        yield workers
        server.link.publish(topics.server_state("test"), state("finished"), retain=True)
        for thread in workers.threads:
            thread.join(20.0)
            assert not thread.is_alive(), "a worker does not end by itself"
    finally:
        for stop in workers.stops:
            stop.set()
        server.link.stop()


def test_each_update_comes_whole_to_one_worker_and_is_attacked_once(running_broker, tmp_path):
    server = Server(running_broker.link)
    server.make(15)
    with attacking(server, running_broker.link, tmp_path / "attack") as workers:
        server.show()
        assert server.listen(lambda: len(server.answers) == 15, 30.0), server.answers
        server.listen(lambda: False, 1.0)  # would a second one come?
    assert set(server.answers.values()) == {1}
    assert sorted(server.claims) == sorted(server.blobs)
    attacked = workers.attacked()
    assert sorted(uid for uids in attacked for uid in uids) == sorted(server.blobs)
    assert all(attacked), f"one had nothing to do: {[len(uids) for uids in attacked]}"
    if running_broker.name.startswith("mosquitto"):
        assert [len(uids) for uids in attacked] == [5, 5, 5], "the broker deals them in turn"
    else:
        assert all(int(uid, 16) % WORKERS == index for index, uids in enumerate(attacked) for uid in uids)


def test_what_a_dead_worker_took_with_it_goes_to_another_when_it_is_mirrored_again(tmp_path):
    from deploy import broker

    with broker.serve(broker.BrokerSection(kind="mosquitto"), tmp_path) as running:
        server = Server(running.link)
        server.make(12)
        with attacking(server, running.link, tmp_path / "attack") as workers:
            workers.stops[1].set()
            workers.threads[1].join(10.0)
            server.show()
            assert server.listen(lambda: len(server.answers) == 12, 30.0), "the broker gives nothing to one that left"
            assert workers.attacked()[1] == []
            lost, server.answers = sorted(server.blobs)[:4], Counter()
            server.show(*lost)  # as the server does without a score
            assert server.listen(lambda: set(server.answers) == set(lost), 30.0)


def test_a_study_with_three_workers(study_file, tmp_path):
    out = tmp_path / "out"
    study = study_file(rounds=1, broker="mosquitto", attack='attacks = ["ratio"]\nworkers = 3')
    done = spikeleak("run", str(study), "--out", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    journals = [out / name / "attack.jsonl" for name in ("attack", "attack-1", "attack-2")]
    attacked = [json.loads(line)["update_uid"] for path in journals for line in path.read_text().splitlines()]
    with Ledger.open_read(out / "ledger.sqlite") as ledger:
        assert sorted(attacked) == [row["uid"] for row in ledger.rows("SELECT uid FROM updates ORDER BY uid")]
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["leakage"]["unscored"], summary["leakage"]["never_attacked"]) == (0, 0)
    assert summary["leakage"]["by_schedule"]["audit"]["worst_psnr_db"] > 100


def test_a_worker_that_is_not_among_them_is_refused(tmp_path):
    with pytest.raises(msgspec.ValidationError, match="counted from 0"):
        msgspec.convert({"run": "r", "directory": tmp_path, "workers": 3, "worker": 3}, AttackSettings)
    with pytest.raises(WireError):
        topics.parse("spikeleak/v1/run/claim/1/pi/" + "0" * 32 + "/0")
