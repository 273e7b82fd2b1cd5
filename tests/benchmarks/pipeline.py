"""The ladder against every stage of the update pipeline: ``python -m tests.benchmarks.pipeline [N] [BUDGET_S]``.

Prints for each pipeline the updates, how many findings were certified exact, how many of those the truth gives the lie
(certified frames that are not the sample's, or without frames a certified image below `TRUE_DB`), and the median over
the updates of the best PSNR of any attack; an update without an image counts as the worst.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping

import msgspec
import numpy as np
import torch

from attack.ladder import climb
from attack.method import Finding, Method
from attack.methods import METHODS
from attack.threat import Observation, ThreatModel
from contract.codecs import buffer_view, decode_tensors
from contract.datasets import dataset_info, load
from contract.encodings import encode, intensities
from contract.metrics import psnr
from contract.pipeline import pipeline
from contract.task import RoundPlan, TaskSpec
from edge_client.pipeline import press
from tests.attack_updates import gradients, parameters_of, task_of

TRUE_DB = 40.0
AUDIT = RoundPlan(kind="audit", algorithm="fedsgd", batch_size=1)
PLANS: dict[str, RoundPlan] = {
    "fp32": AUDIT,
    "fp16": msgspec.structs.replace(AUDIT, codec="fp16"),
    "int8": msgspec.structs.replace(AUDIT, codec="int8"),
    "int4": msgspec.structs.replace(AUDIT, codec="int4"),
    "ternary": msgspec.structs.replace(AUDIT, codec="ternary"),
    "sign": msgspec.structs.replace(AUDIT, codec="sign"),
    "topk 50 %": msgspec.structs.replace(AUDIT, codec="topk", share=0.5),
    "topk 10 %": msgspec.structs.replace(AUDIT, codec="topk", share=0.1),
    "topk 1 %": msgspec.structs.replace(AUDIT, codec="topk"),
    "clip": msgspec.structs.replace(AUDIT, clip_norm=1e-3),
    "clip, int8": msgspec.structs.replace(AUDIT, clip_norm=1e-3, codec="int8"),
    "clip, noise 1e-4": msgspec.structs.replace(AUDIT, clip_norm=1.0, noise_multiplier=1e-4),
    "clip, noise 1e-2": msgspec.structs.replace(AUDIT, clip_norm=1.0, noise_multiplier=1e-2),
    "clip, noise 1": msgspec.structs.replace(AUDIT, clip_norm=1.0, noise_multiplier=1.0),
    "sign, fed back": RoundPlan(algorithm="fedsgd", batch_size=1, codec="sign"),
    "ternary, fed back": RoundPlan(algorithm="fedsgd", batch_size=1, codec="ternary", error_feedback=True),
    "topk 10 %, fed back": RoundPlan(algorithm="fedsgd", batch_size=1, codec="topk", share=0.1),
}


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """One update: findings certified, those of them that are false, and the best PSNR of any attack (-inf: none)."""

    certified: tuple[str, ...]
    false: tuple[str, ...]
    best_db: float


class Truth(msgspec.Struct, frozen=True, kw_only=True):
    """What is behind an update of one sample: its image, and its frames `[T, *shape]`."""

    image: np.ndarray
    frames: np.ndarray


def observations(task: TaskSpec, plan: RoundPlan, count: int, seed: int = 0) -> list[tuple[Observation, Truth]]:
    """Successive updates of one device, residuals carried over, each of one sample, which is given with it."""
    info = dataset_info(task.dataset)
    data, parameters = load(task.dataset), parameters_of(task)
    rng = np.random.default_rng([seed, 77])
    residual, found = None, []
    for _ in range(count):
        drawn = rng.choice(len(data.x), 1)
        frames = encode(task.encoding, data.x[drawn], rng)
        update = gradients(task, parameters, frames, data.y[drawn])
        pressed = press(pipeline(plan), update, residual, lambda _purpose: rng)
        residual = pressed.residual
        observation = Observation(
            threat=ThreatModel(),
            shape=info.shape,
            classes=info.classes,
            samples=1,
            update=decode_tensors(pressed.records, [buffer_view(buffer) for buffer in pressed.buffers]),
            seed=int(rng.integers(2**31)),
            _task=task,
            _plan=plan,
            _parameters=parameters,
            _records={record.name: record for record in pressed.records},
        )
        found.append((observation, Truth(image=intensities(task.encoding, data.x[drawn])[0], frames=frames[:, 0])))
    return found


def trial(observation: Observation, truth: Truth, methods: Mapping[str, Method], budget_s: float) -> Trial:
    """Climbs the whole ladder and holds every finding against the truth."""
    certified, false, best = [], [], -np.inf
    for rung in climb(observation, methods, budget_s=budget_s, exhaustive=True):
        finding = rung.finding
        if finding.images is None:
            continue
        best = max(best, *(psnr(image, truth.image) for image in finding.images))
        if finding.verdict == "exact":
            certified.append(rung.attack)
            if not _true(finding, truth):
                false.append(rung.attack)
    return Trial(certified=tuple(certified), false=tuple(false), best_db=float(best))


def _true(finding: Finding, truth: Truth) -> bool:
    assert finding.images is not None
    if finding.frames is not None:
        return all(np.array_equal(frames, truth.frames) for frames in finding.frames)
    return all(psnr(image, truth.image) >= TRUE_DB for image in finding.images)


def sweep(task: TaskSpec, name: str, count: int, methods: Mapping[str, Method], budget_s: float) -> list[Trial]:
    """All updates of one pipeline; prints its line."""
    trials = [trial(*pair, methods, budget_s) for pair in observations(task, PLANS[name], count)]
    certified = sum(bool(one.certified) for one in trials)
    false = sum(len(one.false) for one in trials)
    median = float(np.median([one.best_db for one in trials]))
    print(
        f"{task.encoding.kind:7} {name:20} n={len(trials):3}  certified updates {certified:3}  false certificates "
        f"{false}  median best PSNR {median:6.1f} dB",
        flush=True,
    )
    return trials


def main() -> None:
    """Direct and rate coding, all pipelines."""
    logging.disable(logging.ERROR)
    torch.set_num_threads(1)
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    budget_s = float(sys.argv[2]) if len(sys.argv) > 2 else 2.0
    for kind, steps in (("direct", 10), ("rate", 6), ("latency", 6)):
        task = task_of(kind=kind, steps=steps)
        for name in PLANS:
            sweep(task, name, count, METHODS, budget_s)


if __name__ == "__main__":
    main()
