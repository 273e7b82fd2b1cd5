"""A made-up run with the shape of a real one, for the report's tests; figures are close to those of a real run."""

from __future__ import annotations

import hashlib

import numpy as np

from contract.messages import AttackScore, Operations
from contract.task import EncodingSpec, ModelSpec, RoundPlan, TaskSpec, task_hash
from hardware.energy import EnergyReading, unavailable
from server.report.data import (
    Candidate,
    ConstantRow,
    Counts,
    Device,
    EnergyRow,
    Family,
    NoiseRow,
    OperationsRow,
    Picture,
    ReportData,
    RoundRow,
    ScoreRow,
    UpdateRow,
)

NODES = ("device-0", "device-1", "device-2", "device-3")
TRAIN, AUDIT = 10, 5
TRAIN_PLAN = RoundPlan(local_steps=4, batch_size=32, learning_rate=0.1)
AUDIT_PLAN = RoundPlan(kind="audit", algorithm="fedsgd", batch_size=1)
NO_METER = "no meter found: /sys/class/powercap has no readable domain"

LEVELS_DB = {
    ("snn", "audit"): {"ratio": (143.0, 4.0), "dlg": (5.0, 1.0), "cosine": (19.0, 4.0)},
    ("ann", "audit"): {"ratio": (146.0, 2.0), "dlg": (112.0, 12.0), "cosine": (45.0, 5.0)},
    ("snn", "train"): {"ratio": (11.6, 0.6), "dlg": (5.0, 0.5), "cosine": (9.0, 1.0)},
    ("ann", "train"): {"ratio": (12.1, 0.6), "dlg": (6.0, 0.5), "cosine": (9.5, 1.0)},
}


def uid(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def sample(rng: np.random.Generator) -> np.ndarray:
    grid = np.mgrid[0:28, 0:28]
    image = np.zeros((28, 28))
    for _ in range(7):
        centre = rng.uniform(8, 20, size=2)
        image += np.exp(-((grid - centre[:, None, None]) ** 2).sum(axis=0) / 6.0)
    return np.clip(image, 0, 1).astype(np.float32)[None]


def score(kind: str, family: str, attack: str, rng: np.random.Generator) -> AttackScore:
    samples = 1 if kind == "audit" else 128
    if attack == "idlg":
        right = samples if kind == "audit" else int(rng.integers(90, 128))
        return AttackScore(attack=attack, verdict="recovered", seconds=0.001, labels_right=right)
    centre, width = LEVELS_DB[family, kind][attack]
    if attack == "dlg" and kind == "train":
        reason = f"the network keeps 128 samples, this attack takes at most 8 (round {rng.integers(9)})"
        return AttackScore(attack=attack, verdict="refused", reason=reason)
    if attack == "dlg" and family == "snn" and rng.random() < 0.2:
        reason = f"objective not finite after {rng.integers(3, 40)} iterations"
        return AttackScore(attack=attack, verdict="failed", reason=reason, seconds=3.0)
    return AttackScore(
        attack=attack,
        verdict="exact" if centre > 100 and attack == "ratio" else "recovered" if centre > 40 else "partial",
        reason="",
        seconds={"ratio": 0.004, "dlg": 2.6, "cosine": 3.9}[attack],
        psnr_db=float(rng.normal(centre, width)),
        ssim=float(rng.uniform(0.2, 1.0)),
        sample=0,
        candidate=0,
        wrong_sample_db=float(rng.normal(9.0, 0.8)),
        mean_image_db=float(rng.normal(11.3, 0.7)),
        labels_right=1 if kind == "audit" else None,
    )


def make_family(family: str = "snn", *, seed: int = 3, nodes: tuple[str, ...] = NODES) -> Family:
    rng = np.random.default_rng(seed)
    task = TaskSpec(model=ModelSpec(family=family), encoding=EncodingSpec(kind="direct", steps=10))
    plans = [TRAIN_PLAN] * TRAIN + [AUDIT_PLAN] * AUDIT
    rounds, updates, energy, operations, scores, pictures = [], [], [], [], [], []
    for number, plan in enumerate(plans, start=1):
        accuracy = 0.93 * (1 - np.exp(-min(number, TRAIN) / 2.3)) - (0.02 if family == "snn" else 0.0)
        rounds.append(RoundRow(round=number, plan=plan, accuracy=accuracy, loss=0.4, updates=len(nodes)))
        for node in nodes:
            key = uid(family, node, number)
            samples = plan.batch_size * plan.local_steps
            updates.append(
                UpdateRow(uid=key, node=node, round=number, kind=plan.kind, samples=samples, payload_bytes=814_488)
            )
            operations.append(
                OperationsRow(node=node, round=number, kind=plan.kind, operations=Operations(macs=9, acs=5))
            )
            place = {"node": node, "round": number, "kind": plan.kind}
            base = samples * (2.6e-5 if family == "snn" else 1.9e-5)
            for phase, joules, scope in (
                ("encode", base * 0.04, "operations"),
                ("train", base * rng.uniform(0.95, 1.05), "operations"),
                ("compress", 2e-5, "operations"),
                ("transmit", 814_488 * 38.5e-9, "radio"),
            ):
                source = "model:wifi-pi1" if scope == "radio" else "model:horowitz-45nm"
                reading = EnergyReading(
                    energy_j=joules, duration_s=0.1, source=source, scope=scope, provenance="modelled"
                )
                energy.append(EnergyRow(phase=phase, reading=reading, **place))
            energy += [
                EnergyRow(phase=phase, reading=unavailable("none", "board", NO_METER), **place)
                for phase in ("idle", "load", "encode", "train", "compress", "transmit")
            ]
            found = [score(plan.kind, family, attack, rng) for attack in ("idlg", "ratio", "dlg", "cosine")]
            scores += [ScoreRow(update=key, samples=samples, score=one, **place) for one in found]
            if plan.kind == "audit" and len(pictures) < 4:
                truth = sample(rng)
                candidates = [
                    Candidate(
                        score=one,
                        image=None
                        if one.psnr_db is None
                        else np.clip(truth + rng.normal(size=truth.shape) * 10 ** (-one.psnr_db / 20), 0, 1).astype(
                            np.float32
                        ),
                    )
                    for one in found
                ]
                pictures.append(
                    Picture(update=key, sample=0, truth=truth, label=4, candidates=tuple(candidates), **place)
                )
    return Family(
        title="SNN" if family == "snn" else "ANN twin",
        status="finished",
        task=task,
        task_hash=task_hash(task),
        rounds=tuple(rounds),
        rounds_planned=len(plans),
        devices=tuple(Device(node=n, board="x86_64", engine="torch", meter="none", samples=1000) for n in nodes),
        updates=tuple(updates),
        counts=Counts(published=len(updates), admitted=len(updates), refused=0, lost=0, duplicated=0),
        bytes_up=814_488 * len(updates),
        evaluated_on=1000,
        energy=tuple(energy),
        operations=tuple(operations),
        scores=tuple(scores),
        noise=tuple(NoiseRow(update=updates[-1].uid, attack=a, verdict="failed") for a in ("ratio", "dlg", "cosine")),
        pictures=tuple(pictures),
        wall_s=37.5,
    )


def make_report(*, nodes: tuple[str, ...] = NODES) -> ReportData:
    return ReportData(
        name="demo",
        snn=make_family("snn", nodes=nodes),
        twin=make_family("ann", nodes=nodes),
        configuration='[run]\nname = "demo"\nclients = 4\n\n[[schedule]]\nkind = "train"\nrounds = 10\n',
        versions=(("spikeleak", "0.1.0"), ("python", "3.11.9"), ("torch", "2.13.0")),
        broker="mosquitto 2.0.11, MQTT 5",
        threat=(("vantage", "server"), ("architecture", "known"), ("labels", "not known")),
        constants=(
            ConstantRow(name="fp32 add", value=0.9, unit="pJ", node="45 nm", source="Horowitz, ISSCC 2014"),
            ConstantRow(name="fp32 multiply", value=3.7, unit="pJ", node="45 nm", source="Horowitz, ISSCC 2014"),
        ),
        without_figure=(("sleep", "no source for the sleep current of an emulated device"),),
    )


def test_synthetic_run_has_every_part() -> None:
    data = make_report()
    for family in data.families:
        assert len(family.updates) == (TRAIN + AUDIT) * len(NODES)
        assert {row.kind for row in family.scores} == {"train", "audit"}
        assert len(family.pictures) == 4
