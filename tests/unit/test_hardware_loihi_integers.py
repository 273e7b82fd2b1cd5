"""From floats to the chip's integers, and the two files that carry them."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from hardware.loihi.description import ChipNetwork, Layer, LayerShape, load, save
from hardware.loihi.errors import ChipError
from hardware.loihi.quantisation import decay_integer, quantised, threshold_integer
from tests.loihi_networks import networks, shape

DENSE = shape("dense", (3,), (2,))


def layer(weight: list[list[float]], bias: list[float], threshold: float = 1.0, beta: float = 0.9) -> Layer:
    return quantised(np.array(weight), np.array(bias), threshold=threshold, beta=beta, shape=DENSE)


def test_golden_integers():
    """254 / 0.5 = 508, the power of two below it 256; a unit is 1/256, the grid's step 2/256."""
    made = layer([[0.5, -0.5, 0.1], [0.0, 0.002, 0.25]], [0.01, -0.3])
    assert (made.shape.threshold, made.shape.decay) == (256, 410)
    assert made.weight.tolist() == [[128, -128, 26], [0, 0, 64]]
    assert made.bias.tolist() == [2, -76]
    assert made.shape.scale == pytest.approx(1 / 256)
    assert made.weight.dtype == made.bias.dtype == np.int16


@pytest.mark.parametrize(
    ("largest", "threshold", "level"), [(1.0, 1.0, 128), (0.5, 1.0, 256), (2.0, 1.0, 64), (1, 2, 256)]
)
def test_the_threshold_is_the_largest_power_of_two_that_keeps_the_weights_in_range(largest, threshold, level):
    assert threshold_integer(largest, threshold) == level
    assert level * largest / threshold <= 254 < 2 * level * largest / threshold


def test_the_grid_is_a_fixed_point_of_the_rounding():
    """A network that was trained on the grid keeps its weights to the last digit."""
    once = layer([[0.5, -0.31, 0.1], [0.0, 0.002, 0.25]], [0.01, -0.3])
    scale = once.shape.scale
    again = layer((once.weight * scale).tolist(), (once.bias * scale).tolist())
    assert (again.weight == once.weight).all()
    assert (again.bias == once.bias).all()
    assert again.shape == msgspec.structs.replace(once.shape, scale=again.shape.scale)


def test_decays():
    assert [decay_integer(beta) for beta in (1.0, 0.9, 0.5, 1 / 4096)] == [0, 410, 2048, 4095]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weight": [[0.0] * 3] * 2}, "largest weight of a layer is 0"),
        ({"weight": [[np.nan] * 3] * 2}, "finite"),
        ({"bias": [50.0, 0.0]}, r"12800 units of a weight: the chip has 4095"),
        ({"weight": [[300.0, 0, 0]] * 2}, "more than 254 times the threshold"),
        ({"beta": 0.0}, r"decay 4096: a membrane loses 0 to 4095"),
        ({"weight": [[1e-6, 0, 0]] * 2}, "threshold 134217728: the chip has 1 to 131071"),
    ],
)
def test_what_does_not_fit_is_refused_with_value_and_limit(change, words):
    with pytest.raises(ChipError, match=words):
        layer(**({"weight": [[0.5, 0, 0]] * 2, "bias": [0.0, 0.0]} | change))


@pytest.mark.parametrize("name", networks())
def test_both_files_read_back_as_the_same_network(name, tmp_path):
    network = networks()[name]
    save(network, tmp_path)
    back = load(tmp_path)
    assert [x.shape for x in back.layers] == [x.shape for x in network.layers]
    for a, b in zip(back.layers, network.layers, strict=True):
        np.testing.assert_array_equal(a.weight, b.weight)
        np.testing.assert_array_equal(a.bias, b.bias)


@pytest.mark.parametrize("damage", ["network.json", "network.npz", "unknown key", "odd weight", "float weight"])
def test_files_of_others_making_are_refused(damage, tmp_path):
    save(networks()["fc"], tmp_path)
    npz, text = tmp_path / "network.npz", tmp_path / "network.json"
    if damage.startswith("network"):
        (tmp_path / damage).write_bytes(b"{")
    elif damage == "unknown key":
        text.write_text(text.read_text().replace('"stride"', '"strides"', 1))
    else:
        with np.load(npz) as arrays:
            found = dict(arrays)
        found["weight_1"] = found["weight_1"] + 1 if damage == "odd weight" else found["weight_1"].astype(np.float32)
        np.savez(npz, **found)
    with pytest.raises(ChipError):
        load(tmp_path)


def test_layers_that_do_not_fit_each_other_are_refused():
    fc, conv = networks()["fc"].layers, networks()["conv"].layers
    with pytest.raises(ChipError, match="the next one takes"):
        ChipNetwork(layers=(fc[0], conv[-1]))
    with pytest.raises(ChipError, match="flat spikes"):
        ChipNetwork(layers=(conv[-1],))
    with pytest.raises(ChipError, match="without layers"):
        ChipNetwork(layers=())
    with pytest.raises(ChipError, match=r"expected \(channels, height, width\)"):
        LayerShape(kind="conv", inputs=(9,), outputs=(3,), decay=0, threshold=1, scale=1.0)
