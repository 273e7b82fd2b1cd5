"""Bad reports, reconstructions and births; and all families of bad payloads, in their shares."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np

from contract import messages, topics
from contract.messages import AttackResult, AttackScore, NodeState, Reconstruction, Score, Truth
from tests.faults.chaos import mutants
from tests.faults.chaos.mutants import NODE, REPORTER, STRANGERS, Base, Message
from tests.faults.chaos.spoiled import apart, bomb, cut, flipped, one, packed, spoil
from tests.faults.chaos.spoiled import frame as framed
from tests.unit.server_world import RUN, energy_report


def _images(rng: np.random.Generator) -> tuple[list[dict[str, Any]], bytes]:
    """Tensors of images: sound, of odd shapes and codecs, bombs."""
    kind = int(rng.integers(7))
    record: dict[str, Any] = {"name": "truth", "shape": [1, 2], "codec": "fp32", "nbytes": 8}
    if kind == 1:
        record |= {"shape": one(rng, ([0, 2**63], [0, 2**40, 2**40], [2**64 - 1], [0] * 8, [])), "nbytes": 0}
    elif kind == 2:  # a few bytes that stand for 64 million zeros
        record |= {"shape": [1, 2**26], "codec": "topk", "nbytes": 4}
    elif kind == 3:
        stream = bomb(1 << 24)
        return [record | {"shape": [1, 1 << 22], "nbytes": len(stream), "inflated": 1 << 24}], stream
    elif kind == 4:
        record |= {"codec": one(rng, ["sign", "ternary", "int4", "bits", "int8"]), "shape": [1, 64]}
    elif kind == 5:
        record |= {"shape": one(rng, ([2**31, 2**31], [1, 3], [8]))}
    return [record], bytes(record["nbytes"])


def spoiled_report(rng: np.random.Generator, base: Base) -> list[Message]:
    place = {"uid": rng.bytes(16).hex(), "update_uid": base.reported, "node": REPORTER, "round": 1}
    kind = int(rng.integers(3))
    if kind == 0:
        blob, _ = energy_report(REPORTER, 1, place["update_uid"])
        tree, tensors = apart(blob)
        tree["uid"] = place["uid"]
    elif kind == 1:
        attack = AttackScore(attack="ratio", verdict="exact", psnr_db=100.0)
        tree, tensors = apart(messages.pack(Score(**place, samples=1, attacks=(attack, attack))))
    else:
        tree, _ = apart(messages.pack(Truth(**place, indices=(0,), labels=(3,), tensors=())))
        tree["tensors"], tensors = _images(rng)
    topic = (topics.truth if kind == 2 else topics.score)(RUN, REPORTER, 1)
    if not (kind == 2 and rng.integers(2)):
        tree = spoil(rng, tree)
    return [(topic, framed(packed(tree, tensors), place["uid"]))]


def spoiled_reconstruction(rng: np.random.Generator, base: Base) -> list[Message]:
    place = {"uid": rng.bytes(16).hex(), "update_uid": base.reported, "node": REPORTER, "round": 1}
    result = AttackResult(attack="ratio", verdict="exact", labels=(1,), images=0, objective=0.5)
    tree, _ = apart(messages.pack(Reconstruction(**place, results=(result,), noise=(result,), tensors=())))
    tree["tensors"], tensors = _images(rng)
    tree = spoil(rng, tree) if rng.integers(2) else tree
    return [(topics.recon_chunk(RUN, REPORTER, 1, 0), framed(packed(tree, tensors), place["uid"]))]


def spoiled_birth(rng: np.random.Generator, base: Base) -> list[Message]:
    node = one(rng, STRANGERS)
    state = NodeState(node=node, epoch=1, status="offline", board="pi")
    tree = msgspec.msgpack.decode(messages.encode(state))
    payload = msgspec.msgpack.encode(spoil(rng, tree))
    kind = int(rng.integers(4))
    payload = flipped(rng, payload) if kind == 0 else cut(rng, payload) if kind == 1 else payload
    return [(topics.node_state(RUN, one(rng, [node, NODE])), payload)] if payload else []


Family = Callable[[np.random.Generator, Base], list[Message]]
FAMILIES: dict[Family, int] = {
    mutants.random_bytes: 6,
    mutants.strange_topic: 3,
    mutants.broken_frame: 7,
    mutants.lying_header: 7,
    mutants.torn_object: 5,
    mutants.opened_only: 4,
    mutants.broken_head: 9,
    mutants.spoiled_update: 12,
    mutants.messagepack_bomb: 3,
    mutants.other_record: 1,
    mutants.foreign_update: 10,
    mutants.of_the_uninvited: 1,
    mutants.lying_tensors: 9,
    mutants.lying_values: 10,
    mutants.spoiled_tensor_bytes: 4,
    spoiled_report: 5,
    spoiled_reconstruction: 5,
    spoiled_birth: 4,
}
"""How many of a hundred draws go to each; `oversized_frame` is drawn apart: it is long."""


def bad_messages(rng: np.random.Generator, base: Base) -> Iterator[Message]:
    """Bad payloads without end, one frame each."""
    families = list(FAMILIES)
    weights = np.array(list(FAMILIES.values()), dtype=float)
    while True:
        for pick in rng.choice(len(families), size=1000, p=weights / weights.sum()):
            yield from families[pick](rng, base)
        yield from mutants.oversized_frame(rng, base)
