"""Families of bad payloads for a server in its first round: each gives messages, none of them valid."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from contract import frames, messages, topics
from contract.codecs import decode_tensors, encode_tensors
from contract.errors import WireError
from contract.messages import (
    Update,
)
from contract.pipeline import euclidean_norm
from contract.task import RoundPlan
from tests.faults.chaos.spoiled import (
    COUNTS,
    DEEP,
    HUGE,
    ODD,
    SIZES,
    TENSOR_LIES,
    apart,
    cut,
    doubled,
    flipped,
    one,
    packed,
    spoil,
)
from tests.faults.chaos.spoiled import frame as framed
from tests.unit.server_world import HASH, INITIAL, RUN

Message = tuple[str, bytes]
Shapes = Mapping[str, tuple[int, ...]]
SHAPES: Shapes = {name: value.shape for name, value in INITIAL.items()}
NODE = "a"
"""Whose updates and reports are spoiled."""
REPORTER = "c"
"""The device whose one update is admitted before the bad payloads come: reports and reconstructions are about it."""
STRANGERS = tuple(f"stranger-{i}" for i in range(20))


class Base:
    """The valid update that is spoiled, under one plan.

    Args:
        plan: Of the open round.
        update_limit: Largest update that the server takes.
        reported: Uid of `REPORTER`'s update, which is in the ledger.
        task_hash, shapes: Of the task.
    """

    def __init__(
        self, plan: RoundPlan, update_limit: int, reported: str, *, task_hash: str = HASH, shapes: Shapes = SHAPES
    ) -> None:
        self.plan, self.update_limit, self.reported, self.shapes = plan, update_limit, reported, dict(shapes)
        rng = np.random.default_rng(7)
        tensors = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
        if plan.compression == "zlib":
            tensors = {name: np.full(shape, 0.5, dtype=np.float32) for name, shape in shapes.items()}
        records, buffers = encode_tensors(plan.codec, tensors, rng, compression=plan.compression)
        update = Update(
            uid="0" * 32, node=NODE, epoch=1, round=1, model_version=0, task_hash=task_hash, plan=plan, samples=2,
            loss=1.0, tensors=records,
        )  # fmt: skip
        self.update = update
        self.tree, self.tensors = apart(messages.pack(update, buffers))

    def fresh(self, rng: np.random.Generator, **changes: Any) -> tuple[str, dict[str, Any]]:
        """The update's record under a name of its own."""
        uid = rng.bytes(16).hex()
        return uid, {**self.tree, "uid": uid, **changes}

    def valid(self, blob: bytes, uid: str) -> bool:
        """Whether a spoiled update came out as another valid one: a flipped bit of the loss, for one."""
        try:
            found, views = messages.unpack(blob, Update)
            with np.errstate(invalid="ignore"):  # signalling NaNs
                tensors = decode_tensors(found.tensors, views)
                norm = euclidean_norm(tensors)
        except WireError:
            return False
        free = {"loss": None, "samples": 1, "epoch": 1, "tensors": (), "uid": uid}
        same = msgspec.structs.replace(found, **{**free, "uid": found.uid}) == msgspec.structs.replace(
            self.update, **free
        )
        loss = found.loss is None or np.isfinite(found.loss)
        drawn = found.samples <= self.plan.local_steps * self.plan.batch_size
        shapes = {n: t.shape for n, t in tensors.items()} == self.shapes
        codecs = {r.codec for r in found.tensors} == {self.plan.codec}
        squeezed = self.plan.compression == "zlib" or not any(r.inflated for r in found.tensors)
        return bool(same and loss and drawn and found.epoch >= 1 and shapes and codecs and squeezed and norm <= 1e4)


def up(uid: str, *payloads: bytes, node: str = NODE, round_: int = 1) -> list[Message]:
    """Frames of one object on its topic."""
    return [(topics.update_chunk(RUN, node, round_, uid, i), payload) for i, payload in enumerate(payloads)]


def _whole(rng: np.random.Generator, base: Base, uid: str, blob: bytes) -> list[Message]:
    """A spoiled update in one or several honest frames; nothing when it came out valid."""
    if base.valid(blob, uid):
        return []
    if rng.integers(6):
        return up(uid, framed(blob, uid))
    return up(uid, *frames.split(blob, uid, frame_bytes=frames.HEADER.size + max(1, len(blob) // 3)))


# --- topics and frames ------------------------------------------------------------------------------------------------


def random_bytes(rng: np.random.Generator, base: Base) -> list[Message]:
    uid = rng.bytes(16).hex()
    node = one(rng, [NODE, "b", *STRANGERS])
    known = (
        topics.node_state(RUN, node), topics.update_chunk(RUN, node, 1, uid, 0), topics.score(RUN, node, 1),
        topics.truth(RUN, node, 1), topics.recon_chunk(RUN, node, 1, 0), topics.server_state(RUN),
        topics.ack(RUN, node),
        topics.model_chunk(RUN, 0, 0), topics.task_manifest(RUN), topics.mirror_chunk(RUN, 1, node, uid, 0),
    )  # fmt: skip
    data = rng.bytes(one(rng, [0, 1, 3, 83, 84, 85, 300, 3000]))
    magic = b"SPLK\x01" if rng.integers(2) else b""
    return [(one(rng, known), (magic + data) or b"\x80")]


def strange_topic(rng: np.random.Generator, base: Base) -> list[Message]:
    uid, tree = base.fresh(rng)
    payload = framed(packed(tree, base.tensors), uid)
    levels = topics.update_chunk(RUN, NODE, 1, uid, 0).split("/")
    at = int(rng.integers(3, len(levels)))
    odd = ["", "-1", "x" * 64, "é", "1" * 10, "+", "٣", "a\n", "$SYS", "up", "0" * 32, " ", "..", "9" * 9, "\0"]
    levels[at] = one(rng, odd)
    if rng.integers(4) == 0:
        levels.insert(at, "b")
    topic = "/".join(levels)
    honest = topic.split("/")[:7] == topics.update_chunk(RUN, NODE, 1, uid, 0).split("/")[:7] and levels[-2] == uid
    return [] if honest else [(topic, payload)]


def broken_frame(rng: np.random.Generator, base: Base) -> list[Message]:
    uid, tree = base.fresh(rng)
    payload = framed(packed(tree, base.tensors), uid)
    spoiled = flipped(rng, payload) if rng.integers(2) else cut(rng, payload)
    if spoiled[:5] + spoiled[8:] == payload[:5] + payload[8:]:  # the reserved bytes alone are not read
        return []
    return up(uid, spoiled)


def lying_header(rng: np.random.Generator, base: Base) -> list[Message]:
    uid, tree = base.fresh(rng)
    blob = packed(tree, base.tensors)
    name = one(rng, ["index", "count", "total", "offset", "crc", "magic", "version", "sha"])
    odd: dict[str, Any] = {
        "index": one(rng, COUNTS[1:]), "count": one(rng, (0, *COUNTS[2:])),
        "total": one(rng, SIZES), "offset": one(rng, SIZES[1:]),
        "crc": int(rng.integers(2**32)), "magic": b"SPLX", "version": int(rng.integers(2, 256)), "sha": rng.bytes(32),
    }  # fmt: skip
    return up(uid, framed(blob, uid, **{name: odd[name]}))


def oversized_frame(rng: np.random.Generator, base: Base) -> list[Message]:
    """A valid update behind a frame that is longer than frames may be."""
    uid, tree = base.fresh(rng)
    blob = packed(tree, base.tensors)
    return up(uid, framed(blob + bytes(frames.CHUNK_BYTES), uid))


# --- objects ----------------------------------------------------------------------------------------------------------


def torn_object(rng: np.random.Generator, base: Base) -> list[Message]:
    """All chunks, each sound, whose whole is not what was announced; or chunks that overlap or leave a gap."""
    uid, tree = base.fresh(rng)
    blob = packed(tree, base.tensors)
    half = len(blob) // 2
    sha = hashlib.sha256(blob).digest()
    parts = [blob[:half], blob[half:]]
    offsets = [0, half]
    if rng.integers(2):
        parts[int(rng.integers(2))] = flipped(rng, parts[0])[: len(parts[0])]
        parts = [parts[0][:half], (parts[1] + bytes(2))[: len(blob) - half]]
    else:
        parts[1] = parts[1][1:]
        offsets[1] = half + 1
    if b"".join(parts) == blob and offsets[1] == half:
        return []
    lies = [{"index": i, "count": 2, "total": len(blob), "offset": offsets[i], "sha": sha} for i in range(2)]
    return up(uid, *(framed(part, uid, **lie) for part, lie in zip(parts, lies, strict=True)))


def opened_only(rng: np.random.Generator, base: Base) -> list[Message]:
    """The first chunk of an object that never comes: memory is taken for nothing."""
    uid = rng.bytes(16).hex()
    kind = one(rng, ["up", "score", "truth", "recon"])
    most = {"up": base.update_limit, "score": 1 << 20, "truth": 16 << 20, "recon": 16 << 20}[kind]
    total = one(rng, [1000, most // 64, most // 64, most + 1])
    payload = framed(b"abc", uid, count=one(rng, [2, 100]), total=total)
    topic = {
        "up": topics.update_chunk(RUN, NODE, 1, uid, 0), "score": topics.score(RUN, NODE, 1),
        "truth": topics.truth(RUN, NODE, 1), "recon": topics.recon_chunk(RUN, NODE, 1, 0),
    }[kind]  # fmt: skip
    return [(topic, payload)]


# --- records ----------------------------------------------------------------------------------------------------------


def broken_head(rng: np.random.Generator, base: Base) -> list[Message]:
    uid, tree = base.fresh(rng)
    head = msgspec.msgpack.encode(tree)
    head = flipped(rng, head) if rng.integers(3) else cut(rng, head)
    length = one(rng, (len(head), len(head) + 1, 0, 2**20 + 1, 2**32 - 1)) if rng.integers(5) == 0 else None
    return _whole(rng, base, uid, packed(head, base.tensors, length=length))


def spoiled_update(rng: np.random.Generator, base: Base) -> list[Message]:
    uid, tree = base.fresh(rng)
    spoiled = spoil(rng, tree)
    if rng.integers(8) == 0:
        key = one(rng, list(tree))
        return _whole(rng, base, uid, packed(doubled(tree, key, one(rng, ODD)), base.tensors))
    return _whole(rng, base, uid, packed(spoiled, base.tensors))


def messagepack_bomb(rng: np.random.Generator, base: Base) -> list[Message]:
    uid, tree = base.fresh(rng)
    value = one(rng, (DEEP, *HUGE))
    if rng.integers(4) == 0:
        depth = one(rng, [10, 1000, 100_000])
        return up(uid, framed(packed(bytes([one(rng, (0x91, 0x81))]) * depth), uid))
    key = one(rng, list(tree))
    return up(uid, framed(packed({**tree, key: value}, base.tensors), uid))


def other_record(rng: np.random.Generator, base: Base) -> list[Message]:
    uid, tree = base.fresh(rng)
    return up(uid, framed(packed({**tree, "type": one(rng, ["Model", "Truth", "Ack", "update", ""])}), uid))


# --- admission --------------------------------------------------------------------------------------------------------


def foreign_update(rng: np.random.Generator, base: Base) -> list[Message]:
    """Every field right by itself, and one that is not this round's, this task's or this device's."""
    plan = base.tree["plan"]
    changes: list[dict[str, Any]] = [
        {"task_hash": rng.bytes(32).hex()}, {"round": one(rng, (0, 2, 2**40, 2**64 - 1))}, {"node": "b"},
        {"uid": rng.bytes(16).hex()}, {"model_version": one(rng, (1, 2**53, 2**64 - 1))}, {"epoch": 0},
        {"samples": one(rng, (33, 2**53, 2**63, 2**64 - 1))}, {"loss": one(rng, [np.nan, np.inf])},
        {"plan": {**plan, "learning_rate": one(rng, [0.5, 1e-308, 1e308])}},
        {"plan": {**plan, "clip_norm": 1.0, "noise_multiplier": one(rng, [1e-300, 1e-200, 1.0, 1e200, 1e308])}},
        {"plan": {**plan, "local_steps": 2**62, "batch_size": 2**62}, "samples": 2**52},
    ]  # fmt: skip
    uid, tree = base.fresh(rng)
    return up(uid, framed(packed({**tree, **one(rng, changes)}, base.tensors), uid))


def of_the_uninvited(rng: np.random.Generator, base: Base) -> list[Message]:
    uid, tree = base.fresh(rng, node="late")
    return up(uid, framed(packed(tree, base.tensors), uid), node="late")


# --- tensors ----------------------------------------------------------------------------------------------------------


def lying_tensors(rng: np.random.Generator, base: Base) -> list[Message]:
    uid, tree = base.fresh(rng)
    records, data = [dict(record) for record in tree["tensors"]], bytearray(base.tensors)
    one(rng, list(TENSOR_LIES.values()))(rng, records, data)
    return up(uid, framed(packed({**tree, "tensors": records}, data), uid))


def lying_values(rng: np.random.Generator, base: Base) -> list[Message]:
    """Right by its head; what the bytes hold is not finite, too long, or no stream of that length."""
    uid, tree = base.fresh(rng)
    records, data = [dict(record) for record in tree["tensors"]], bytearray(base.tensors)
    names = ("not_finite", "huge", "zlib" if base.plan.compression == "zlib" else "huge")
    TENSOR_LIES[one(rng, names)](rng, records, data)
    return up(uid, framed(packed({**tree, "tensors": records}, data), uid))


def spoiled_tensor_bytes(rng: np.random.Generator, base: Base) -> list[Message]:
    """Codes that no encoder writes: -128, contradicting planes, padding, counts and places out of range."""
    uid, tree = base.fresh(rng)
    return _whole(rng, base, uid, packed(tree, rng.bytes(len(base.tensors)))) if base.plan.codec != "fp32" else []
