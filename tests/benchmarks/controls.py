"""Negative controls: updates of which nothing may be certified but what is true of them.

python -m tests.benchmarks.controls [CASE ...] [--tampers T ...] [--seeds N] [--budget SECONDS]

A control is a case (a real update) and a tamper (what is wrong with it, or with what the attacker believes). All
attacks but those by optimisation run, each with the whole budget. An `exact` verdict is *false* when a sample, its
order or its label is not that of the update as it was given; where it is the truth all the same, since the attack did
not need what was wrong, it is counted apart. An attack that used up its budget is counted as cut.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np
import torch

from attack.ladder import attempt
from attack.method import Finding
from attack.methods import METHODS
from attack.threat import Observation
from contract.datasets import load
from contract.encodings import encode
from contract.metrics import psnr_matrix
from contract.models.layout import initial_parameters
from contract.task import EncodingSpec, RoundPlan, TaskSpec
from tests.attack_updates import gradients, observe, parameters_of, task_of

SEARCHES = ("dlg", "dlg_faint", "cosine", "grnn")
"""Attacks by optimisation: they certify by the same forward simulation as the others."""
SAME_DB = 40.0
"""PSNR from which an image counts as the sample: what int8 leaves of it."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A kind of update."""

    encoding: str = "direct"
    steps: int = 6
    batch: int = 1
    local_steps: int = 1
    codec: Any = "fp32"
    family: str = "snn"
    conv: bool = False

    def task(self, seed: int) -> TaskSpec:
        """784-128-10, or one convolution of six channels and a readout."""
        shape: dict[str, Any] = {"hidden": (128,)}
        if self.conv:
            shape = {"channels": (6,), "hidden": (), "stride": 1}
        task = task_of("mnist5k", family=self.family, kind=self.encoding, steps=self.steps, weight_bits=None, **shape)
        kind: Any = "conv" if self.conv else "fc"
        return msgspec.structs.replace(task, seed=seed + 1, model=msgspec.structs.replace(task.model, kind=kind))

    def plan(self) -> RoundPlan:
        """FedSGD for one step, FedAvg for several."""
        algorithm: Any = "fedsgd" if self.local_steps == 1 else "fedavg"
        return RoundPlan(
            algorithm=algorithm,
            batch_size=self.batch,
            local_steps=self.local_steps,
            learning_rate=0.1,
            codec=self.codec,
        )


CASES: dict[str, Case] = {
    "direct-1": Case(),
    "direct-4": Case(batch=4),
    "direct-8": Case(batch=8),
    "direct-4-local2": Case(batch=4, local_steps=2),
    "direct-1-int8": Case(codec="int8"),
    "direct-8-int8": Case(batch=8, codec="int8"),
    "rate-1": Case(encoding="rate"),
    "rate-4": Case(encoding="rate", batch=4),
    "rate-8": Case(encoding="rate", batch=8, steps=4),
    "rate-2-local2": Case(encoding="rate", batch=2, local_steps=2),
    "rate-1-int8": Case(encoding="rate", codec="int8"),
    "latency-1": Case(encoding="latency"),
    "latency-4": Case(encoding="latency", batch=4),
    "conv-direct-1": Case(conv=True),
    "conv-rate-1": Case(conv=True, encoding="rate"),
    "conv-direct-4": Case(conv=True, batch=4),
    "twin-1": Case(family="ann"),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class World:
    """A real update, and what only the scorer knows."""

    case: Case
    observation: Observation
    x: np.ndarray
    y: np.ndarray
    frames: np.ndarray
    other: Observation
    seed: int

    @property
    def rng(self) -> np.random.Generator:
        """For the tampering."""
        return np.random.default_rng([self.seed, 3])


def world(case: Case, seed: int) -> World:
    """Two updates of one model on distinct samples; the first is attacked."""
    data, task, plan = load("mnist5k"), case.task(seed), case.plan()
    count = case.batch * case.local_steps
    chosen = np.random.default_rng([seed, 1]).choice(len(data.x), 2 * count, replace=False)
    x, y = np.array(data.x[chosen]), np.array(data.y[chosen])
    drawn = np.random.default_rng(seed)
    frames = [encode(task.encoding, part, drawn) for part in np.split(x[:count], case.local_steps)]
    return World(
        case=case,
        observation=observe(task, x[:count], y[:count], plan, seed=seed),
        x=x[:count],
        y=y[:count],
        frames=np.concatenate(frames, axis=1).swapaxes(0, 1),
        other=observe(task, x[count:], y[count:], plan, seed=seed),
        seed=seed,
    )


Tamper = Callable[[World], Observation | None]
"""A false observation; `None` where the tamper does not apply to the case."""


def _noise(w: World) -> Observation:
    def noisy(tensor: np.ndarray) -> np.ndarray:
        drawn = w.rng.normal(size=tensor.shape)
        return (drawn * np.linalg.norm(tensor) / np.linalg.norm(drawn)).astype(np.float32)

    return replace(w.observation, update={name: noisy(tensor) for name, tensor in w.observation.update.items()})


def _other_seed(w: World) -> Observation:
    other = initial_parameters(w.case.task(w.seed + 90), w.observation.shape, w.observation.classes)
    return replace(w.observation, _parameters=other)


def _step_further(w: World) -> Observation:
    x, y, task = w.x, w.y, w.case.task(w.seed)
    start = parameters_of(task)
    g = gradients(task, start, encode(task.encoding, x[::-1], w.rng), y[::-1].copy())
    return replace(w.observation, _parameters={name: start[name] - np.float32(0.1) * g[name] for name in start})


def _mixed_layers(w: World) -> Observation:
    first = w.observation.first_layer.name
    theirs = {n: t for n, t in w.other.update.items() if not n.startswith(f"{first}.")}
    return replace(w.observation, update={**w.observation.update, **theirs})


def _shuffled_columns(w: World) -> Observation:
    name = f"{w.observation.first_layer.name}.weight"
    weight = w.observation.update[name]
    flat = weight.reshape(len(weight), -1)
    shuffled = flat[:, w.rng.permutation(flat.shape[1])].reshape(weight.shape)
    return replace(w.observation, update={**w.observation.update, name: shuffled})


def _shuffled(w: World) -> World:
    """The samples that a dense layer's gradient with shuffled columns holds: their inputs shuffled alike."""
    order = w.rng.permutation(w.x[0].size)
    x, frames = (a.reshape(*a.shape[:k], -1)[..., order].reshape(a.shape) for a, k in ((w.x, 1), (w.frames, 2)))
    return w if w.case.conv else replace(w, x=x, frames=frames)


def _shuffled_rows(w: World) -> Observation:
    name = f"{w.observation.first_layer.name}.weight"
    weight = w.observation.update[name]
    return replace(w.observation, update={**w.observation.update, name: weight[w.rng.permutation(len(weight))]})


def _wrong_scales(w: World) -> Observation:
    factors = iter(w.rng.uniform(0.5, 2.0, len(w.observation.update)))
    scaled = {name: (tensor * next(factors)).astype(np.float32) for name, tensor in w.observation.update.items()}
    return replace(w.observation, update=scaled)


def _learning_rate(w: World) -> Observation | None:
    if w.case.local_steps == 1:
        return None
    return replace(w.observation, _plan=msgspec.structs.replace(w.observation.plan, learning_rate=0.05))


def _batch_size(w: World) -> Observation:
    size = w.case.batch // 2 if w.case.batch > 1 else 2
    plan = msgspec.structs.replace(w.observation.plan, batch_size=size)
    return replace(w.observation, samples=size * w.case.local_steps, _plan=plan)


def _local_steps(w: World) -> Observation | None:
    if w.case.batch < 2 or w.case.local_steps > 1:
        return None
    size = w.case.batch // 2
    plan = RoundPlan(algorithm="fedavg", batch_size=size, local_steps=2, learning_rate=1.0)
    return replace(w.observation, _plan=plan)


def _believes(change: Callable[[TaskSpec], TaskSpec]) -> Tamper:
    def tampered(w: World) -> Observation | None:
        task = change(w.case.task(w.seed))
        return None if w.case.family == "ann" else replace(w.observation, _task=task)

    return tampered


def _neuron(**fields: Any) -> Tamper:
    return _believes(lambda t: msgspec.structs.replace(t, neuron=msgspec.structs.replace(t.neuron, **fields)))


def _other_encoding(task: TaskSpec) -> TaskSpec:
    kind: Any = {"direct": "rate", "rate": "latency", "latency": "rate"}[task.encoding.kind]
    return msgspec.structs.replace(task, encoding=EncodingSpec(kind=kind, steps=task.encoding.steps))


def _steps(change: int) -> Tamper:
    def changed(task: TaskSpec) -> TaskSpec:
        encoding = msgspec.structs.replace(task.encoding, steps=task.encoding.steps + change)
        return msgspec.structs.replace(task, encoding=encoding)

    return _believes(changed)


TAMPERS: dict[str, Tamper] = {
    "noise": _noise,
    "model of another seed": _other_seed,
    "model one step further": _step_further,
    "readout of another update": _mixed_layers,
    "shuffled columns": _shuffled_columns,
    "shuffled rows": _shuffled_rows,
    "wrong scales": _wrong_scales,
    "learning rate": _learning_rate,
    "batch size": _batch_size,
    "local steps": _local_steps,
    "two steps more": _steps(2),
    "a step less": _steps(-1),
    "encoding": _believes(_other_encoding),
    "surrogate": _neuron(surrogate="fast_sigmoid"),
    "decay": _neuron(beta=0.8),
    "reset": _neuron(reset="none", threshold=0.5),
}


def is_truth(finding: Finding, w: World) -> bool:
    """Whether each claimed sample, its order and its label are those of the update."""
    assert finding.images is not None
    if finding.frames is None:
        matrix = psnr_matrix(finding.images.reshape(len(finding.images), -1), w.x.reshape(len(w.x), -1))
        found = [int(row.argmax()) if row.max() >= SAME_DB else -1 for row in matrix]
    else:
        place = {_train(sample): k for k, sample in enumerate(w.frames)}
        found = [place.get(_train(sample), -1) for sample in finding.frames]
    labelled = len(finding.labels) == len(found)
    right = all(not labelled or w.y[k] == finding.labels[i] for i, k in enumerate(found) if k >= 0)
    return -1 not in found and len(set(found)) == len(found) and right


def _train(sample: np.ndarray) -> bytes:
    return np.ascontiguousarray(sample[sample.reshape(len(sample), -1).any(axis=1)].astype(np.uint8)).tobytes()


@dataclass(kw_only=True)
class Tally:
    """What came of all controls."""

    controls: int = 0
    false: list[str]
    true: Counter[str]
    cut: Counter[str]
    crashed: list[str]

    def control(self, name: str, tamper: str, w: World, budget_s: float) -> None:
        """Attacks one control."""
        observation = TAMPERS[tamper](w)
        if observation is None:
            return
        self.controls += 1
        for attack, method in METHODS.items():
            if attack in SEARCHES:
                continue
            began = time.process_time()
            finding = attempt(method, observation, budget_s)
            self.cut[attack] += time.process_time() - began >= budget_s
            where = f"{name} / {tamper} / seed {w.seed} / {attack}: {finding.reason}"
            if "crashed" in finding.reason:
                self.crashed.append(where)
            if finding.verdict == "exact" and finding.images is not None:
                if is_truth(finding, _shuffled(w) if tamper == "shuffled columns" else w):
                    self.true[f"{tamper}: {attack}"] += 1
                else:
                    self.false.append(where)

    def lines(self) -> list[str]:
        """The outcome in words."""
        return [
            f"{self.controls} controls, {len(self.false)} false certificates, {len(self.crashed)} crashes",
            *(f"FALSE {one}" for one in self.false),
            *(f"CRASHED {one}" for one in self.crashed),
            f"certified and true all the same: {dict(self.true) or 'none'}",
            f"cut by the budget: {dict(+self.cut) or 'none'}",
        ]


def tally() -> Tally:
    """An empty one."""
    return Tally(false=[], true=Counter(), cut=Counter(), crashed=[])


def main() -> None:
    """Runs the named cases, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", default=list(CASES))
    parser.add_argument("--tampers", nargs="*", metavar="TAMPER", default=list(TAMPERS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--budget", type=float, default=5.0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.ERROR)  # crashes are counted
    total = tally()
    for name in asked.cases:
        for seed in range(asked.seeds):
            w = world(CASES[name], seed)
            for tamper in asked.tampers:
                before, began = len(total.false), time.process_time()
                total.control(name, tamper, w, asked.budget)
                said = "FALSE" if len(total.false) > before else "ok"
                print(f"{name:16} {tamper:26} {said:6} {time.process_time() - began:6.1f} s", flush=True)
    print(*total.lines(), sep="\n")


if __name__ == "__main__":
    main()
