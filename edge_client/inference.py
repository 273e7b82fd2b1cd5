"""Engines that infer elsewhere than where they train: how well the device's own samples are classified there.

What is found stays on the device: one line of JSON per model version in `inference.jsonl` in its folder, with the
accuracy, or with the reason why there is none. It is no part of the protocol.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

import msgspec
import numpy as np
from numpy.typing import NDArray

from contract.encodings import encode
from contract.streams import stream
from contract.task import TaskSpec
from edge_client.training import Shard
from hardware.energy import EnergyReading

log = logging.getLogger(__name__)

FILE_NAME = "inference.jsonl"


class Classified(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What a chip said of a batch.

    Attributes:
        predictions: Class of each sample `[B]`.
        where: What classified: `hardware` or `simulator`.
        duration_s: Wall time.
        readings: Energy, never to be added up.
    """

    predictions: NDArray[np.int64]
    where: str
    duration_s: float
    readings: tuple[EnergyReading, ...]


@runtime_checkable
class Classifies(Protocol):
    """An engine that infers on a chip of its own."""

    def classify(self, params: Mapping[str, NDArray[np.float32]], frames: NDArray[np.float32]) -> Classified:
        """Classifies a batch.

        Args:
            params: The network's parameters.
            frames: Encoded input `[T, B, *shape]`.
        """
        ...


class LocalInference(msgspec.Struct, frozen=True, kw_only=True):
    """How well one model classifies samples of this device.

    Attributes:
        model_version: The model.
        samples: How many were asked for.
        accuracy: Share that is right; `None` when there is none.
        where: What classified; empty when nothing did.
        duration_s: Wall time; `None` when nothing was classified.
        readings: Energy.
        reason: Why there is no accuracy; empty when there is one.
    """

    model_version: int
    samples: int
    accuracy: float | None = None
    where: str = ""
    duration_s: float | None = None
    readings: tuple[EnergyReading, ...] = ()
    reason: str = ""


def infer(
    engine: Classifies,
    params: Mapping[str, NDArray[np.float32]],
    *,
    task: TaskSpec,
    shard: Shard,
    samples: int,
    secret: int,
    model_version: int,
) -> LocalInference:
    """Classifies samples of the shard, the same ones for every model; a chip that fails is a reason, no failure."""
    rng = stream(secret, "inference")
    rows = np.sort(rng.permutation(len(shard.y))[:samples])
    try:
        found = engine.classify(params, encode(task.encoding, shard.x[rows], rng))
    except (ValueError, RuntimeError) as error:
        return LocalInference(model_version=model_version, samples=len(rows), reason=f"{error}")
    return LocalInference(
        model_version=model_version,
        samples=len(rows),
        accuracy=float((found.predictions == shard.y[rows]).mean()),
        where=found.where,
        duration_s=found.duration_s,
        readings=found.readings,
    )


def keep(folder: Path, found: LocalInference) -> None:
    """Notes an inference in the device's folder, and tells the log."""
    if found.accuracy is None:
        log.warning("model %d: no local inference: %s", found.model_version, found.reason)
    else:
        text = "model %d: %.1f %% of %d samples of this device right on the %s"
        log.info(text, found.model_version, 100 * found.accuracy, found.samples, found.where)
    try:
        with (folder / FILE_NAME).open("ab") as file:
            file.write(msgspec.json.encode(found) + b"\n")
    except OSError as error:
        log.warning("%s cannot be written (%s): the inference is in this log only", folder / FILE_NAME, error)
