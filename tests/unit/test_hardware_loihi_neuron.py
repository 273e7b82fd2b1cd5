"""The fixed-point neuron: hand-computed membranes, lava's records read back, snntorch on the same integers."""

from __future__ import annotations

import numpy as np
import pytest
import snntorch
import torch
from scipy.signal import convolve2d

from hardware.loihi import cuba
from hardware.loihi.agreement import Agreement, agreement
from hardware.loihi.description import Layer
from hardware.loihi.energy import count, readings
from hardware.loihi.errors import ChipError
from hardware.loihi.netx_records import records
from hardware.loihi.request import Answer
from tests.loihi_networks import networks, shape, spikes


def one(threshold: int, decay: int, bias: int, weight: int = 2) -> Layer:
    return Layer(
        shape=shape("dense", (1,), (1,), threshold=threshold, decay=decay),
        weight=np.array([[weight]], dtype=np.int16),
        bias=np.array([bias], dtype=np.int16),
    )


def fired(layer: Layer, sums: list[int]) -> list[int]:
    return cuba.fires(layer, np.array(sums, dtype=np.int64)[:, None])[:, 0].tolist()


def test_a_hand_computed_trajectory():
    """Threshold 5 (320 in 1/64), half lost a step: 128; 64 + 128; 96 + 256 = 352 > 320 fires; from 0 the same again."""
    assert fired(one(5, 2048, 0), [2, 2, 4, 2, 2, 4, 0]) == [0, 0, 1, 0, 0, 1, 0]


def test_the_threshold_itself_does_not_fire():
    assert fired(one(5, 2048, 0), [5, 0, 6]) == [0, 0, 1]


def test_decayed_membranes_are_cut_towards_zero():
    """-1/64·(4096-1)/4096 is 0, not -1/64: with rounding down a silent neuron would drift below 0 for ever."""
    layer = one(1, 1, 0)
    # 64 - 63·... : after +1 and -1 nothing is left; a membrane of 65/64 fires, 64/64 does not.
    assert fired(layer, [-1, 1, 1]) == [0, 0, 0]
    assert fired(layer, [1, 1]) == [0, 1]


def test_the_bias_is_added_at_every_step():
    assert fired(one(5, 0, 2), [0] * 6) == [0, 0, 1, 0, 0, 1]


def test_currents_wrap_and_membranes_saturate_at_24_bits():
    limit = 2**17  # 2**23 in units of a weight
    layer = one(2**17 - 1, 0, 0)
    assert fired(layer, [limit + 1]) == [0]  # wrapped to the most negative
    # Saturated at 2**23 - 1 twice in a row without wrapping: above 64 (2**17 - 1).
    assert fired(layer, [2**16, 2**16]) == [0, 1]
    assert fired(one(5, 0, 0), [-limit, limit, 6]) == [1, 1, 1]  # -2**23 becomes +2**23


@pytest.mark.parametrize("name", networks())
def test_sums_equal_torch(name):
    network, x = networks()[name], spikes(networks()[name])[0]
    for layer in network.layers:
        weight = torch.from_numpy(layer.weight.astype(np.float64))
        if layer.shape.kind == "conv":
            image = torch.from_numpy(x.astype(np.float64))
            expected = torch.nn.functional.conv2d(image, weight, None, layer.shape.stride, layer.shape.padding)
        else:
            expected = torch.from_numpy(x.reshape(len(x), -1).astype(np.float64)) @ weight.T
        sums = cuba.synaptic_sums(layer, x)
        np.testing.assert_array_equal(sums, expected.numpy())
        x = cuba.fires(layer, sums)
        assert 0 < x.mean() < 1


@pytest.mark.parametrize("delay", [False, True])
@pytest.mark.parametrize("name", networks())
def test_spikes_equal_snntorch_on_the_same_integers(name, delay):
    """Float membranes over integer weights, reset to zero with and without delay: only decays are cut differently."""
    network = networks()[name]
    x = spikes(network, samples=8, steps=25)
    found = cuba.simulate(network, x)
    trains, frames = [], torch.from_numpy(x.astype(np.float64))
    for layer, train in zip(network.layers, found.trains, strict=True):
        flat = frames.flatten(0, 1).reshape(-1, *layer.shape.inputs)
        sums = np.stack([cuba.synaptic_sums(layer, sample) for sample in flat.numpy().astype(np.uint8)[:, None]])
        bias = layer.bias.reshape(-1, *[1] * (train.ndim - 3))
        current = torch.from_numpy((sums.reshape(train.shape) + bias).astype(np.float64))
        neuron = snntorch.Leaky(
            beta=1 - layer.shape.decay / 4096,
            threshold=float(layer.shape.threshold),
            reset_mechanism="zero",
            reset_delay=delay,
        )
        membrane, emitted = torch.zeros_like(current[:, 0]), []
        for t in range(x.shape[1]):
            fires, membrane = neuron(current[:, t], membrane)
            emitted.append(fires)
        frames = torch.stack(emitted, 1)
        trains.append(frames.numpy().astype(np.uint8))
    assert agreement(tuple(trains), found.trains).equal >= 0.99
    assert found.largest_sum < cuba.ACCUMULATOR_LIMIT


def test_the_golden_record_of_a_dense_layer():
    (record,) = records(networks()["fc"])[:1]
    assert record["neuron"] == {
        "type": "CUBA",
        "iDecay": 4096,
        "vDecay": 410,
        "vThMant": networks()["fc"].layers[0].shape.threshold,
        "refDelay": 1,
        "gradedSpike": False,
    }
    assert (record["type"], record["shape"].tolist(), record["inFeatures"]) == ("dense", [20], 30)
    np.testing.assert_array_equal(record["weight"], networks()["fc"].layers[0].weight)


def test_the_records_of_a_convolutional_network():
    found = records(networks()["conv"])
    assert [record["type"] for record in found] == ["input", "conv", "conv", "flatten", "dense"]
    assert found[0]["shape"].tolist() == [2, 9, 8]
    assert found[1]["shape"].tolist() == [3, 5, 4]
    assert {key: np.array(found[1][key]).tolist() for key in ("stride", "padding", "dilation", "groups")} == {
        "stride": [2, 2],
        "padding": [1, 1],
        "dilation": [1, 1],
        "groups": 1,
    }


def as_netx_reads(record: dict, image: np.ndarray) -> np.ndarray:
    """A convolution as lava-dl 0.6.0 turns it round (`create_conv`) and lava-nc 0.10.0 computes it (`conv_scipy`).

    Weights flipped and as (out, x, y, in), images as (x, y, channel), true convolution. Written from that description.
    """
    weight = record["weight"][:, :, ::-1, ::-1].transpose(0, 3, 2, 1)
    (sx, sy), (px, py) = record["stride"][::-1], record["padding"][::-1]
    padded = np.pad(image, ((px, px), (py, py), (0, 0))).astype(np.int64)
    planes = [
        sum(convolve2d(padded[..., c], kernel[..., c].astype(np.int64), "valid") for c in range(image.shape[-1]))
        for kernel in weight
    ]
    return np.stack(planes, -1)[::sx, ::sy]


def test_a_convolutions_record_means_the_same_to_lava():
    network = networks()["conv"]
    x = spikes(network)[0]
    for layer, record in zip(network.layers[:2], records(network)[1:3], strict=True):
        for image, expected in zip(x, cuba.synaptic_sums(layer, x), strict=True):
            np.testing.assert_array_equal(as_netx_reads(record, image.T).T, expected)
        x = cuba.fires(layer, cuba.synaptic_sums(layer, x))


@pytest.mark.parametrize(
    ("change", "words"),
    [(lambda x: x[..., :-1], "expected"), (lambda x: x * 2, "holds 2"), (lambda x: x[:0], "none of them 0")],
)
def test_what_is_no_input_is_refused(change, words):
    network = networks()["fc"]
    with pytest.raises(ChipError, match=words):
        cuba.simulate(network, change(spikes(network)))


def test_agreement_counts_spikes_and_not_silence():
    a = np.zeros((1, 100, 10), dtype=np.uint8)
    b = a.copy()
    a[0, 0, 0] = a[0, 1, 0] = b[0, 0, 0] = b[0, 2, 0] = 1
    assert agreement((a,), (b,)) == Agreement(both=1, either=3, places=1000)
    assert agreement((a,), (b,)).equal == pytest.approx(1 / 3)
    with pytest.raises(ChipError, match="not one spike"):
        _ = agreement((a * 0,), (b * 0,)).equal
    with pytest.raises(ChipError, match="cannot be compared"):
        agreement((a,), (b[:, :5],))


def test_operations_are_counted_by_synapse_and_step():
    """Every spike of the input of a convolution reaches the places whose window holds it: counted one by one here."""
    network = networks()["conv"]
    x = spikes(network, samples=2, steps=4)
    trains = cuba.simulate(network, x).trains
    by_hand = 0
    for layer, arriving in zip(network.layers, (x, *trains), strict=False):
        for position in np.argwhere(arriving):
            alone = np.zeros((1, *arriving.shape[2:]), dtype=np.uint8)
            alone[(0, *position[2:])] = 1
            ones = Layer(shape=layer.shape, weight=np.full_like(layer.weight, 2), bias=layer.bias)
            by_hand += int(np.count_nonzero(cuba.synaptic_sums(ones, alone)))
    found = count(network, x, trains)
    assert found.synaptic == by_hand
    assert found.neuron_updates == 2 * 4 * (3 * 20 + 4 * 20 + 6)


def test_energy_is_modelled_without_hardware_and_never_of_loihi_2():
    network = networks()["fc"]
    x = spikes(network)
    operations = count(network, x, cuba.simulate(network, x).trains)
    answer = Answer(where="simulator", recorded=(0, 1), duration_s=1.0, versions={}, no_energy="no chip")
    measured, modelled, loihi2 = readings(answer, operations)
    assert (measured.provenance, measured.reason) == ("unavailable", "no chip")
    expected_j = operations.synaptic * 23.6e-12 + operations.neuron_updates * 81e-12
    assert modelled.provenance == "modelled"
    assert modelled.energy_j == pytest.approx(expected_j)
    assert loihi2.provenance == "unavailable"
    assert "trustworthy" in loihi2.reason
    assert [r.provenance for r in readings(answer, None)] == ["unavailable", "unavailable"]


def test_energy_is_measured_where_lavas_profiler_gave_it():
    answer = Answer(where="hardware", recorded=(1,), duration_s=9.0, versions={}, energy_j=0.02, energy_s=0.5)
    (reading,) = readings(answer, None)
    assert (reading.provenance, reading.energy_j, reading.duration_s) == ("measured", 0.02, 0.5)
