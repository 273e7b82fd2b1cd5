"""One example of every record, shared by all tests of the wire."""

from __future__ import annotations

import numpy as np

from contract.codecs import encode_tensors
from contract.messages import (
    Ack,
    Aggregate,
    AggregatePart,
    AttackResult,
    AttackScore,
    EnergyReport,
    GraphRecord,
    KeyOffer,
    KeyPair,
    MaskingCost,
    Message,
    Model,
    NodeBytes,
    NodeState,
    Operations,
    PhaseEnergy,
    Reconstruction,
    Reveal,
    Roster,
    Score,
    ServerState,
    ShareBundle,
    ShareOffer,
    Survivors,
    TaskManifest,
    Truth,
    Update,
)
from contract.task import EncodingSpec, RoundPlan, TaskSpec, task_hash
from hardware.baseline import Baseline
from hardware.energy import EnergyReading, unavailable

UID, OTHER_UID = "00112233445566778899aabbccddeeff", "f" * 32
TASK = TaskSpec(dataset="digits", encoding=EncodingSpec(kind="rate", steps=4))
HASH = task_hash(TASK)
_RNG = np.random.default_rng(0)
WEIGHTS = {"layers.0.weight": _RNG.standard_normal((3, 4)), "layers.0.bias": np.zeros(3), "empty": np.zeros((0, 2))}
READING = EnergyReading(
    energy_j=0.25, duration_s=0.5, source="model:horowitz-45nm", scope="operations", provenance="modelled"
)


def _packed(codec: str):
    return encode_tensors(codec, {k: v.astype(np.float32) for k, v in WEIGHTS.items()}, np.random.default_rng(1))


FP32, FP16, INT8 = (_packed(codec) for codec in ("fp32", "fp16", "int8"))
GRAPH = GraphRecord(name="training", sha256="a1" * 32, nbytes=65_000)
_PLACE = {"uid": UID, "update_uid": OTHER_UID, "node": "pi-1", "round": 3}

_OPENING = {"node": "pi-1", "epoch": 2, "round": 3, "attempt": 1}
KEYS = KeyPair(node="pi-1", cipher_key=b"k" * 32, mask_key=b"m" * 32)
COST = MaskingCost(bytes_up=9, bytes_down=8, computing=(READING,), sending=READING)

EXAMPLES: tuple[tuple[Message, list], ...] = (
    (NodeState(node="pi-1", epoch=2, status="online", board="pi5", engine="onnx", meter="ina219", samples=60), []),
    (TaskManifest(run="lab", task=TASK, task_hash=HASH), []),
    (ServerState(run="lab", status="open", epoch=1, round=3, rounds=9, selected=("pi-1", "pi-2"), deadline_s=30.0), []),
    (Model(version=7, task_hash=HASH, tensors=FP32[0]), FP32[1]),
    *(
        (
            Update(
                uid=UID,
                node="pi-1",
                epoch=2,
                round=3,
                model_version=7,
                task_hash=HASH,
                plan=RoundPlan(codec=codec),
                samples=32,
                loss=2.3,
                tensors=packed[0],
            ),
            packed[1],
        )
        for codec, packed in (("fp32", FP32), ("fp16", FP16), ("int8", INT8))
    ),
    (
        Aggregate(
            uid=UID,
            seen="aggregate",
            round=3,
            model_version=7,
            task_hash=HASH,
            plan=RoundPlan(),
            parts=(AggregatePart("pi-1", OTHER_UID, 32),),
            errors=(1e-5,) * len(FP32[0]),
            tensors=FP32[0],
        ),
        FP32[1],
    ),
    (Ack(uid=UID, status="missing", missing=(0, 5)), []),
    (
        EnergyReport(
            **_PLACE,
            operations=Operations(macs=10, spikes=3, spike_sites=9, active=(4, 3), sites=(8, 9)),
            payload_bytes=99,
            phases=(PhaseEnergy(phase="train", readings=(READING, unavailable("rapl", "package", "not readable"))),),
            baselines=(
                Baseline(
                    source="rapl:package-0", scope="package", power_w=3.5, stdev_w=0.1, duration_s=5.0, windows=10
                ),
                Baseline(source="tasmota:plug", scope="wall", power_w=None, reason="no report"),
            ),
        ),
        [],
    ),
    (
        Reconstruction(
            **_PLACE,
            results=(
                AttackResult(attack="ratio", verdict="exact", labels=(3,), images=0, frames=-1),
                AttackResult(attack="dlg", verdict="failed", reason="NaN", objective=0.5),
            ),
            tensors=FP32[0],
        ),
        FP32[1],
    ),
    (Score(**_PLACE, samples=1, attacks=(AttackScore(attack="ratio", verdict="exact", psnr_db=144.0, sample=0),)), []),
    (Truth(**_PLACE, indices=(0,), labels=(3,), tensors=FP32[0]), FP32[1]),
    (TaskManifest(run="lab", task=TASK, task_hash=HASH, graphs=(GRAPH,)), []),
    (KeyOffer(**_OPENING, keys=KEYS), []),
    (Roster(round=3, attempt=1, threshold=2, keys=(KEYS,)), []),
    (ShareOffer(**_OPENING, commitment=b"c" * 32, shares=(NodeBytes("pi-2", b"s" * 48),)), []),
    (ShareBundle(round=3, attempt=1, shares=(NodeBytes("pi-2", b"s" * 48),)), []),
    (Survivors(round=3, attempt=1, nodes=("pi-1", "pi-2")), []),
    (Reveal(**_OPENING, seeds=(NodeBytes("pi-1", b"o" * 16),), keys=(NodeBytes("pi-3", b"o" * 16),), cost=COST), []),
)
