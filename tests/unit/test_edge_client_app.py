"""One device's process against a server that lives in memory."""

from __future__ import annotations

import threading
import time
import tomllib
from pathlib import Path

import msgspec
import numpy as np
import pytest

from contract import topics
from contract.codecs import decode_tensors, encode_tensors
from contract.configuration import decode_tables
from contract.errors import ConfigurationError, EnvironmentFaultError
from contract.frames import split
from contract.link import LinkSettings
from contract.messages import (
    AttackResult,
    EnergyReport,
    NodeState,
    Reconstruction,
    Score,
    Truth,
    Update,
    decode,
    pack,
)
from contract.secure import SecureAggregation
from contract.task import RoundPlan
from edge_client.app import INTERRUPTED, main, run_client
from edge_client.settings import ClientSettings
from hardware.energy import PHASES
from tests.conftest import ROOT
from tests.unit.edge_client_world import HASH, INFO, NODE, PLAN, RUN, TASK, MemoryLink, MemoryServer, settings


def test_a_device_without_the_packages_for_masks_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.unit.edge_client_world.PLAN", RoundPlan(algorithm="fedsgd", secure=SecureAggregation()))
    monkeypatch.setattr("contract.masking.importlib.util.find_spec", lambda _name: None)
    server = MemoryServer(rounds=1)
    with pytest.raises(EnvironmentFaultError, match=r"cryptography.*pip install 'spikeleak\[secagg\]'"):
        run_client(settings(tmp_path), link_type=lambda *a, **k: MemoryLink(server, *a, **k))


def test_a_device_lives_through_a_run(tmp_path):
    server = MemoryServer(rounds=2, drop_first=True)
    status = run_client(settings(tmp_path), link_type=lambda *a, **k: MemoryLink(server, *a, **k))
    assert status == 0
    assert [u.round for u in server.updates] == [1, 2]
    assert len({u.uid for u in server.updates}) == 2
    assert all(u.samples == 2 and u.epoch == 1 and u.task_hash == HASH for u in server.updates)
    by_kind: dict[type, list] = {}
    for message, views in server.objects.values():
        by_kind.setdefault(type(message), []).append((message, views))
    assert {kind: len(found) for kind, found in by_kind.items()} == {Update: 2, EnergyReport: 2, Score: 2, Truth: 2}
    truth, views = by_kind[Truth][0]
    assert truth.indices == (0, 1)
    (x,) = decode_tensors(truth.tensors, views).values()
    score = by_kind[Score][0][0]
    grey = 10 * np.log10(1 / np.square(np.clip(x, 0, 1) - 0.5).mean(axis=(1, 2, 3)))
    assert score.attacks[0].psnr_db == pytest.approx(grey.max(), abs=1e-4)
    report = by_kind[EnergyReport][0][0]
    assert [p.phase for p in report.phases] == list(PHASES)
    assert report.operations.backward_macs > 0
    readings = {p.phase: p.readings for p in report.phases}
    assert readings["train"][1].provenance == readings["transmit"][1].provenance == "modelled"
    assert all(p.readings[0].provenance == "unavailable" and p.readings[0].reason for p in report.phases)
    last = decode(server.link.farewell[1], NodeState)
    assert (last.status, last.published, last.acknowledged, last.pending) == ("offline", 2, 2, 0)
    will = decode(server.link.will[1], NodeState)
    assert (will.status, will.epoch) == ("offline", 1)
    assert server.states[0].status == "online"
    assert not server.link.filters & {topics.model_filter(RUN, 1)}
    assert not list((tmp_path / "device" / "outbox").iterdir())
    assert not list((tmp_path / "device" / "receipts").iterdir())


def test_the_update_is_the_gradient_of_the_receipts_samples(tmp_path):
    import torch

    from contract.models.network import Network

    server = MemoryServer(rounds=1)
    run_client(settings(tmp_path), link_type=lambda *a, **k: MemoryLink(server, *a, **k))
    pairs = list(server.objects.values())
    update, views = next(p for p in pairs if isinstance(p[0], Update))
    truth, truth_views = next(p for p in pairs if isinstance(p[0], Truth))
    (x,) = decode_tensors(truth.tensors, truth_views).values()
    params = {n: torch.tensor(v, requires_grad=True) for n, v in server.params.items()}
    logits = Network(TASK, INFO.shape, INFO.classes)(params, torch.tensor(x)[None])
    torch.nn.functional.cross_entropy(logits, torch.tensor(truth.labels)).backward()
    for name, gradient in decode_tensors(update.tensors, views).items():
        np.testing.assert_allclose(gradient, params[name].grad.numpy(), rtol=1e-5, atol=1e-7)


def test_a_seed_makes_the_updates_repeatable(tmp_path):
    def uids(folder: str, **changes) -> list[str]:
        server = MemoryServer(rounds=1)
        run_client(settings(tmp_path / folder, **changes), link_type=lambda *a, **k: MemoryLink(server, *a, **k))
        return [u.uid for u in server.updates]

    assert uids("a", seed=3) == uids("b", seed=3) != uids("c", seed=4)
    assert uids("d") != uids("e")


def test_stopping_says_farewell(tmp_path):
    server = MemoryServer(rounds=1)
    server.retained.clear()
    stop = threading.Event()
    threading.Timer(0.1, stop.set).start()
    begin = time.monotonic()
    status = run_client(settings(tmp_path), stop, link_type=lambda *a, **k: MemoryLink(server, *a, **k))
    assert status == INTERRUPTED
    assert time.monotonic() - begin < 3
    assert decode(server.link.farewell[1], NodeState).status == "offline"


def test_a_link_that_gives_up_ends_the_device_with_its_words(tmp_path):
    class Useless(MemoryLink):
        def __init__(self, *arguments, on_fault, **rest) -> None:
            super().__init__(*arguments, **rest)
            self.on_fault = on_fault

        def start(self) -> None:
            self.on_fault(EnvironmentFaultError("takes nothing"))

    server = MemoryServer(rounds=1)
    with pytest.raises(EnvironmentFaultError, match="takes nothing"):
        run_client(settings(tmp_path), link_type=lambda *a, **k: Useless(server, *a, **k))
    assert decode(server.link.farewell[1], NodeState).status == "offline"


def test_frames_are_cut_smaller_when_the_server_does_not_hear_of_an_update(tmp_path, caplog):
    class Limited(MemoryLink):
        """Drops what is larger than 400 bytes on its way up, and says nothing."""

        def publish(self, topic: str, payload: bytes, **retain: bool) -> bool:
            return (len(payload) > 400 and "/up/" in topic) or super().publish(topic, payload, **retain)

    server = MemoryServer(rounds=1)
    began_s = time.monotonic()
    assert run_client(settings(tmp_path), link_type=lambda *a, **k: Limited(server, *a, **k)) == 0
    assert len(server.updates) == 1
    assert server.link.frame_bytes < 400
    assert "does not hear of object" in caplog.text
    assert time.monotonic() - began_s < 40


def test_reconstructions_beyond_the_backlogs_memory_are_dropped(tmp_path, monkeypatch, caplog):
    class Flooding(MemoryServer):
        def reconstruct(self, update: Update) -> None:
            super().reconstruct(update)
            self.open(update.round + 1)

    monkeypatch.setattr("edge_client.device.BACKLOG_BYTES", 100)
    server = Flooding(rounds=1)
    assert run_client(settings(tmp_path), link_type=lambda *a, **k: MemoryLink(server, *a, **k)) == 0
    assert len(server.updates) == 1
    assert "dropped: 0 bytes wait to be scored already" in caplog.text
    assert not any(isinstance(message, Score) for message, _ in server.objects.values())


@pytest.mark.parametrize("fellows", [True, False])
def test_a_receipt_serves_each_sight_that_is_awaited_once(tmp_path, monkeypatch, fellows):
    class Twice(MemoryServer):
        """What a fellow client found comes first, then what the server found, then the first again."""

        def reconstruct(self, update: Update) -> None:
            images = np.full((3, *INFO.shape), 0.25, dtype=np.float32)
            records, buffers = encode_tensors("fp32", {"0": images}, np.random.default_rng(0))
            result = AttackResult(attack="grey", verdict="partial", images=0)
            for digit in "12":
                message = Reconstruction(
                    uid=digit * 32,
                    update_uid=update.uid,
                    node=NODE,
                    round=update.round,
                    results=(result,),
                    tensors=records,
                    seen="models",
                )
                for index, frame in enumerate(split(pack(message, buffers), message.uid)):
                    self.say(topics.recon_chunk(RUN, NODE, update.round, index), frame)
                if digit == "1":
                    super().reconstruct(update)

    monkeypatch.setattr("tests.unit.edge_client_world.PLAN", msgspec.structs.replace(PLAN, apply=True))
    server = Twice(rounds=1)
    link = {"link_type": lambda *a, **k: MemoryLink(server, *a, **k)}
    assert run_client(settings(tmp_path, fellows=fellows), **link) == 0
    scores = [message for message, _ in server.objects.values() if isinstance(message, Score)]
    assert [score.seen for score in scores] == (["models", "update"] if fellows else ["update"])
    assert len({(score.uid, score.update_uid) for score in scores}) == len(scores)
    assert len({score.update_uid for score in scores}) == 1
    assert sum(isinstance(message, Truth) for message, _ in server.objects.values()) == 1
    assert not list((tmp_path / "device" / "receipts").iterdir())


def test_garbage_on_every_topic_is_survived(tmp_path):
    server = MemoryServer(rounds=1)

    class Noisy(MemoryLink):
        def start(self) -> None:
            for topic in (*server.retained, topics.ack(RUN, NODE), topics.recon_chunk(RUN, NODE, 1, 0), "x", "a/b"):
                for payload in (b"", b"\x00", b"SPLK" + bytes(100), b"\xff" * 300):
                    self.on_message(topic, payload)
            super().start()

    assert run_client(settings(tmp_path), link_type=lambda *a, **k: Noisy(server, *a, **k)) == 0
    assert len(server.updates) == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"engine": "onnxx"}, ["onnxx", "torch"]),
        ({"meter": "wattmeter"}, ["wattmeter", "none"]),
        ({"energy_profile": "coal"}, ["coal", "horowitz-45nm"]),
    ],
)
def test_unusable_settings_are_named(tmp_path, changes, words):
    with pytest.raises(ConfigurationError) as caught:
        run_client(settings(tmp_path, **changes))
    assert all(word in str(caught.value) for word in words)


def config(tmp_path: Path, extra: str = "") -> Path:
    path = tmp_path / "device.toml"
    text = f'run = "r"\nnode = "n"\ndirectory = "{tmp_path / "state"}"\nshard = 0\nshards = 1\n{extra}'
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("extra", "status", "words"),
    [
        ("enginee = 1", 2, ["enginee", "engine"]),
        ("threads = 0", 2, ["threads"]),
        ('engine = "loihii"', 2, ["loihii", "torch"]),
        ("[link]\nport = 1", 1, ["127.0.0.1:1"]),
    ],
)
def test_main_exits_with_one_line(tmp_path, capsys, monkeypatch, extra, status, words):  # noqa: PLR0917 - fixtures
    from contract.link import Link

    start = Link.start
    monkeypatch.setattr(Link, "start", lambda self, **_: start(self, timeout_s=0.4))
    monkeypatch.setattr("signal.signal", lambda *_: None)
    assert main([str(config(tmp_path, extra)), "--log-level", "error"]) == status
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert all(word in error for word in words)


def test_shard_beyond_shards_is_refused():
    with pytest.raises(ValueError, match="shard = 2 of shards = 2"):
        ClientSettings(run="r", node="n", link=LinkSettings(), directory=Path(), shard=2, shards=2)


def test_the_settings_of_the_readme_are_settings():
    text = (
        (ROOT / "edge_client" / "README.md").read_text(encoding="utf-8").partition("```toml\n")[2].partition("```")[0]
    )
    shown = decode_tables(tomllib.loads(text), ClientSettings, origin="README.md")
    assert shown.link.tls is not None
    assert shown.link.tls.certificate.stem == shown.node
