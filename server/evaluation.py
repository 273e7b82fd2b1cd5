"""Accuracy and loss of a model on the held-out samples, the same samples and spikes for each version."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from contract import datasets, encodings
from contract.datasets.cache import Samples
from contract.errors import ConfigurationError
from contract.task import TaskSpec
from server.aggregation import Parameters
from server.ledger import Ledger
from server.model import parameters_of

if TYPE_CHECKING:
    from contract.models.own import UserNetwork

log = logging.getLogger(__name__)

_STREAM = 0xE7A1
"""Keeps the evaluation's spikes apart from all other draws under the task's seed."""


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """Accuracy as a fraction, mean cross-entropy, and over how many samples."""

    accuracy: float
    loss: float
    samples: int
    duration_s: float


class Evaluator:
    """Evaluates models of one task; data set and network are made once, on first use.

    Args:
        task: The task.
        batch: Samples per forward pass.
        network: Parameters and frames to logits, where the task does not say how: a network of the user's own.
        held_out: File of samples to evaluate on, for data of the devices' own.

    Raises:
        ConfigurationError: The data set is not to be had, or the file's samples are none of the task.
    """

    def __init__(
        self,
        task: TaskSpec,
        *,
        batch: int = 250,
        network: UserNetwork | None = None,
        held_out: Path | None = None,
    ) -> None:
        from contract.models.network import Network  # noqa: PLC0415 - torch only where a model is evaluated

        info = datasets.task_info(task)
        self._x, self._y = held_out_samples(task, held_out)
        self.task, self._batch = task, batch
        self.shape, self.classes = encodings.input_shape(task.encoding, info.shape), info.classes
        self._network: Network | UserNetwork = network or Network(task, self.shape, self.classes)

    def __call__(self, parameters: Parameters) -> Evaluation:
        """Evaluates one model.

        Args:
            parameters: float32 tensors by name.
        """
        import torch  # noqa: PLC0415 - see above

        start_s = time.monotonic()
        weights = {name: torch.from_numpy(value) for name, value in parameters.items()}
        right, loss, total = 0, 0.0, len(self._y)
        with torch.no_grad():
            for frames, y in self.batches():
                labels = torch.from_numpy(y)
                logits = self._network(weights, torch.from_numpy(frames))
                right += int((logits.argmax(dim=1) == labels).sum())
                loss += float(torch.nn.functional.cross_entropy(logits.double(), labels, reduction="sum"))
        return Evaluation(
            accuracy=right / total, loss=loss / total, samples=total, duration_s=time.monotonic() - start_s
        )

    def batches(self) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
        """Frames `[S, B, *shape]` and labels `[B]` of the held-out samples, the same each time."""
        rng = np.random.default_rng([self.task.seed, _STREAM])
        for at in range(0, len(self._y), self._batch):
            yield (
                encodings.encode(self.task.encoding, self._x[at : at + self._batch], rng),
                np.array(self._y[at : at + self._batch]),
            )


def held_out_samples(task: TaskSpec, file: Path | None) -> tuple[Samples, NDArray[np.int64]]:
    """What a model is evaluated on: the data set's held-out part, or for data of the devices' own a file.

    Raises:
        ConfigurationError: See `Evaluator`.
    """
    if file is None:
        data = datasets.load(task.dataset)
        _, held_out = datasets.held_out_split(task, data.y, data.users)
        return data.x[held_out], data.y[held_out]
    info = datasets.task_info(task)
    try:
        with np.load(file, allow_pickle=False) as arrays:
            x, y = np.asarray(arrays["x"], dtype=np.float32), np.asarray(arrays["y"])
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise ConfigurationError(f"held_out = {str(file)!r}: cannot be read as .npz with x and y ({error})") from error
    if x.shape[1:] != info.shape or y.shape != x.shape[:1] or not len(y):
        raise ConfigurationError(
            f"held_out = {str(file)!r}: x of shape {list(x.shape)} and y of shape {list(y.shape)}: expected "
            f"[N, {', '.join(map(str, info.shape))}] and [N], at least one sample"
        )
    if not ((x >= 0) & (x <= 1)).all() or not np.isin(y, range(info.classes)).all():
        raise ConfigurationError(
            f"held_out = {str(file)!r}: x from {x.min():g} to {x.max():g}, y from {y.min()} to {y.max()}: expected "
            f"intensities in [0, 1] and classes 0 to {info.classes - 1}"
        )
    return x, y.astype(np.int64)


def evaluate_pending(ledger: Ledger, evaluator: Evaluator) -> bool:
    """Evaluates the oldest version that has not been evaluated.

    Returns:
        Whether there was one.
    """
    row = ledger.row(
        "SELECT version, round, object FROM models WHERE object IS NOT NULL "
        "AND version NOT IN (SELECT version FROM evaluations) ORDER BY version LIMIT 1"
    )
    if row is None:
        return False
    found = evaluator(parameters_of(row["object"]))
    ledger.insert("evaluations", {"version": row["version"], "round": row["round"], **msgspec.structs.asdict(found)})
    log.info("version %d: accuracy %.1f %%, loss %.3f", row["version"], 100 * found.accuracy, found.loss)
    return True
