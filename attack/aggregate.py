"""What several devices' updates come to, made ready for a ladder that attacks updates.

At the same weights the mean of the mean gradients of n batches of B samples is the mean gradient of one batch of n B:
the union of the devices' samples is what there is to find. Of FedAvg it is the first step's alone that are at the same
weights; later ones lie on a path of each device's own, which no simulation of one path reproduces: closed forms on the
first layer hold all the same, certificates by simulation do not, and say so.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping

import msgspec

from contract.errors import WireError
from contract.messages import Aggregate, Reconstruction, Update
from contract.task import RoundPlan


def as_update(aggregate: Aggregate) -> Update:
    """The update of one device that would look the same, up to rounding.

    Raises:
        WireError: Not one error for each tensor.
    """
    if len(aggregate.errors) != len(aggregate.tensors):
        raise WireError(f"{len(aggregate.errors)} errors of {len(aggregate.tensors)} tensors: one for each")
    samples = sum(part.samples for part in aggregate.parts)
    return Update(
        uid=aggregate.uid,
        node=aggregate.seen,
        epoch=0,
        round=aggregate.round,
        model_version=aggregate.model_version,
        task_hash=aggregate.task_hash,
        plan=_plan_of(aggregate.plan, len(aggregate.parts), samples),
        samples=samples,
        loss=None,
        tensors=aggregate.tensors,
    )


def _plan_of(plan: RoundPlan, devices: int, samples: int) -> RoundPlan:
    """The plan of such an update. Independent noise of n devices has the n-th part of its variance in their mean."""
    return msgspec.structs.replace(
        plan,
        batch_size=max(1, samples // plan.local_steps),
        noise_multiplier=plan.noise_multiplier / math.sqrt(devices),
        codec="fp32",
        error_feedback=None,
        compression="none",
    )


def errors_of(aggregate: Aggregate, names: Mapping[str, str]) -> dict[str, float]:
    """Largest absolute error of an element, by the names that the attacks know the tensors by.

    Args:
        aggregate: What is attacked.
        names: The network's name of each tensor by theirs.
    """
    stated = {record.name: error for record, error in zip(aggregate.tensors, aggregate.errors, strict=True)}
    return {alias: stated[name] for alias, name in names.items()}


def addressed_messages(message: Reconstruction, aggregate: Aggregate) -> Iterator[Reconstruction]:
    """The answer to an aggregate as each of its devices gets it, with the noise control in the first alone.

    Its tensors lie behind all others.
    """
    own = len(message.tensors) - sum(result.images >= 0 for result in message.noise)
    for index, part in enumerate(aggregate.parts):
        yield msgspec.structs.replace(
            message,
            uid=hashlib.sha256(f"{message.uid} {part.uid}".encode()).hexdigest()[:32],
            update_uid=part.uid,
            node=part.node,
            noise=() if index else message.noise,
            tensors=message.tensors[:own] if index else message.tensors,
            seen=aggregate.seen,
        )
