"""Operation counts against counting by brute force and by hand."""

from __future__ import annotations

import itertools

import pytest

from contract.models.layout import layers
from contract.models.operations import count_step, dense_products
from contract.task import EncodingSpec, ModelSpec, TaskSpec


def task(kind="fc", encoding="rate", family="snn", steps=5, bits=None, **model):
    return TaskSpec(
        encoding=EncodingSpec(kind=encoding, steps=steps),
        model=ModelSpec(kind=kind, family=family, weight_bits=bits, hidden=(6,), **model),
    )


@pytest.mark.parametrize(("kernel", "stride"), list(itertools.product((1, 2, 3, 5), (1, 2, 3))))
def test_convolution_products_equal_brute_force(kernel, stride):
    spec = layers(task("conv", channels=(3,), kernel=kernel, stride=stride), (2, 7, 9), 4)[0]
    rows, columns = spec.outputs[1:]
    taps = sum(
        0 <= r * stride - spec.padding + i < 7 and 0 <= c * stride - spec.padding + j < 9
        for r, c, i, j in itertools.product(range(rows), range(columns), range(kernel), range(kernel))
    )
    assert dense_products(spec) == taps * 2 * 3


def test_rate_coded_network_by_hand():
    # 10-6-4, T=5, B=3; 40 input spikes of fan-out 6, 20 hidden spikes of fan-out 4.
    found = count_step(task(), (10,), 4, batch=3, input_nonzeros=40, spikes=(20,))
    updates = 5 * 3 * (6 + 4)
    assert found.macs == 0
    assert found.acs == 40 * 6 + 20 * 4
    assert found.membrane_updates == updates
    assert found.backward_macs == 15 * (60 + 2 * 24) + 2 * updates
    assert (found.spikes, found.spike_sites) == (20, 5 * 3 * 6)
    assert found.memory_bytes == 4 * (3 * (60 + 6 + 24 + 4) + 6 * updates)


def test_direct_coding_pays_for_the_first_layer_once():
    found = count_step(task(encoding="direct"), (10,), 4, batch=3, input_nonzeros=30, spikes=(20,))
    assert found.macs == 3 * 60
    assert found.acs == 20 * 4
    assert found.backward_macs == 3 * 60 + 15 * 2 * 24 + 2 * 150


def test_ann_twin_by_hand():
    found = count_step(task(family="ann", steps=7), (10,), 4, batch=3, input_nonzeros=99, spikes=())
    assert found.macs == 3 * (60 + 24)
    assert found.backward_macs == 3 * (60 + 2 * 24 + 10)
    assert (found.acs, found.membrane_updates, found.spikes, found.spike_sites) == (0, 0, 0, 0)
    assert found.memory_bytes == 4 * (3 * 94 + 3 * 30)


def test_eight_bit_weights_are_read_as_bytes():
    wide = count_step(task(), (10,), 4, batch=1, input_nonzeros=0, spikes=(0,)).memory_bytes
    narrow = count_step(task(bits=8), (10,), 4, batch=1, input_nonzeros=0, spikes=(0,)).memory_bytes
    assert wide - narrow == 2 * 3 * (60 + 24)


def test_full_convolution_activity_costs_the_dense_products():
    spec = task("conv", channels=(2, 3), kernel=3, steps=1)
    specs = layers(spec, (1, 8, 8), 4)
    full = [2 * 4 * 4, 3 * 2 * 2, 6]
    found = count_step(spec, (1, 8, 8), 4, batch=1, input_nonzeros=64, spikes=full)
    assert found.acs == sum(dense_products(layer) for layer in specs)


@pytest.mark.parametrize("spikes", [(), (1, 1), (91,)])
def test_impossible_spike_counts_are_refused(spikes):
    with pytest.raises(ValueError, match="hidden layer"):
        count_step(task(), (10,), 4, batch=3, input_nonzeros=0, spikes=spikes)
