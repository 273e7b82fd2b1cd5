"""What work is said to cost beside what it takes: nominal over processor seconds of each attack, on true updates.

python -m tests.benchmarks.clock [UPDATE ...] [--attack NAME ...] [--budget SECONDS] [--short]

Attacks that are refused or take next to nothing are left out. Ratios within a factor of 2 of 1 are what `attack.costs`
is calibrated for, on one thread.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import numpy as np
import torch

from attack.clock import processor_s, running
from attack.counting import counted
from attack.ladder import attempt
from attack.methods import KNOWN
from attack.threat import Observation
from contract.datasets import load
from tests import attack_updates
from tests.science.image_updates import observe, task_of

LEAST_S = 0.02
"""Processor seconds below which an attack's ratio is noise."""


def _update(count: int = 1, codec: str = "fp32", local_steps: int = 1, **task: object) -> Callable[[], Observation]:
    def made() -> Observation:
        spec = task_of(**task)
        data, rng = load(spec.dataset), np.random.default_rng(7)
        chosen = rng.choice(len(data.x), count, replace=False)
        return observe(spec, np.array(data.x[chosen]), data.y[chosen], codec=codec, local_steps=local_steps)[0]

    return made


def _latency() -> Observation:
    data = load("mnist5k")
    task = attack_updates.task_of("mnist5k", hidden=(256,), steps=16, kind="latency")
    return attack_updates.observe(task, np.array(data.x[:1]), np.array(data.y[:1]))


_CONV = {"kind": "conv", "channels": (8,), "hidden": ()}
UPDATES: dict[str, Callable[[], Observation]] = {
    "direct": _update(),
    "direct-B4": _update(4),
    "direct-B16-int8": _update(16, "int8"),
    "direct-topk": _update(codec="topk"),
    "rate": _update(encoding="rate"),
    "rate-T25": _update(encoding="rate", steps=25, surrogate="fast_sigmoid"),
    "rate-B4": _update(4, encoding="rate"),
    "rate-int8": _update(codec="int8", encoding="rate"),
    "rate-narrow": _update(hidden=(32,), encoding="rate", dataset="digits"),
    "latency": _latency,
    "ann": _update(family="ann"),
    "conv": _update(**_CONV),
    "conv-rate": _update(encoding="rate", **_CONV),
    "conv-two": _update(kind="conv", channels=(8, 16), hidden=()),
}
SHORT = ("direct-B4", "rate-narrow")


def ratios(observation: Observation, attacks: Sequence[str], budget_s: float) -> dict[str, tuple[float, float]]:
    """Nominal and processor seconds of each attack that is not refused."""
    found = {}
    for name in attacks:
        with running("work", budget_s) as spent_s:
            began_s = processor_s()
            finding = attempt(KNOWN[name], observation, budget_s)
            if finding.verdict != "refused":
                found[name] = (spent_s(), processor_s() - began_s)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a line for each attack and update, and the least and largest ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("updates", nargs="*", choices=[*UPDATES, []], default=[])
    parser.add_argument("--attack", nargs="+", choices=list(KNOWN), default=list(KNOWN))
    parser.add_argument("--budget", type=float, default=2.0)
    parser.add_argument("--short", action="store_true")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with running("work", 1.0), counted():
        torch.ones(1).sum()  # what counting imports when it is first asked for
    seen: dict[str, float] = {}
    for update in options.updates or (SHORT if options.short else UPDATES):
        for name, (nominal_s, taken_s) in ratios(UPDATES[update](), options.attack, options.budget).items():
            if taken_s >= LEAST_S:
                seen[f"{name} on {update}"] = nominal_s / taken_s
                print(
                    f"{update:16} {name:24} {nominal_s:7.3f} / {taken_s:7.3f} s = {nominal_s / taken_s:5.2f}",
                    flush=True,
                )
    if seen:
        least, most = min(seen, key=seen.__getitem__), max(seen, key=seen.__getitem__)
        print(f"{len(seen)} attacks: {seen[least]:.2f} ({least}) to {seen[most]:.2f} ({most})")


if __name__ == "__main__":
    main()
