"""A traced graph against the user's own module and torch's autograd, on random batches.

Parameters are the factory's own, also 3 and 10 times as large so that neurons spike. Where a membrane lies within
rounding of its threshold a spike may flip and the batch differs: one such batch is let pass and counted; a wrong graph
differs in nearly all.
"""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy

from contract.models.own import UserNetwork
from contract.task import TaskSpec
from server.graphs.checking import Arrays, run, session

TOLERANCE = 1e-4
"""Greatest error of an output, over its greatest magnitude in the batch, that rounding is allowed."""
_QUIET = 1e-3
MOST_DIFFERING = 1
"""Batches that may differ by more."""
GAINS, SAMPLES = (1.0, 3.0, 10.0), (1, 5)


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """What was found.

    Attributes:
        batches: That were compared.
        differing: Of them, those where an output is off by more than `TOLERANCE`.
        error: Greatest relative error in the others.
        worst: Output with the greatest error of all.
    """

    batches: int
    differing: int
    error: float
    worst: str


def compare(blob: bytes, network: UserNetwork, task: TaskSpec, shape: tuple[int, ...], classes: int) -> Comparison:
    """Runs graph and module on the same batches.

    Args:
        blob: The graph of either name.
        network: The user's network.
        task: States it.
        shape: Shape of one sample.
        classes: Number of classes.
    """
    opened = session(blob)
    generator = torch.Generator().manual_seed(task.seed)
    found: list[tuple[Arrays, Arrays]] = []
    for gain, samples in itertools.product(GAINS, SAMPLES):
        feed = _batch(network, task, shape, classes, gain=gain, samples=samples, generator=generator)
        found.append((run(opened, feed), stepped(network, feed)))
    loudest = {name: max(float(np.abs(own[name]).max()) for _, own in found) or 1.0 for name in found[0][0]}
    errors = [
        {name: float(np.abs(got - own[name]).max()) / _scale(own[name], loudest[name]) for name, got in made.items()}
        for made, own in found
    ]
    worst_of = [max(each.values()) for each in errors]
    agreeing = [error for error in worst_of if error <= TOLERANCE]
    last = errors[int(np.argmax(worst_of))]
    return Comparison(
        batches=len(found),
        differing=len(found) - len(agreeing),
        error=max(agreeing, default=max(worst_of)),
        worst=max(last, key=lambda name: last[name]),
    )


def _scale(value: NDArray[Any], loudest: float) -> float:
    """Greatest magnitude of an output in its batch; what is next to nothing is measured by the loudest batch."""
    return max(float(np.abs(value).max()), _QUIET * loudest)


def _batch(
    network: UserNetwork,
    task: TaskSpec,
    shape: tuple[int, ...],
    classes: int,
    *,
    gain: float,
    samples: int,
    generator: torch.Generator,
) -> Arrays:
    direct = task.encoding.kind == "direct"
    frames = torch.rand((1 if direct else task.encoding.steps, samples, *shape), generator=generator)
    labels = torch.randint(0, classes, (samples,), generator=generator)
    parameters = {
        name: value * np.float32(gain if value.ndim > 1 else 1) for name, value in network.initial_parameters().items()
    }
    return {
        "frames": (frames if direct else (frames < 0.4).float()).numpy(),
        "labels": labels.numpy(),
        **parameters,
    }


def stepped(network: UserNetwork, feed: Arrays) -> Arrays:
    """All that a training and an inference graph put out, from the module itself.

    Args:
        network: The user's network.
        feed: Inputs of the training graph.
    """
    leaves = {name: torch.from_numpy(feed[name].copy()).requires_grad_() for name in network.trained}
    logits = network(leaves, torch.from_numpy(feed["frames"]))
    loss = cross_entropy(logits, torch.from_numpy(feed["labels"]))
    found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return {
        "loss": loss.detach().numpy(),
        "logits": logits.detach().numpy(),
        **{f"gradient:{name}": gradient.numpy() for name, gradient in zip(leaves, found, strict=True)},
    }
