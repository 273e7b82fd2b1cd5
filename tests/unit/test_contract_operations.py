"""Operation counts against counting by brute force and by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from contract.models.activity import LayerEntry, activity_of_counts, dense_products, fan_out
from contract.models.emissions import EXACT, Emitted
from contract.models.layout import layers
from contract.models.operations import OperationCounter
from contract.models.reference import SteppingNetwork
from contract.task import EncodingSpec, ModelSpec, TaskSpec
from edge_client.engine import open_engine
from server.export import training_graph


def task(kind="fc", encoding="rate", family="snn", steps=5, bits=None, **model):
    return TaskSpec(
        encoding=EncodingSpec(kind=encoding, steps=steps),
        model=ModelSpec(kind=kind, family=family, weight_bits=bits, **{"hidden": (6,)} | model),
    )


def counted(spec, shape, active, batch=3, batches=1):
    """Operations of a network whose layers' inputs were active so often, from the first place on."""
    steps = 1 if spec.model.family == "ann" else spec.encoding.steps
    counter = OperationCounter(spec, shape, 4)
    for _ in range(batches):
        given = []
        counts = []
        for i, (layer, ones) in enumerate(zip(layers(spec, shape, 4), active, strict=True)):
            rows = 1 if i == 0 and spec.encoding.kind == "direct" else steps
            x = np.zeros(rows * batch * math.prod(layer.inputs), np.float32)
            x[:ones] = 1
            given.append(x.reshape(rows * batch, -1))
            counts.append(told(layers(spec, shape, 4)[i - 1], x.reshape(rows, batch, -1)))
        counter.give(given[0].reshape(-1, batch, *shape))
        counter.add(Emitted(batch=batch, passes=1, counts=tuple(counts[1:])))
    return counter.total()


def told(layer, emitted):
    """What is told of what a layer emitted, `[T, B, neurons]`."""
    counts = np.count_nonzero(emitted, 0).astype(np.float32)
    return (counts.T if layer.kind == "conv" else counts).reshape(1, -1)


@pytest.mark.parametrize(("kernel", "stride"), list(itertools.product((1, 2, 3, 5), (1, 2, 3))))
def test_convolution_products_equal_brute_force(kernel, stride):
    spec = layers(task("conv", channels=(3,), kernel=kernel, stride=stride), (2, 7, 9), 4)[0]
    rows, columns = spec.outputs[1:]
    reached = np.zeros((2, 7, 9), int)
    for r, c, i, j in itertools.product(range(rows), range(columns), range(kernel), range(kernel)):
        y, x = r * stride - spec.padding + i, c * stride - spec.padding + j
        if 0 <= y < 7 and 0 <= x < 9:
            reached[:, y, x] += 3
    np.testing.assert_array_equal(fan_out(spec), reached.reshape(-1))
    assert dense_products(spec) == reached.sum()


def test_rate_coded_network_by_hand():
    # 10-6-4, T=5, B=3; 40 input spikes of fan-out 6, 20 hidden spikes of fan-out 4.
    found = counted(task(), (10,), (40, 20))
    updates = 5 * 3 * (6 + 4)
    assert (found.macs, found.effective_macs) == (0, 0)
    assert found.acs == 40 * 6 + 20 * 4
    assert found.dense_macs == 15 * (60 + 24)
    assert found.membrane_updates == updates
    assert found.backward_macs == 15 * (60 + 2 * 24) + 2 * updates
    assert (found.spikes, found.spike_sites) == (20, 5 * 3 * 6)
    assert (found.active, found.sites) == ((40, 20), (150, 90))
    # Each step reads 94 weights and biases, and backward the second layer's 24 weights; gradients are written once,
    # then read and written at four further steps.
    backward = 4 * (5 * 24 + 9 * 94 + 3 * updates)
    assert found.memory_bytes - found.backward_bytes == 4 * (5 * 94 + 3 * updates)
    assert found.backward_bytes == backward


def test_direct_coding_pays_for_the_first_layer_once():
    found = counted(task(encoding="direct"), (10,), (20, 20))
    assert (found.macs, found.effective_macs) == (3 * 60, 20 * 6)
    assert found.acs == 20 * 4
    assert found.dense_macs == 3 * 60 + 15 * 24
    assert found.backward_macs == 3 * 60 + 15 * 2 * 24 + 2 * 150
    assert found.memory_bytes == 4 * ((66 + 5 * 28) + 5 * 24 + (66 + 9 * 28) + 6 * 150)


def test_ann_twin_by_hand():
    found = counted(task(family="ann", steps=7, encoding="direct"), (10,), (29, 17))
    assert (found.macs, found.dense_macs) == (3 * (60 + 24),) * 2
    assert found.effective_macs == 29 * 6 + 17 * 4
    assert found.backward_macs == 3 * (60 + 2 * 24 + 10)
    assert (found.acs, found.membrane_updates, found.spikes, found.spike_sites) == (0, 0, 0, 0)
    assert (found.active, found.sites) == ((29, 17), (30, 18))
    assert found.memory_bytes == 4 * (94 + 24 + 94 + 3 * 30)


def test_batches_add_up():
    one, three = (counted(task(), (10,), (40, 20), batches=n) for n in (1, 3))
    for name in one.__struct_fields__:
        value = getattr(one, name)
        tripled = tuple(3 * n for n in value) if isinstance(value, tuple) else 3 * value
        assert getattr(three, name) == tripled, name


def test_eight_bit_weights_are_read_as_bytes():
    wide = counted(task(), (10,), (0, 0), batch=1).memory_bytes
    narrow = counted(task(bits=8), (10,), (0, 0), batch=1).memory_bytes
    assert wide - narrow == 3 * 5 * (60 + 24 + 24)


def test_full_convolution_activity_costs_the_dense_products():
    spec = task("conv", channels=(2, 3), kernel=3, steps=1)
    found = counted(spec, (1, 8, 8), (64, 32, 12, 6), batch=1)
    assert found.acs == found.dense_macs == sum(dense_products(layer) for layer in layers(spec, (1, 8, 8), 4))


@pytest.mark.parametrize("emitted", [(), ((1, 18), (1, 18)), ((), ()), ((6,),), ((1, 17),)])
def test_what_does_not_fit_the_layers_is_refused(emitted):
    counter = OperationCounter(task(), (10,), 4)
    counts = tuple(np.zeros(shape, np.float32) for shape in emitted)
    with pytest.raises(ValueError, match="expected"):
        counter.add(Emitted(batch=3, passes=1, counts=counts))


def test_what_does_not_fit_an_ann_or_a_convolution_is_refused():
    for spec, shape, emitted in (
        (task(family="ann"), (10,), (1, 17)),
        (task("conv", channels=(2, 3)), (1, 8, 8), (31,)),
    ):
        counter = OperationCounter(spec, shape, 4)
        hidden = (np.zeros(emitted, np.float32),) * (len(layers(spec, shape, 4)) - 1)
        with pytest.raises(ValueError, match="expected"):
            counter.add(Emitted(batch=3, passes=1, counts=hidden))


@pytest.mark.parametrize("kind", ["fc", "conv"])
def test_sums_beyond_what_float32_counts_are_exact(kind):
    layer = layers(task(kind, channels=(2, 3)), (1, 8, 8), 4)[1]
    entry = LayerEntry.of(layer, steps=5, columns=kind == "conv", spikes=True)
    each = 2**20 + 1
    counts = np.full((1, 3 * math.prod(layer.inputs)), each, np.float32)
    found = activity_of_counts(entry, counts, batch=3, most=5 * 2**20)
    active = np.sum(found)
    assert active == counts.size * each > EXACT
    assert active % 2**21 != 0, "a sum in float32 could not have held it"
    assert np.all(found == (3 * each if kind == "conv" else counts.size * each))


@pytest.mark.parametrize("batches", [1, 200])
@pytest.mark.parametrize("name", ["fc, rate", "conv with borders, rate", "ann of rectifiers, conv"])
def test_however_many_batches_come_all_are_counted(name, batches):
    """Batches of two sizes in turn now and then, each of other activity."""
    spec, shape = NETWORKS[name]
    rng = np.random.default_rng(4)
    counter, expected = OperationCounter(spec, shape, 4), np.zeros(len(layers(spec, shape, 4)), np.int64)
    for i in range(batches):
        batch = 2 + i // 50 % 2
        hidden = [
            (rng.random((batch, math.prod(layer.inputs))) < 0.3).astype(np.float32) for layer in layers(spec, shape, 4)
        ]
        ann = spec.model.family == "ann"
        frames = np.zeros((1 if ann else 5, batch, *shape), np.float32)
        frames[0] = hidden[0].reshape(batch, *shape)
        counter.give(frames)
        fed = [told(layer, x[None]) for layer, x in zip(layers(spec, shape, 4), hidden[1:], strict=False)]
        counter.add(Emitted(batch=batch, passes=1, counts=tuple(fed)))
        expected += [int(x.sum()) for x in hidden]
    assert counter.total().active == tuple(expected)


def test_frames_that_were_never_passed_are_noticed():
    counter = OperationCounter(task(), (10,), 4)
    counter.give(np.zeros((5, 3, 10), np.uint8))
    with pytest.raises(ValueError, match="frames of 3 samples were given, passes over 0"):
        counter.total()
    with pytest.raises(ValueError, match="expected 15 times 10"):
        counter.give(np.zeros((5, 3, 9), np.uint8))


def test_more_ones_at_a_place_than_a_byte_holds_are_counted():
    spec = task("conv", channels=(3,), kernel=3, steps=300, hidden=())
    counter = OperationCounter(spec, (1, 8, 8), 4)
    counter.give(np.ones((300, 2, 1, 8, 8), np.uint8))
    counter.add(Emitted(batch=2, passes=1, counts=(np.full((1, 2 * 3 * 16), 300, np.float32),)))
    found = counter.total()
    assert found.acs == found.dense_macs
    assert found.active == found.sites


NETWORKS = {
    "fc, rate": (task(hidden=(20, 12)), (1, 9, 9)),
    "fc, direct": (task(encoding="direct", hidden=(20, 12)), (1, 9, 9)),
    "conv with borders, rate": (task("conv", channels=(3, 4), kernel=5, hidden=(7,)), (2, 11, 9)),
    "conv of stride 3, direct": (task("conv", encoding="direct", channels=(3, 4), kernel=3, stride=3), (2, 11, 9)),
    "ann of rectifiers, conv": (
        task("conv", encoding="direct", family="ann", channels=(3, 4), kernel=3, activation="relu"),
        (2, 11, 9),
    ),
    "ann of rectifiers, fc": (task(encoding="direct", family="ann", activation="relu", hidden=(20,)), (1, 9, 9)),
}


def neurobench(spec, shape, frames, params):
    """NeuroBench's three counts and the activity, by hooks on the layers of snntorch's network stepped in Python.

    Each connection's input is made 0 and 1 and put through a copy of the layer whose weights are 1 without a bias: what
    comes out are the products that were formed (`neurobench.metrics.utils.layers.macs`, 2.3.0).
    """
    network = SteppingNetwork(spec, shape, 4)
    network.load_state_dict({name: torch.from_numpy(value) for name, value in params.items()}, strict=False)
    found = {"macs": 0, "acs": 0, "dense": 0, "active": [0] * len(network.layers)}
    once = spec.encoding.kind == "direct"

    def counted_affine(index, weight, x):
        layer = network.layers[index]
        x_of = x if isinstance(layer, nn.Conv2d) else x.flatten(1)
        if not (once and index == 0 and found["active"][0]):  # the first layer's current is kept
            ones = torch.ones_like(weight, dtype=torch.float64)
            for given, name in (((x_of != 0).double(), ""), (torch.ones_like(x_of).double(), "dense")):
                out = (
                    nn.functional.conv2d(given, ones, None, layer.stride, layer.padding)
                    if isinstance(layer, nn.Conv2d)
                    else nn.functional.linear(given, ones)
                )
                spiking = bool(((x_of == 0) | (x_of == 1)).all())
                found[name or ("acs" if spiking else "macs")] += int(out.sum())
            found["active"][index] += int(torch.count_nonzero(x_of))
        return plain(index, weight, x)

    plain, network._affine = network._affine, counted_affine
    with torch.no_grad():
        network(torch.from_numpy(frames))
    return found


@pytest.mark.parametrize("engine", ["onnx", "torch"])
@pytest.mark.parametrize("name", NETWORKS)
def test_counts_equal_neurobenchs_definition_to_the_operation(name, engine):
    spec, shape = NETWORKS[name]
    rng = np.random.default_rng(3)
    direct = spec.encoding.kind == "direct"
    frames = rng.random((1 if direct else spec.encoding.steps, 3, *shape), dtype=np.float32)
    frames = (np.where(frames < 0.3, 0, frames) if direct else frames < 0.3).astype(np.float32)
    graphs = {"training": training_graph(spec, shape, 4)} if engine == "onnx" else {}
    opened = open_engine(engine, spec, shape, 4, graphs=graphs)
    sizes = {
        f"{layer.name}.{part}": getattr(layer, f"{part}_shape")
        for layer in layers(spec, shape, 4)
        for part in ("weight", "bias")
    }
    params = {key: (0.5 * rng.standard_normal(size)).astype(np.float32) for key, size in sizes.items()}
    counter = OperationCounter(spec, shape, 4)
    counter.give(frames if direct else frames.astype(np.uint8))
    opened.gradients(params, frames, np.zeros(3, int))
    counter.add(*opened.emitted())
    found, expected = counter.total(), neurobench(spec, shape, frames, params)
    assert found.effective_macs == expected["macs"]
    assert found.acs == expected["acs"]
    assert found.dense_macs == expected["dense"]
    assert list(found.active) == expected["active"]
    assert 0 < found.effective_macs + found.acs < found.dense_macs
    assert all(0 < active < sites for active, sites in zip(found.active[1:], found.sites[1:], strict=True))
