from __future__ import annotations

from fractions import Fraction
from typing import get_args, get_type_hints

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.task import RoundPlan
from server.aggregation import AGGREGATORS, Contribution, descend, weighted_mean


def contribution(uid: str, weight: float, *values: float) -> Contribution:
    return Contribution(uid=uid, weight=weight, tensors={"w": np.array(values, dtype=np.float32)})


def test_every_algorithm_of_a_plan_has_an_aggregator():
    assert set(AGGREGATORS) == set(get_args(get_type_hints(RoundPlan)["algorithm"]))
    assert all(name == aggregator.name for name, aggregator in AGGREGATORS.items())


@pytest.mark.parametrize("name", AGGREGATORS)
def test_aggregates_by_hand(name):
    updates = [contribution("1", 1, 1.0, 2.0), contribution("2", 3, 5.0, -2.0)]
    plan = RoundPlan(algorithm=name, learning_rate=0.5)
    factor = {"fedavg": 1.0, "fedsgd": 0.5}[name]
    assert AGGREGATORS[name].step(updates, plan)["w"].tolist() == [4.0 * factor, -1.0 * factor]


def test_fedavg_of_differences_is_the_mean_of_the_models():
    before = {"w": np.array([1.0, 2.0], dtype=np.float32)}
    after = [np.array([0.5, 3.0]), np.array([1.5, 0.0])]
    updates = [contribution(str(i), w, *(before["w"] - a)) for i, (a, w) in enumerate(zip(after, (1, 3), strict=True))]
    plan = RoundPlan()
    new, velocity = descend(before, None, AGGREGATORS["fedavg"].step(updates, plan), plan)
    assert new["w"].tolist() == [1.25, 0.75]
    assert new["w"].dtype == np.float32
    assert velocity is None


def test_server_momentum_by_hand():
    plan = RoundPlan(server_momentum=0.5, server_learning_rate=2.0)
    new, velocity = descend({"w": np.array([10.0], dtype=np.float32)}, None, {"w": np.array([1.0])}, plan)
    assert (new["w"][0], velocity["w"][0]) == (8.0, 1.0)
    new, velocity = descend(new, velocity, {"w": np.array([3.0])}, plan)
    assert (new["w"][0], velocity["w"][0]) == (1.0, 3.5)
    plain = RoundPlan()
    new, velocity = descend(new, velocity, {"w": np.array([1.0])}, plain)
    assert (new["w"][0], velocity["w"][0]) == (0.0, 1.0), "a plan without momentum begins anew"


def test_only_ordered_updates_are_taken():
    with pytest.raises(ValueError, match="strictly ascending"):
        weighted_mean([contribution("2", 1, 1.0), contribution("1", 1, 1.0)])
    with pytest.raises(ValueError, match="strictly ascending"):
        weighted_mean([contribution("1", 1, 1.0), contribution("1", 1, 1.0)])
    with pytest.raises(ValueError, match="nothing"):
        weighted_mean([])


@given(
    values=st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20),
    weights=st.lists(st.integers(1, 1000), min_size=20, max_size=20),
)
def test_the_mean_agrees_with_exact_arithmetic(values, weights):
    updates = [contribution(f"{i:02d}", w, v) for i, (v, w) in enumerate(zip(values, weights, strict=False))]
    exact = sum(Fraction(v) * w for v, w in zip(values, weights, strict=False)) / sum(weights[: len(values)])
    scale = max(1e-30, *(abs(v) for v in values))
    assert abs(float(weighted_mean(updates)["w"][0] - float(exact))) <= 1e-13 * scale
