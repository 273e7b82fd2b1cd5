from __future__ import annotations

import math

import numpy as np
import pytest

from contract import datasets
from contract.models.layout import initial_parameters
from contract.task import EncodingSpec, ModelSpec, TaskSpec
from server.evaluation import Evaluator, evaluate_pending
from server.ledger import FILE_NAME, Ledger
from server.model import GlobalModel

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
