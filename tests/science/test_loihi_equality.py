"""Networks trained by snntorch on the chip's grid are the same function in the chip's integers, on real digits.

The other half, that lava's simulator equals these integers, is `make loihi`, which needs lava; CI has none.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deploy.loihi import training
from deploy.loihi.comparison import Comparison, compare
from deploy.loihi.digits import Digits
from deploy.loihi.network import OnGrid, convolutional, fully_connected
from hardware.loihi.cuba import ACCUMULATOR_LIMIT, simulate
from hardware.loihi.environment import ChipRun, Lava
from hardware.loihi.request import Answer
from tests.conftest import ROOT

NETWORKS = {"fc": lambda: fully_connected(64), "conv": lambda: convolutional(6, 10)}


class Integers(Lava):
    """In lava's place: the numpy reference, here and now."""

    def __init__(self) -> None: ...

    def run(self, network, spikes, **_named) -> ChipRun:
        trains = simulate(network, spikes).trains
        answer = Answer(where="reference", recorded=tuple(range(len(trains))), duration_s=0.0, versions={})
        return ChipRun(answer=answer, trains=trains)


@pytest.fixture(autouse=True)
def _one_thread():
    """Small networks: more threads only wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data() -> tuple[Digits, Digits]:
    from contract.datasets import load

    whole = load("mnist5k")
    order = np.random.default_rng(0).permutation(len(whole.y))
    parts = (np.sort(order[:640]), np.sort(order[640:720]))
    return tuple(Digits(name="mnist5k", x=whole.x[rows], y=whole.y[rows]) for rows in parts)


def compared(name: str, data: tuple[Digits, Digits]) -> tuple[OnGrid, Comparison]:
    torch.manual_seed(1)
    net = NETWORKS[name]()
    return net, compare(name, net, data, Integers(), np.random.default_rng(1))


@pytest.mark.parametrize("name", NETWORKS)
def test_snntorch_equals_the_chips_integers_on_digits(name, data):
    net, found = compared(name, data)
    assert found.all_layers.either > 1000
    assert found.output.either > 100
    assert found.all_layers.equal >= 0.99
    # One spike that a membrane misses by 1/64 moves several of the few that a short training gives the last layer.
    assert found.output.equal >= 0.97
    assert found.reference.equal == 1.0
    assert found.snntorch_right >= 30  # of 80: it has learnt something, so that its layers are a trained network's
    assert abs(found.snntorch_right - found.chip_right) <= 1
    assert found.largest_sum <= ACCUMULATOR_LIMIT
    assert [layer.shape.decay for layer in net.exported().layers] == [1024] * len(net.shapes)


def test_another_grid_is_another_function(data, monkeypatch):
    """Control: weights that are not what was trained are found out."""
    monkeypatch.setattr(training, "EPOCHS", 1)
    torch.manual_seed(0)
    net = fully_connected(64)

    class Coarse(Integers):
        def run(self, network, spikes, **_named) -> ChipRun:
            for layer in network.layers:
                layer.weight[...] = 16 * np.round(layer.weight / 16)
            return super().run(network, spikes)

    assert not compare("coarse", net, data, Coarse(), np.random.default_rng(1)).holds


def test_the_makefile_makes_the_environment_from_these_lists():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "-r hardware/loihi/requirements.txt" in text
    assert "--no-deps --ignore-requires-python -r hardware/loihi/lava.txt" in text
    assert "site-packages/tests" in text
    assert ".venv-loihi/" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
