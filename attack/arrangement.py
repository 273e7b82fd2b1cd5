"""Loose frames put in order: samples, steps and labels, guessed from the frames, then settled by forward simulation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from attack.clock import now_s, spend
from attack.costs import singular
from attack.frames.clustering import clusters, distances
from attack.frames.rearrangement import Arrangement, Order, Rearrangement
from attack.frames.row_space import Binary
from attack.frames.spectrum import Array64
from attack.labels import CITED as LABELS_CITED
from attack.labels import recover_labels
from attack.method import MAX_IMAGES
from attack.simulation import Simulator
from attack.threat import Array32, Knowledge, Observation
from contract.encodings import SERIES, decode

AGREES = 1e-3
"""Relative difference of the derivatives below which an arrangement is taken to be right."""
CITED = ("jonker1987shortest", *LABELS_CITED["one"])
"""Keys of the works that it follows (`attack.citations`): how frames are assigned, and labels that are certain."""
_RESTARTS = 40
_NEEDS: frozenset[Knowledge] = frozenset({"architecture", "neuron", "encoding", "weights", "plan"})


@dataclass(frozen=True, kw_only=True, eq=False)
class Arranged:
    """Frames as samples.

    Attributes:
        images: Rate images `[N, *shape]`.
        frames: `[N, T, *shape]`; `None` when the samples are not all of T frames.
        labels: Of the samples when a simulation agreed, otherwise empty.
        settled: Whether it did.
    """

    images: Array32
    frames: Array32 | None
    labels: tuple[int, ...] = ()
    settled: bool = False


def arrange(found: Binary, observation: Observation, budget_s: float) -> Arranged:
    """Samples and order of loose frames.

    Without the model they are guessed: frames of a sample are alike, and earlier steps have larger adjoints. With it,
    the guess is improved by simulation; a frame that is missing was empty, or, failing that, one of the others again.

    Args:
        found: Distinct frames that are not empty `[N, n]`, at least one.
        observation: The update.
        budget_s: Processor time, in seconds.
    """
    end_s = now_s() + budget_s
    wide = found.astype(np.float64)
    spend(singular(*wide.shape))
    gradient = observation.gradient if "plan" in observation.known else observation.update
    adjoints = np.asarray(gradient[f"{observation.first_layer.name}.weight"] @ np.linalg.pinv(wide), dtype=np.float64)
    guess = _guess(found, adjoints, observation)
    if _simulable(observation) and all(len(one) <= observation.encoding.steps for one in guess):
        for arranged in _settle(found, adjoints, guess, observation, end_s):
            return arranged
    return _guessed(found, guess, observation)


def _guess(found: Binary, adjoints: Array64, observation: Observation) -> list[Order]:
    steps = observation.encoding.steps
    groups = clusters(distances(found, adjoints), groups=observation.samples, size=steps)[:MAX_IMAGES]
    strength = np.linalg.norm(adjoints, axis=0)
    return [group[np.argsort(-strength[group])] for group in groups]


def _guessed(found: Binary, guess: list[Order], observation: Observation) -> Arranged:
    steps = observation.encoding.steps
    ordered = [found[one].astype(np.float32) for one in guess]
    # A frame that is missing was empty or a repetition: it counts as empty, at the end.
    filled = [np.concatenate([one, np.zeros((max(steps - len(one), 0), one.shape[1]), one.dtype)]) for one in ordered]
    # Only a series cannot be longer than T: elsewhere what too many frames have in common is the picture all the same.
    most = steps if observation.encoding.kind in SERIES else len(found)
    shown = [one[:most].reshape(-1, 1, *observation.shape) for one in filled]
    images = np.concatenate([decode(observation.encoding, one) for one in shown])
    whole = all(len(one) == steps for one in ordered)
    frames = np.array(ordered).reshape(len(ordered), steps, *observation.shape) if whole else None
    return Arranged(images=images, frames=frames)


def _simulable(observation: Observation) -> bool:
    """Whether samples can be simulated one by one, and the update is a gradient at known weights."""
    if not observation.known >= _NEEDS or observation.plan.local_steps > 1 or observation.samples > MAX_IMAGES:
        return False
    network = observation.network
    return network is None or not network.timeless


def _labels(observation: Observation) -> Sequence[int]:
    """Labels that may be; one where they are certain."""
    estimate = recover_labels(observation)
    if estimate is not None and estimate.certain:
        return estimate.labels
    return range(observation.classes)


def _settle(
    found: Binary, adjoints: Array64, guess: list[Order], observation: Observation, end_s: float
) -> Iterator[Arranged]:
    """Arrangements that a simulation agrees with."""
    samples, steps, labels = observation.samples, observation.encoding.steps, _labels(observation)
    network = observation.network
    if network is not None and network.coupled and (samples > 1 or len(set(labels)) > 1):
        return
    missing = samples * steps - len(found)
    simulator = Simulator(observation, dtype=torch.float32)
    weight = observation.parameters[f"{observation.first_layer.name}.weight"].astype(np.float64)
    wanted = adjoints.T @ weight
    start = _filled(guess, samples, steps, len(found))
    for again in (None, *(range(len(found)) if missing == 1 else ())):
        filler = np.zeros_like(found[:1]) if again is None else found[again : again + 1]
        frames = np.concatenate([found, np.repeat(filler, missing, axis=0)])
        counts = np.array(frames.any(axis=1))
        counts[len(found) :] = False
        if again is not None:
            counts[again] = False
        padded = np.concatenate([wanted, np.zeros((missing, wanted.shape[1]))])
        search = Rearrangement(simulator, frames.astype(np.float64), padded, labels, counts=counts)
        best = _tried(search, start, end_s, restarts=_RESTARTS if again is None else 1)
        if best.residual < AGREES:
            shaped = frames[best.order].astype(np.float32).reshape(samples, steps, *observation.shape)
            images = decode(observation.encoding, np.moveaxis(shaped, 1, 0))
            yield Arranged(images=images, frames=shaped, labels=best.labels, settled=True)
        if now_s() > end_s:
            return


def _tried(search: Rearrangement, start: Order, end_s: float, *, restarts: int) -> Arrangement:
    """The best of several attempts: from the guess, then from the best so far with some frames exchanged."""
    rng = np.random.default_rng(0)
    best = search.improve(start, end_s)
    for _ in range(restarts - 1):
        if best.residual < AGREES or now_s() > end_s:
            break
        shaken = best.order.ravel().copy()
        moved = np.flatnonzero(rng.random(len(shaken)) < rng.uniform(0.2, 0.8))
        shaken[moved] = shaken[rng.permutation(moved)]
        found = search.improve(shaken.reshape(start.shape), end_s)
        best = min(best, found, key=lambda one: one.residual)
    return best


def _filled(guess: list[Order], samples: int, steps: int, found: int) -> Order:
    """The guess as `[B, T]`, with the missing frames' indices at the end of the samples that lack them."""
    spare = iter(range(found, samples * steps))
    rows = [[*one, *(next(spare) for _ in range(steps - len(one)))] for one in guess]
    rows += [[next(spare) for _ in range(steps)] for _ in range(samples - len(rows))]
    return np.array(rows, dtype=np.intp)
