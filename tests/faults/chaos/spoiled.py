"""Bytes that almost follow SPEC.md: frames, heads and tensors, spoiled at one depth, with everything above it right.

A frame's CRC-32 and its object's SHA-256 are made anew after each change, so that what is wrong is found no earlier
than where it is wrong.
"""

from __future__ import annotations

import functools
import hashlib
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np

from contract.frames import HEADER, MAGIC, MAX_CHUNKS, MAX_OBJECT_BYTES, VERSION

Bytes = bytes | bytearray
LENGTH = struct.Struct("<I")
COUNTS = (0, 1, 2, 3, 127, 2**16 - 1, MAX_CHUNKS, MAX_CHUNKS + 1, 2**31, 2**32 - 1)
SIZES = (0, 1, 83, 2**16, MAX_OBJECT_BYTES, MAX_OBJECT_BYTES + 1, 2**32, 2**63, 2**64 - 1)
DEEP = msgspec.Raw(b"\x91" * 3000 + b"\xc0")
"""Arrays in arrays."""
HUGE = tuple(
    msgspec.Raw(head + struct.pack(">I", 2**31 - 1) + b"\xc0" * 8) for head in (b"\xdd", b"\xdf", b"\xdb", b"\xc6")
)
"""An array, a map, a str and a bin that claim two thousand million entries."""
ODD: tuple[Any, ...] = (
    None, True, 0, 1, -1, 7, 2**31, 2**53 + 1, 2**63, 2**64 - 1, -(2**63), 0.0, -0.0, 0.5, 1e-310, 1e-200, 1e200, 1e308,
    float("nan"), float("inf"), -float("inf"), "", "a", "\0", "x\n", "é" * 40, "n" * 700, b"", b"\x00\xff", [], {},
    [[]],
    [0, 2**63], [0, 2**40, 2**40], [1] * 9, {"type": "Update"}, msgspec.Raw(b"\xc1"), msgspec.Raw(b"\xd9\xff"),
    msgspec.Raw(b"\xd4\x05\x00"), msgspec.Raw(b"\xa2\xff\xfe"), DEEP, *HUGE,
)  # fmt: skip
"""Values that some field does not expect: of other types, at the edges, broken MessagePack, extensions, no UTF-8."""


def frame(payload: Bytes, uid: str, **lies: Any) -> bytes:
    """One frame; header fields that are not named make it the only and honest one of its object."""
    fields = {
        "magic": MAGIC,
        "version": VERSION,
        "index": 0,
        "count": 1,
        "total": len(payload),
        "offset": 0,
        "crc": zlib.crc32(payload),
        "sha": hashlib.sha256(payload).digest(),
    } | lies
    f = fields
    head = HEADER.pack(
        f["magic"], f["version"], 0, 0, f["index"], f["count"], f["total"], f["offset"], f["crc"], bytes.fromhex(uid),
        f["sha"],
    )  # fmt: skip
    return head + payload


def one(rng: np.random.Generator, choices: Sequence[Any]) -> Any:
    """One of them, as it stands: numpy's own choice makes numbers of another type of them."""
    return choices[rng.integers(len(choices))]


def flipped(rng: np.random.Generator, data: Bytes, most: int = 4) -> bytes:
    """A few bits turned over."""
    found = bytearray(data)
    for bit in rng.integers(8 * len(found), size=int(rng.integers(1, most + 1))):
        found[bit // 8] ^= 1 << bit % 8
    return bytes(found)


def cut(rng: np.random.Generator, data: Bytes) -> bytes:
    """The beginning only, or the whole with a tail, or a stretch left out."""
    at = int(rng.integers(len(data)))
    kind = rng.integers(3)
    if kind == 0:
        return bytes(data[:at])
    if kind == 1:
        return bytes(data) + rng.bytes(int(rng.integers(1, 40)))
    return bytes(data[:at]) + bytes(data[at + int(rng.integers(1, 9)) :])


def spoil(rng: np.random.Generator, tree: Any) -> Any:  # noqa: PLR0911 - one for each way
    """A copy of a record as plain values in which one place is odd, gone, doubled, or new."""
    if isinstance(tree, dict) and tree:
        keys = list(tree)
        key = keys[rng.integers(len(keys))]
        inside = isinstance(tree[key], (dict, list)) and tree[key] and rng.integers(3)
        kind = 0 if inside else int(rng.integers(1, 6))
        if kind == 0:
            return {**tree, key: spoil(rng, tree[key])}
        if kind == 1:
            return {name: value for name, value in tree.items() if name != key}
        if kind == 2:
            return {**tree, one(rng, ("mood", "", "Type", "uid ")): one(rng, ODD)}
        return {**tree, key: one(rng, ODD)}
    if isinstance(tree, list) and tree:
        at = int(rng.integers(len(tree)))
        kind = int(rng.integers(4))
        if kind == 0:
            return [*tree, tree[at]]
        if kind == 1:
            return [*tree[:at], *tree[at + 1 :]]
        new = spoil(rng, tree[at]) if kind == 2 else one(rng, ODD)
        return [*tree[:at], new, *tree[at + 1 :]]
    return one(rng, ODD)


def doubled(tree: dict[str, Any], key: str, value: Any) -> bytes:
    """MessagePack of a map in which one key comes twice."""
    body = msgspec.msgpack.encode(tree)
    body = body[1:] if len(tree) < 16 else body[3:]
    return (
        b"\xde" + struct.pack(">H", len(tree) + 1) + body + msgspec.msgpack.encode(key) + msgspec.msgpack.encode(value)
    )


def packed(tree: Any, tensors: Bytes = b"", *, length: int | None = None) -> bytes:
    """An object of a record as plain values; its length field may lie."""
    head = tree if isinstance(tree, (bytes, bytearray)) else msgspec.msgpack.encode(tree)
    return LENGTH.pack(len(head) if length is None else length) + head + tensors


def apart(blob: Bytes) -> tuple[dict[str, Any], bytes]:
    """Record as plain values, and the tensors' bytes."""
    (size,) = LENGTH.unpack_from(blob)
    tree: dict[str, Any] = msgspec.msgpack.decode(blob[LENGTH.size : LENGTH.size + size])
    return tree, bytes(blob[LENGTH.size + size :])


@functools.cache
def bomb(size: int) -> bytes:
    """A zlib stream of so many zeros."""
    return zlib.compress(bytes(size), 9)


TENSOR_LIES: dict[str, Callable[[np.random.Generator, list[dict[str, Any]], bytearray], None]] = {}
"""Changes of tensor records and bytes, each of which makes the update wrong."""


def _lie(change: Callable[[np.random.Generator, list[dict[str, Any]], bytearray], None]) -> None:
    TENSOR_LIES[change.__name__.strip("_")] = change


def _one(rng: np.random.Generator, records: list[dict[str, Any]]) -> dict[str, Any]:
    return one(rng, records)


@_lie
def _not_finite(rng, records, data) -> None:
    """fp32 and fp16 hold a NaN or infinity; others get a scale that is none."""
    if records[0]["codec"] in {"fp32", "fp16"} and not any(r.get("inflated") for r in records):
        width, bits = (
            (4, (0x7FC00000, 0x7F800000, 0xFF800000)) if records[0]["codec"] == "fp32" else (2, (0x7E00, 0xFC00))
        )
        at = width * int(rng.integers(len(data) // width))
        data[at : at + width] = one(rng, bits).to_bytes(width, "little")
    else:
        _one(rng, records)["scale"] = one(rng, [np.nan, np.inf, -np.inf, -1.0, 1e39, 1e308])


@_lie
def _shape(rng, records, _data) -> None:
    record = _one(rng, records)
    shape = list(record["shape"])
    turned = shape[::-1] if shape[0] != shape[-1] else [*shape, 2]
    longer = [*shape[:-1], shape[-1] + 1]
    odd = [turned, longer, [], [*shape, 1], [0, *shape], [0, 2**63], [2**32] * 2, [2**64 - 1], [1] * 8]
    record["shape"] = one(rng, odd)


@_lie
def _name(rng, records, _data) -> None:
    _one(rng, records)["name"] = one(rng, ["layers.9.weight", "", "layers.0.weight ", "x" * 128, "é"])


@_lie
def _codec(rng, records, _data) -> None:
    record = _one(rng, records)
    others = [
        c
        for c in ("fp32", "fp16", "int8", "int4", "ternary", "sign", "topk", "bits", "gzip", "")
        if c != record["codec"]
    ]
    record["codec"] = one(rng, others)


@_lie
def _length(rng, records, _data) -> None:
    record = _one(rng, records)
    record["nbytes"] += one(rng, [-1, 1, 7, 2**31, 2**62])


@_lie
def _twice(rng, records, data) -> None:
    records.append(dict(records[0]))
    data.extend(data[: records[0]["nbytes"]])


@_lie
def _left_out(rng, records, data) -> None:
    del data[: records[0]["nbytes"]]
    del records[0]


@_lie
def _zlib(rng, records, data) -> None:
    """A stream where the plan has none, or one that lies: a bomb, cut short, followed by more, of another length."""
    size = records[0]["nbytes"] if not records[0].get("inflated") else records[0]["inflated"]
    kind = int(rng.integers(6))
    stream = bomb(1 << 20) if kind == 0 else zlib.compress(bytes(size) if kind != 1 else b"\x80" * (size + 1))
    stream = stream[:-3] if kind == 2 else stream + b"!" if kind == 3 else stream
    said = {4: size + 5, 5: 2**40}.get(kind, size)
    data[: records[0]["nbytes"]] = stream
    records[0] |= {"nbytes": len(stream), "inflated": said}


@_lie
def _huge(rng, records, data) -> None:
    """Norm over every bound: values of 1e30, or steps of 1e30."""
    if records[0]["codec"] == "fp32" and not records[0].get("inflated"):
        data[:4] = np.float32(1e30).tobytes()
    elif records[0]["codec"] == "fp16":
        data[: records[0]["nbytes"]] = b"\xff\x7b" * (records[0]["nbytes"] // 2)  # 65504 each, in every place
        records[0] |= {"scale": 2.0}
    else:
        records[0]["scale"] = 1e30
