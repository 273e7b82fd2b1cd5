"""Limits that hold before anything is parsed, and what the product never does with bytes: unpickle, evaluate."""

from __future__ import annotations

import ast
import struct
import zlib

import msgspec
import numpy as np
import pytest

from contract import frames, messages, topics
from contract.codecs import CODECS, decode_plain, decode_tensors
from contract.errors import WireError
from contract.frames import CHUNK_BYTES, HEADER, MAX_OBJECT_BYTES, object_cost
from contract.messages import MAX_HEAD_BYTES, Ack, NodeState, TensorRecord
from server import inbox
from server.coordinator import MAX_DEVICES
from server.inbox import Inbox
from server.privacy import guarantee
from server.settings import ScheduleEntry
from tests.conftest import ROOT
from tests.faults.chaos.spoiled import frame as framed
from tests.unit.server_world import RUN, World, settings

PACKAGES = ("contract", "hardware", "edge_client", "server", "attack", "deploy")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
UNSAFE_MODULES = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml"}
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__"}
LOADERS = {"numpy": ("allow_pickle", False), "np": ("allow_pickle", False), "torch": ("weights_only", True)}


def faults_of(source: str) -> list[str]:
    """What a module does that could run code out of data."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in UNSAFE_MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in UNSAFE_MODULES:
            found.append(str(node.module))
        elif isinstance(node, ast.Call):
            found += _call_faults(node)
    return found


def _call_faults(node: ast.Call) -> list[str]:
    name = node.func
    if isinstance(name, ast.Name):
        return [name.id] if name.id in UNSAFE_CALLS else []
    if not (isinstance(name, ast.Attribute) and name.attr == "load" and isinstance(name.value, ast.Name)):
        return []
    key, value = LOADERS.get(name.value.id, ("", None))
    given = {word.arg: getattr(word.value, "value", None) for word in node.keywords}
    default = name.value.id != "torch"  # numpy's own default is the safe one
    return [] if not key or given.get(key, value if default else None) == value else [f"{name.value.id}.load"]


@pytest.mark.parametrize("source", ["import pickle", "from pickle import loads", "eval('1')", "exec(code)",
                                    "torch.load(f)", "np.load(f, allow_pickle=True)"])  # fmt: skip
def test_what_could_run_code_is_found(source):
    assert faults_of(source)


def test_no_pickle_and_no_eval_anywhere():
    assert len(SOURCES) > 150
    found = {str(path.relative_to(ROOT)): faults for path in SOURCES if (faults := faults_of(path.read_text("utf-8")))}
    assert not found, f"these could run code out of data: {found}"


# --- before parsing ---------------------------------------------------------------------------------------------------


def test_a_frame_over_the_limit_is_refused_before_its_checksum_is_computed(monkeypatch):
    uid = "ab" * 16
    frames.parse(framed(bytes(CHUNK_BYTES - HEADER.size), uid))
    monkeypatch.setattr(zlib, "crc32", None)
    with pytest.raises(WireError, match=f"at most {CHUNK_BYTES}"):
        frames.parse(bytes(CHUNK_BYTES + 1))


def test_no_sender_cuts_frames_over_the_limit():
    cut = list(frames.split(bytes(3 * CHUNK_BYTES), "ab" * 16, frame_bytes=8 * CHUNK_BYTES))
    assert max(map(len, cut)) == CHUNK_BYTES


def test_counts_and_totals_over_the_limit_are_refused_before_memory_is_taken():
    assembler = frames.Assembler()
    for lies in (
        {"count": 65_537, "total": 10**6},
        {"total": MAX_OBJECT_BYTES + 1, "count": 2},
        {"count": 5, "total": 3},
    ):
        with pytest.raises(WireError, match="limits"):
            assembler.add(framed(b"abc", "ab" * 16, **lies))
    assert assembler.held_bytes == 0


def test_a_record_over_the_limit_is_refused_before_it_is_decoded():
    with pytest.raises(WireError, match=f"at most {MAX_HEAD_BYTES}"):
        messages.decode(b"\xc1" * (MAX_HEAD_BYTES + 1), Ack)
    with pytest.raises(WireError, match="head of"):
        messages.unpack(struct.pack("<I", MAX_HEAD_BYTES + 1) + bytes(MAX_HEAD_BYTES + 1), messages.Update)


@pytest.mark.parametrize("name", ["a\n", "a b", "", "-a", "a" * 64])
def test_a_name_ends_where_it_ends(name):
    payload = msgspec.msgpack.encode({"type": "NodeState", "node": name, "epoch": 1, "status": "online"})
    with pytest.raises(WireError):
        messages.decode(payload, NodeState)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("shape", [(0, 2**63), (2**64 - 1, 0), (0, 2**40, 2**40)])
def test_shapes_that_no_array_has_are_refused(codec, shape):
    record = TensorRecord(name="a", shape=shape, codec=codec, nbytes=0)
    with pytest.raises(WireError):
        decode_tensors((record,), (memoryview(b""),))


def test_models_and_images_never_grow_when_they_are_read():
    claims = TensorRecord(name="a", shape=(1, 2**26), codec="topk", nbytes=4)
    with pytest.raises(WireError, match="plain fp32"):
        decode_plain((claims,), (memoryview(bytes(4)),))
    stream = zlib.compress(bytes(1 << 24), 9)
    bomb = TensorRecord(name="a", shape=(1 << 22,), codec="fp32", nbytes=len(stream), inflated=1 << 24)
    with pytest.raises(WireError, match="deflated"):
        decode_plain((bomb,), (memoryview(stream),))


# --- the server's memory ----------------------------------------------------------------------------------------------


def topic_of(node: str, uid: str) -> topics.Topic:
    return topics.parse(topics.update_chunk(RUN, node, 1, uid, 0))


def test_who_holds_the_most_gives_way_and_others_go_on():
    box = Inbox({"up": 1000}, held_bytes=object_cost(1000, frames.MAX_CHUNKS))
    greedy, modest = "aa" * 16, "bb" * 16
    room = box._held_bytes // object_cost(1000, 2)
    begun = list(frames.split(bytes(1000), modest, frame_bytes=HEADER.size + 500))
    assert box.add(topic_of("modest", modest), frames.parse(begun[0]), 0.0) is None
    for i in range(3 * room):
        node, uid = f"greedy-{i % 2000}", f"{greedy[:24]}{i:08x}"
        part = next(frames.split(bytes(1000), uid, frame_bytes=HEADER.size + 500))
        box.add(topic_of(node, uid), frames.parse(part), 0.0)
        assert box.held_bytes <= box._held_bytes
    assert len(box._progress) <= room
    whole = box.add(topic_of("modest", modest), frames.parse(begun[1]), 0.0)
    assert whole is not None, "the modest device's object was given up for the greedy ones'"
    assert whole.blob == bytes(1000)


def test_the_one_that_finds_no_room_waits_its_turn():
    box = Inbox({"up": 1000}, held_bytes=object_cost(1000, frames.MAX_CHUNKS))
    room = box._held_bytes // object_cost(1000, 900)

    def begin(device: int) -> None:
        uid = f"{device:032x}"
        box.add(topic_of(f"n{device}", uid), frames.parse(framed(b"a", uid, count=900, total=1000)), 0.0)

    for device in range(room):
        begin(device)
    with pytest.raises(WireError, match="no room for an object"):
        begin(room)
    assert box.held_bytes > box._held_bytes - object_cost(1000, 900)
    assert inbox.HELD_BYTES == 256 << 20


def test_births_without_end_are_refused(tmp_path):
    world = World(settings(tmp_path, ScheduleEntry(), clients=10**6))
    world.server._births = {f"n{i}": 1 for i in range(MAX_DEVICES)}
    world.node("one-more")
    assert world.server.intake.frames_bad == 1
    assert "one-more" not in world.state.online
    world.node("n7", epoch=2)
    assert "n7" in world.state.online
    world.ledger.close()


@pytest.mark.parametrize("noise", [5e-324, 1e-300, 1e-200, 1e-6])
def test_next_to_no_noise_is_no_guarantee_and_no_crash(noise):
    found = guarantee([noise], 1e-5)
    assert found.epsilon is None
    assert "next to nothing" in found.reason


@pytest.mark.parametrize("noise", [1e200, 1.7e308])
def test_noise_beyond_measure_is_no_crash(noise):
    assert guarantee([noise, noise], 1e-5).epsilon == pytest.approx(0.0, abs=1e-9)


def test_a_signalling_nan_is_refused_without_a_warning():
    from contract.pipeline import euclidean_norm

    for codec, bits in (("fp32", b"\x01\x00\x80\x7f"), ("fp16", b"\x01\x7c")):
        record = TensorRecord(name="a", shape=(1,), codec=codec, nbytes=len(bits))
        assert not np.isfinite(euclidean_norm(decode_tensors((record,), (memoryview(bits),))))
