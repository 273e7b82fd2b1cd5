"""Bytes of the wire: round trips, every truncation, golden headers, chunks in any order, damage, memory."""

from __future__ import annotations

import hashlib
import struct
import zlib

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract import frames, messages, topics
from contract.codecs import decode_tensors
from contract.errors import WireError
from contract.frames import CHUNK_BYTES, HEADER, Assembler, parse, split
from tests.protocol.examples import EXAMPLES, INT8, OTHER_UID, UID, WEIGHTS

NAMES = [f"{type(m).__name__}-{i}" for i, (m, _) in enumerate(EXAMPLES)]


def test_every_record_has_an_example():
    assert {type(m) for m, _ in EXAMPLES} == set(messages.MESSAGES)
    assert len(messages.MESSAGES) == 17


@pytest.mark.parametrize(("message", "tensors"), EXAMPLES, ids=NAMES)
def test_object_round_trip(message, tensors):
    blob = messages.pack(message, tensors)
    found, views = messages.unpack(blob, type(message))
    assert found == message
    assert [bytes(v) for v in views] == [np.asarray(t).tobytes() for t in tensors]
    if tensors:
        decoded = decode_tensors(found.tensors, views)
        assert {k: v.shape for k, v in decoded.items()} == {k: v.shape for k, v in WEIGHTS.items()}


@pytest.mark.parametrize(("message", "tensors"), EXAMPLES, ids=NAMES)
def test_every_truncation_and_extension_is_refused(message, tensors):
    blob = messages.pack(message, tensors)
    for end in range(len(blob)):
        with pytest.raises(WireError):
            messages.unpack(blob[:end], type(message))
    with pytest.raises(WireError):
        messages.unpack(blob + b"\0", type(message))
    bare = messages.encode(message)
    for end in range(len(bare)):
        with pytest.raises(WireError):
            messages.decode(bare[:end], type(message))


@pytest.mark.parametrize(("message", "tensors"), EXAMPLES, ids=NAMES)
def test_any_damage_is_refused_or_still_well_formed(message, tensors):
    blob = messages.pack(message, tensors)
    rng = np.random.default_rng(0)
    for position in rng.integers(len(blob), size=200):
        damaged = bytearray(blob)
        damaged[position] ^= 1 << int(rng.integers(8))
        try:
            found, _ = messages.unpack(bytes(damaged), type(message))
        except WireError:
            continue
        assert type(found) is type(message)


def test_another_record_and_unknown_fields_are_refused():
    with pytest.raises(WireError, match="expected a Ack, found a NodeState"):
        messages.decode(messages.encode(EXAMPLES[0][0]), messages.Ack)
    extra = msgspec.msgpack.encode({"type": "Ack", "uid": UID, "status": "admitted", "mood": "good"})
    with pytest.raises(WireError, match="mood"):
        messages.decode(extra, messages.Ack)
    for payload in (b"", b"\xc1", b"[]", b"\x93" * 5000, b"\xde\xff\xff"):
        with pytest.raises(WireError):
            messages.decode(payload, messages.Ack)


def test_length_fields_that_lie_are_refused_without_allocating():
    update, tensors = EXAMPLES[4]
    lying = msgspec.structs.replace(
        update, tensors=(msgspec.structs.replace(update.tensors[0], nbytes=2**62), *update.tensors[1:])
    )
    with pytest.raises(WireError, match="bytes are left"):
        messages.unpack(messages.pack(lying, tensors), messages.Update)
    with pytest.raises(WireError, match="head of"):
        messages.unpack(struct.pack("<I", 2**32 - 1) + b"x" * 10, messages.Update)


def test_bare_record_is_plain_messagepack():
    """What another MessagePack implementation would write."""
    by_hand = b"\x83\xa4type\xa3Ack\xa3uid\xd9\x20" + UID.encode() + b"\xa6status\xa8admitted"
    assert messages.decode(by_hand, messages.Ack) == messages.Ack(uid=UID, status="admitted")


def test_golden_frame():
    (frame,) = split(b"leaky", UID)
    golden = (
        "53504c4b" "01" "00" "0000" "00000000" "01000000" "0500000000000000" "0000000000000000"
        + struct.pack("<I", zlib.crc32(b"leaky")).hex() + UID + hashlib.sha256(b"leaky").hexdigest() + b"leaky".hex()
    )  # fmt: skip
    assert frame.hex() == golden
    assert frame[32:36].hex() == GOLDEN_CRC
    assert HEADER.size == 84


GOLDEN_CRC = "83b0dd70"


def test_every_truncated_frame_is_refused():
    frame = next(split(b"payload of one frame", UID))
    for end in range(len(frame)):
        with pytest.raises(WireError):
            parse(frame[:end])
    with pytest.raises(WireError):
        parse(frame + b"x")


def frame_with(**fields):
    values = {
        "magic": b"SPLK", "version": 1, "a": 0, "b": 0, "index": 0, "count": 1, "total": 3, "offset": 0,
        "crc": zlib.crc32(b"abc"), "uid": bytes(16), "sha": hashlib.sha256(b"abc").digest(),
    } | fields  # fmt: skip
    return HEADER.pack(*values.values()) + b"abc"


@pytest.mark.parametrize("fields", [
    {"magic": b"SPLX"}, {"version": 2}, {"index": 1}, {"count": 0}, {"count": 65_537}, {"count": 2}, {"count": 4},
    {"total": 2}, {"total": 4}, {"total": 2**40}, {"offset": 1}, {"offset": 2**63}, {"crc": 0},
], ids=str)  # fmt: skip
def test_inconsistent_headers_are_refused(fields):
    parse(frame_with())
    with pytest.raises(WireError):
        parse(frame_with(**fields))


@pytest.mark.parametrize(("size", "frame_bytes", "match"), [(10, 84, "header alone"), (65_537, 85, "chunks")])
def test_impossible_splits_are_refused(size, frame_bytes, match):
    with pytest.raises(WireError, match=match):
        list(split(bytes(size), UID, frame_bytes=frame_bytes))


def test_frames_respect_the_limit():
    cut = list(split(bytes(CHUNK_BYTES * 2), UID))
    assert [len(f) for f in cut] == [CHUNK_BYTES, CHUNK_BYTES, 2 * HEADER.size + HEADER.size]


@settings(max_examples=200)
@given(data=st.data(), blob=st.binary(max_size=300), step=st.integers(1, 120))
def test_any_order_with_duplicates_reassembles(data, blob, step):
    cut = list(split(blob, UID, frame_bytes=HEADER.size + step))
    extra = data.draw(st.lists(st.sampled_from(cut), max_size=5))
    order = data.draw(st.permutations(cut + extra))
    assembler = Assembler()
    done, seen = [], set()
    for frame in order:
        whole = assembler.add(frame)
        seen.add(parse(frame).index)
        if whole is not None:
            done.append(whole)
            assert len(seen) == len(cut)
            seen.clear()
        else:
            assert set(assembler.missing(UID)) == set(range(len(cut))) - seen
    assert done
    assert all(w.blob == blob and w.uid == UID and w.sha256 == hashlib.sha256(blob).hexdigest() for w in done)


@settings(max_examples=300)
@given(data=st.data(), blob=st.binary(min_size=1, max_size=200), step=st.integers(1, 120))
def test_a_flipped_bit_never_gives_a_wrong_object(data, blob, step):
    cut = [bytearray(f) for f in split(blob, UID, frame_bytes=HEADER.size + step)]
    victim = data.draw(st.integers(0, len(cut) - 1))
    bit = data.draw(st.integers(0, 8 * len(cut[victim]) - 1))
    cut[victim][bit // 8] ^= 1 << bit % 8
    assembler = Assembler()
    for frame in cut:
        try:
            whole = assembler.add(frame)
        except WireError:
            continue
        assert whole is None or whole.blob == blob


def test_a_new_cut_of_the_same_object_takes_over():
    blob = bytes(range(250))
    old, new = (list(split(blob, UID, frame_bytes=HEADER.size + step)) for step in (100, 60))
    assembler = Assembler()
    assert assembler.add(old[0]) is None
    results = [assembler.add(f) for f in new]
    assert results[:-1] == [None] * (len(new) - 1)
    assert results[-1].blob == blob


def test_wrong_digest_is_refused_and_forgotten():
    good = list(split(b"a" * 100, UID, frame_bytes=HEADER.size + 50))
    forged = [f[:52] + bytes(32) + f[84:] for f in good]
    assembler = Assembler()
    assembler.add(forged[0])
    with pytest.raises(WireError, match="SHA-256"):
        assembler.add(forged[1])
    assert [assembler.add(f) for f in good][-1].blob == b"a" * 100


def held_bytes(assembler):
    return sum(len(p.blob) for p in assembler._partial.values())


def test_memory_stays_bounded():
    assembler = Assembler(max_object_bytes=1000, max_total_bytes=6000)
    for i in range(50):
        frame = next(split(bytes(1000), f"{i:032x}", frame_bytes=HEADER.size + 500))
        assert assembler.add(frame) is None
        assert held_bytes(assembler) <= 6000
    assert assembler.dropped == 50 - 6000 // 1900
    assert assembler.missing(f"{49:032x}") == (1,)
    assert assembler.missing(f"{0:032x}") == ()
    assembler.forget(f"{49:032x}")
    assert assembler.missing(f"{49:032x}") == ()
    with pytest.raises(WireError, match="at most 1000"):
        assembler.add(next(split(bytes(1001), UID)))


def test_many_small_objects_stay_within_memory_too():
    assembler = Assembler(max_object_bytes=1000, max_total_bytes=100_000)
    for i in range(5000):
        assembler.add(next(split(b"ab", f"{i:032x}", frame_bytes=HEADER.size + 1)))
    assert len(assembler._partial) <= 100_000 // 900


def test_growing_the_same_uid_stays_within_memory():
    assembler = Assembler(max_object_bytes=1000, max_total_bytes=4000)
    assembler.add(next(split(bytes(900), OTHER_UID, frame_bytes=HEADER.size + 450)))
    assembler.add(next(split(bytes(100), UID, frame_bytes=HEADER.size + 50)))
    assert held_bytes(assembler) == 1000
    assembler.add(next(split(bytes(1000), UID, frame_bytes=HEADER.size + 125)))
    assert held_bytes(assembler) == 1000
    assert assembler.missing(OTHER_UID) == ()


BUILT = {
    topics.node_state("r", "n"): {"kind": "node", "node": "n"},
    topics.server_state("r"): {"kind": "server"},
    topics.task_manifest("r"): {"kind": "task"},
    topics.graph_chunk("r", "training", 5): {"kind": "task", "graph": "training", "index": 5},
    topics.model_chunk("r", 4, 5): {"kind": "model", "version": 4, "index": 5},
    topics.update_chunk("r", "n", 3, UID, 5): {"kind": "up", "node": "n", "round": 3, "uid": UID, "index": 5},
    topics.ack("r", "n"): {"kind": "ack", "node": "n"},
    topics.mirror_chunk("r", 3, "n", UID, 5): {"kind": "mirror", "node": "n", "round": 3, "uid": UID, "index": 5},
    topics.claim("r", 3, "n", UID): {"kind": "claim", "node": "n", "round": 3, "uid": UID},
    topics.working("r", 3, "n", UID): {"kind": "working", "node": "n", "round": 3, "uid": UID},
    topics.recon_chunk("r", "n", 3, 5): {"kind": "recon", "node": "n", "round": 3, "index": 5},
    topics.score("r", "n", 3): {"kind": "score", "node": "n", "round": 3},
    topics.secure("r", "n", 3): {"kind": "secure", "node": "n", "round": 3},
    topics.relay("r", "n"): {"kind": "relay", "node": "n"},
    topics.truth("r", "n", 3): {"kind": "truth", "node": "n", "round": 3},
}


@pytest.mark.parametrize("topic", sorted(BUILT))
def test_topics_parse_as_they_were_built(topic):
    assert topics.parse(topic) == topics.Topic(run="r", **BUILT[topic])
    levels = topic.split("/")
    for end in range(len(levels)):
        with pytest.raises(WireError):
            topics.parse("/".join(levels[:end]))
    for bad in (topic + "/x", topic + "/", topic.replace("v1", "v2"), topic.replace("/r/", "/+/"), topic.upper()):
        with pytest.raises(WireError):
            topics.parse(bad)


def test_topics_cover_every_kind():
    assert {fields["kind"] for fields in BUILT.values()} == set(topics._FORMS)


@given(st.text(max_size=40))
def test_any_text_as_topic_is_parsed_or_refused(text):
    for topic in (text, f"{topics.ROOT}/r/{text}", f"{topics.ROOT}/r/up/n/{text}/{UID}/0"):
        try:
            topics.parse(topic)
        except WireError:
            continue


@pytest.mark.parametrize("name", ["", "-a", "a/b", "a b", "a" * 64, "ä", "a\n", "+", "#"])
def test_bad_names(name):
    assert not topics.valid_name(name)
    with pytest.raises(WireError):
        topics.ack(name, "n")


def test_subscriptions_match_the_topics_each_party_needs():
    matches = {party: topics.subscriptions(party, "r", "n") for party in topics.SUBSCRIPTIONS}
    assert f"{topics.ROOT}/r/ack/n" in matches["client"]
    assert not any("score" in f or "truth" in f for f in matches["attack"])


def test_int8_update_is_a_quarter_of_fp32():
    sizes = [sum(r.nbytes for r in u.tensors) for u, _ in EXAMPLES if isinstance(u, messages.Update)]
    assert sizes[0] == 4 * sizes[2] == 2 * sizes[1] == 4 * sum(r.nbytes for r in INT8[0])


def test_limits_stand_as_in_the_code():
    assert (frames.MAX_CHUNKS, frames.MAX_OBJECT_BYTES, messages.MAX_HEAD_BYTES) == (65_536, 2**28, 2**20)
