from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from contract import datasets
from contract.errors import ConfigurationError
from contract.models.layout import initial_parameters
from contract.task import EncodingSpec, ModelSpec, OwnData, TaskSpec
from server.evaluation import Evaluator, evaluate_pending
from server.ledger import FILE_NAME, Ledger
from server.model import GlobalModel
from server.settings import ServerSettings

INFO = datasets.dataset_info("digits")


def task(kind: str) -> TaskSpec:
    return TaskSpec(dataset="digits", encoding=EncodingSpec(kind=kind, steps=4), model=ModelSpec(hidden=(16,)), seed=5)


@pytest.mark.parametrize("kind", ["direct", "rate"])
def test_a_model_of_zeros_names_the_first_class_with_a_loss_of_ln_10(kind):
    the_task = task(kind)
    zeros = {k: np.zeros_like(v) for k, v in initial_parameters(the_task, INFO.shape, INFO.classes).items()}
    found = Evaluator(the_task)(zeros)
    labels = datasets.load("digits").y
    _, held_out = datasets.held_out_split(the_task, labels)
    assert found.samples == len(held_out)
    assert found.accuracy == pytest.approx(np.mean(labels[held_out] == 0))
    assert found.loss == pytest.approx(math.log(10))


def test_rate_coding_is_seeded_and_the_batch_size_changes_nothing_for_direct_coding():
    weights = initial_parameters(task("rate"), INFO.shape, INFO.classes)
    rate = Evaluator(task("rate"))
    assert (rate(weights).loss, rate(weights).accuracy) == (rate(weights).loss, rate(weights).accuracy)
    small, large = (Evaluator(task("direct"), batch=batch)(weights) for batch in (7, 1000))
    assert small.accuracy == large.accuracy
    assert small.loss == pytest.approx(large.loss, abs=1e-6)


def test_each_version_is_evaluated_once(tmp_path):
    the_task = task("direct")
    with Ledger(tmp_path / FILE_NAME) as ledger:
        GlobalModel(ledger, "0" * 64, lambda: initial_parameters(the_task, INFO.shape, INFO.classes))
        evaluator = Evaluator(the_task)
        assert [evaluate_pending(ledger, evaluator) for _ in range(2)] == [True, False]
        (row,) = ledger.rows("SELECT * FROM evaluations")
        assert (row["version"], row["round"]) == (0, 0)
        assert 0.0 <= row["accuracy"] <= 0.4


OWN = TaskSpec(
    dataset="own",
    own_data=OwnData(shape=(2, 6), classes=3, series=True),
    encoding=EncodingSpec(kind="delta", steps=3, gain=4.0),
    model=ModelSpec(hidden=(8,)),
)


def held_out(path, x, y):
    np.savez(path, x=x, y=y)
    return path


def test_data_of_the_devices_own_is_evaluated_on_a_file(tmp_path):
    zeros = {k: np.zeros_like(v) for k, v in initial_parameters(OWN, (2, 2), 3).items()}
    file = held_out(tmp_path / "h.npz", np.random.default_rng(0).random((5, 2, 6)), [0, 0, 1, 2, 0])
    found = Evaluator(OWN, held_out=file)(zeros)
    assert (found.samples, found.accuracy) == (5, 0.6)


@pytest.mark.parametrize(("x", "y", "words"), [
    (np.zeros((5, 2, 5)), [0] * 5, r"x of shape \[5, 2, 5\].*\[N, 2, 6\]"),
    (np.zeros((5, 2, 6)), [0] * 4, r"y of shape \[4\]"),
    (np.full((1, 2, 6), 1.5), [0], r"x from 1.5 to 1.5"),
    (np.full((1, 2, 6), np.nan), [0], r"x from nan"),
    (np.zeros((1, 2, 6)), [3], r"y from 3 to 3.*classes 0 to 2"),
])  # fmt: skip
def test_held_out_samples_that_are_none_of_the_task_are_refused(tmp_path, x, y, words):
    with pytest.raises(ConfigurationError, match=words):
        Evaluator(OWN, held_out=held_out(tmp_path / "h.npz", x, y))


def test_a_held_out_file_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "h.npz").write_bytes(b"neither")
    with pytest.raises(ConfigurationError, match=r"h.npz'.*cannot be read"):
        Evaluator(OWN, held_out=tmp_path / "h.npz")


def test_why_nothing_is_evaluated():
    given = {"run": "r", "directory": Path(), "task": OWN}
    assert "devices alone" in ServerSettings(**given).unevaluated
    assert not ServerSettings(**given, held_out=Path("h.npz")).unevaluated
    assert "evaluate = false" in ServerSettings(**{**given, "task": TaskSpec()}, evaluate=False).unevaluated
