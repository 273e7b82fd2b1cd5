"""What accuracy is worth: guessing, and a logistic regression, on the split of a data set's first run."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from contract.datasets import held_out_split, load
from contract.encodings import intensities
from contract.errors import SpikeleakError
from contract.task import OWN, TaskSpec
from deploy import parquet
from deploy.sweep.plan import Point

FILE_NAME = "baselines.parquet"
MOST_SAMPLES = 4000
"""Of the training part that the regression is fitted to, drawn by the run's seed."""
_STEPS = 100
COLUMNS: dict[str, type] = {
    "dataset": str,
    "seed": int,
    "held_out": int,
    "chance": float,
    "regression": float,
    "regression_samples": int,
    "missing": str,
}
"""Columns of ``baselines.parquet``.

`chance` is the held-out share of the most frequent class, `regression` the held-out accuracy of scikit-learn's logistic
regression on what the encoding is made from; `missing` says why there is none.
"""
Row = dict[str, Any]


def write(points: Iterable[Point], path: Path) -> None:
    """Adds the data sets that the file lacks; what it has stays, as the data may be elsewhere by now."""
    held: list[Row] = parquet.read(path) if path.exists() else []
    known = {row["dataset"] for row in held}
    first = {point.study.task.dataset: point.study.task for point in reversed(tuple(points))}
    added = [_row(task) for name, task in sorted(first.items()) if name not in known and name != OWN]
    if added or not path.exists():
        parquet.write(path, held + added, COLUMNS)


def read(path: Path) -> dict[str, Row]:
    """Row by data set; none where nothing was written."""
    return {row["dataset"]: row for row in parquet.read(path)} if path.exists() else {}


def _row(task: TaskSpec) -> Row:
    row: Row = {"dataset": task.dataset, "seed": task.seed}
    try:
        data = load(task.dataset)
    except SpikeleakError as error:
        return row | {"missing": str(error)}
    train, test = held_out_split(task, data.y, data.users)
    row |= {"held_out": len(test), "chance": float(np.bincount(data.y[test]).max() / len(test))}
    try:
        from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - takes a second, and is in extra lab
    except ImportError:
        return row | {"missing": "scikit-learn is not installed (extra lab)"}
    fitted = np.sort(np.random.default_rng(task.seed).permutation(train)[:MOST_SAMPLES])

    def flat(of: Any) -> Any:
        return np.asarray(intensities(task.encoding, data.x[of]), dtype=np.float32).reshape(len(of), -1)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it has not converged: more steps change little
        model = LogisticRegression(max_iter=_STEPS).fit(flat(fitted), data.y[fitted])
    score = float(model.score(flat(test), data.y[test]))
    return row | {"regression": score, "regression_samples": len(fitted), "missing": ""}
