"""What a run asks of a cluster: CPUs and memory for itself and, beside it, for each of its attack jobs.

They are asked for together and given together or not at all (a placement group): no run that has a place can wait for
its attackers' places, nor several runs for each other's. A cluster that is too small for one run, or has become so, is
shared among the run's parts: each gets an n-th of what it asks for.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import msgspec

from deploy.study import Study, arms

RUN_BYTES = 3 * 2**29
ATTACK_BYTES = 2**29
_FINEST = 10_000
"""Ray counts CPUs in these parts."""


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A run itself, or one of its attack jobs.

    Attributes:
        cpus: CPUs, or a share of one.
        memory_bytes: Memory.
    """

    cpus: float
    memory_bytes: int

    def bundle(self) -> dict[str, float]:
        """As Ray has it."""
        return {"CPU": self.cpus, "memory": self.memory_bytes}


def attack_jobs(study: Study) -> int:
    """Attack jobs of a run: its workers, for each arm; none where its broker has no door for them."""
    if study.attack.attacks == () or study.broker.kind in {"external", "amqtt"}:
        return 0
    return study.attack.workers * len(arms(study, Path()))


def parts(study: Study, node_cpus: Sequence[float]) -> tuple[Part, ...]:
    """What a run asks for: first for itself, then for each attack job.

    Args:
        study: The run. An attack job asks for as many CPUs as it has threads.
        node_cpus: CPUs of each node of the cluster, in use or not; without any, as many as are asked for are taken to
            come (a cluster that grows).
    """
    wanted = [1] + [study.attack.threads] * attack_jobs(study)
    share = _share(wanted, node_cpus)
    return tuple(
        Part(
            cpus=count if share == 1 else math.floor(_FINEST * count / share) / _FINEST,
            memory_bytes=ATTACK_BYTES if index else RUN_BYTES,
        )
        for index, count in enumerate(wanted)
    )


def _share(wanted: Sequence[int], node_cpus: Sequence[float]) -> int:
    """The least n with room for an n-th of each part: the largest first, each where it leaves the least."""
    if not any(node_cpus):
        return 1
    return next(share for share in itertools.count(1) if _fit(wanted, [cpus * share for cpus in node_cpus]))


def _fit(wanted: Sequence[int], left: list[float]) -> bool:
    for count in sorted(wanted, reverse=True):
        places = [place for place, cpus in enumerate(left) if cpus >= count]
        if not places:
            return False
        left[min(places, key=left.__getitem__)] -= count
    return True
