"""The layer-wise network against snntorch's own stepping, against plain torch, and against finite differences."""

from __future__ import annotations

import itertools

import pytest
import torch
from msgspec import structs
from torch import nn
from torch.nn.functional import cross_entropy

from contract.errors import ConfigurationError
from contract.models import neurons
from contract.models.layout import initial_parameters, layers, parameter_shapes
from contract.models.network import Network
from contract.models.quantization import fake_quantize
from contract.models.reference import SteppingNetwork
from contract.models.surrogates import SURROGATES
from contract.task import EncodingSpec, ModelSpec, NeuronSpec, TaskSpec

SHAPE, CLASSES = (1, 10, 10), 4
KINDS, RESETS, STEPS = ("fc", "conv"), ("subtract", "zero", "none"), (1, 5, 10, 25)
# Encoding, weight bits and readout go round so that every pair of choices of any two columns occurs.
TAILS = tuple(itertools.product(("direct", "rate"), (8, None), ("membrane", "spike")))
GRID = [
    (*case, *TAILS[(i + i // 8) % 8])
    for i, case in enumerate(itertools.product(STEPS, RESETS, KINDS, sorted(SURROGATES)))
]


def make_task(steps, reset, kind, surrogate, encoding="direct", bits=None, readout="membrane", **model):  # noqa: PLR0917 - one case of the grid
    return TaskSpec(
        encoding=EncodingSpec(kind=encoding, steps=steps),
        model=ModelSpec(kind=kind, hidden=(16,), channels=(3, 4), kernel=3, readout=readout, weight_bits=bits, **model),
        neuron=NeuronSpec(reset=reset, surrogate=surrogate, threshold=0.3),
    )


def make_batch(task, dtype=torch.float64, batch=3):
    draw = torch.Generator().manual_seed(7)
    direct = task.encoding.kind == "direct"
    x = torch.rand((1 if direct else task.encoding.steps, batch, *SHAPE), generator=draw)
    return (x if direct else (x < 0.4)).to(dtype), torch.randint(0, CLASSES, (batch,), generator=draw)


def both(task, dtype):
    reference = SteppingNetwork(task, SHAPE, CLASSES, dtype=dtype)
    params = {k: v.detach().clone().requires_grad_() for k, v in reference.named_parameters()}
    return reference, Network(task, SHAPE, CLASSES, dtype=dtype), params


def relative(found, expected):
    found, expected = found.detach(), expected.detach()
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-12))


def test_grid_covers_every_pair_of_choices():
    for a, b in itertools.combinations(range(7), 2):
        values = [sorted({str(case[i]) for case in GRID}) for i in (a, b)]
        assert {(str(c[a]), str(c[b])) for c in GRID} == set(itertools.product(*values))


@pytest.mark.parametrize("case", GRID, ids=lambda case: "-".join(map(str, case)))
def test_equals_snntorch_stepping(case):
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        task = make_task(*case)
        if task.neuron.surrogate == "sigmoid" and dtype == torch.float32:
            # snntorch's default slope of 25 overflows to NaN there; ours does not, see below.
            task = structs.replace(task, neuron=structs.replace(task.neuron, surrogate_slope=5.0))
        reference, network, params = both(task, dtype)
        assert tuple(dict(reference.named_parameters())) == network.names
        frames, labels = make_batch(task, dtype)
        expected, found = reference(frames), network(params, frames)
        assert relative(found, expected) < tolerance
        wanted = torch.autograd.grad(cross_entropy(expected, labels), list(reference.parameters()))
        got = torch.autograd.grad(cross_entropy(found, labels), [params[n] for n in network.names])
        for name, g, w in zip(network.names, got, wanted, strict=True):
            assert relative(g, w) < tolerance, name


def input_slope_of_gradient_norm(scores, parameters, frames, labels):
    gradients = torch.autograd.grad(cross_entropy(scores, labels), parameters, create_graph=True)
    return torch.autograd.grad(sum(g.square().sum() for g in gradients), frames)[0]


@pytest.mark.parametrize("surrogate", sorted(SURROGATES))
@pytest.mark.parametrize(("kind", "reset", "readout", "encoding"), [
    ("fc", "subtract", "membrane", "direct"),
    ("fc", "zero", "spike", "rate"),
    ("conv", "none", "spike", "direct"),
    ("conv", "zero", "membrane", "rate"),
])  # fmt: skip
def test_second_derivative_equals_snntorch(surrogate, kind, reset, readout, encoding):
    task = make_task(6, reset, kind, surrogate, encoding, 8, readout)
    reference, network, params = both(task, torch.float64)
    frames, labels = make_batch(task)
    frames.requires_grad_()
    expected = input_slope_of_gradient_norm(reference(frames), list(reference.parameters()), frames, labels)
    found = input_slope_of_gradient_norm(network(params, frames), list(params.values()), frames, labels)
    assert expected.abs().max() > 0
    assert relative(found, expected) < 1e-10


SMOOTH = {
    "atan": (2.0, lambda m, thr: torch.atan(torch.pi * (m - thr)) / torch.pi),
    "fast_sigmoid": (3.0, lambda m, thr: (m - thr) / (1 + 3 * (m - thr).abs())),
    "sigmoid": (4.0, lambda m, thr: torch.sigmoid(4 * (m - thr))),
}


@pytest.mark.parametrize("readout", ["membrane", "spike"])
@pytest.mark.parametrize("surrogate", sorted(SMOOTH))
def test_second_derivative_against_finite_differences(surrogate, readout, monkeypatch):
    """With the step replaced by the surrogate's own integral, surrogate derivatives are true derivatives."""
    slope, smooth_step = SMOOTH[surrogate]
    monkeypatch.setattr(neurons, "_fires", smooth_step)
    task = TaskSpec(
        encoding=EncodingSpec(steps=4),
        model=ModelSpec(hidden=(5, 4), readout=readout, weight_bits=None),
        neuron=NeuronSpec(reset="none", surrogate=surrogate, surrogate_slope=slope, threshold=0.3),
    )
    network = Network(task, (6,), 3, dtype=torch.float64)
    params = {k: torch.from_numpy(v).double().requires_grad_() for k, v in initial_parameters(task, (6,), 3).items()}
    labels = torch.tensor([2, 0])

    def gradient_norm(frames):
        loss = cross_entropy(network(params, frames), labels)
        gradients = torch.autograd.grad(loss, list(params.values()), create_graph=True)
        return sum(g.square().sum() for g in gradients)

    frames = torch.rand((1, 2, 6), generator=torch.Generator().manual_seed(3), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(gradient_norm, (frames,), eps=1e-6, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("forgets", [False, True])
def test_scan_is_its_own_definition_and_differentiable(reverse, forgets):
    draw = torch.Generator().manual_seed(5)
    x = torch.randn((5, 3), generator=draw, dtype=torch.float64, requires_grad=True)
    keep = (torch.rand((5, 3), generator=draw) < 0.5).double() if forgets else None
    factors = torch.ones((5, 3), dtype=torch.float64) if keep is None else keep
    expected = x.detach().clone()
    for t in range(1, 5):
        if reverse:
            expected[4 - t] += 0.7 * factors[4 - t] * expected[5 - t]
        else:
            expected[t] += 0.7 * factors[t - 1] * expected[t - 1]
    assert torch.allclose(neurons.scan(x, 0.7, keep, reverse=reverse), expected, rtol=1e-12)
    assert torch.autograd.gradcheck(lambda v: neurons.scan(v, 0.7, keep, reverse=reverse), (x,))
    assert torch.autograd.gradgradcheck(lambda v: neurons.scan(v, 0.7, keep, reverse=reverse), (x,))


TRAJECTORIES = {
    # beta = 0.5, threshold 1, current 0.75 at each step; a spike at step t lowers step t + 1.
    "subtract": ([0.75, 1.125, 0.3125, 0.90625, 1.203125, 0.3515625], [0, 1, 0, 0, 1, 0]),
    "zero": ([0.75, 1.125, 0.75, 1.125, 0.75, 1.125], [0, 1, 0, 1, 0, 1]),
    "none": ([0.75, 1.125, 1.3125, 1.40625, 1.453125, 1.4765625], [0, 1, 1, 1, 1, 1]),
}


@pytest.mark.parametrize("reset", sorted(TRAJECTORIES))
def test_voltage_by_hand(reset):
    membranes, spikes = TRAJECTORIES[reset]
    neuron = neurons.Leaky(NeuronSpec(beta=0.5, threshold=1.0, reset=reset))
    found_spikes, found_membranes = neuron(torch.full((6, 1), 0.75, dtype=torch.float64))
    assert found_membranes.flatten().tolist() == membranes
    assert found_spikes.flatten().tolist() == spikes


def test_spike_needs_more_than_the_threshold():
    neuron = neurons.Leaky(NeuronSpec(beta=0.5, threshold=1.0))
    assert neuron(torch.tensor([[1.0], [0.0]]))[0].sum() == 0


def test_slope_of_the_task_is_used():
    u = torch.linspace(-2, 2, 9, dtype=torch.float64)
    for name, member in SURROGATES.items():
        narrow = neurons.Leaky(NeuronSpec(surrogate=name, surrogate_slope=7.0)).derivative(u)
        assert torch.equal(narrow, member.derivative(u, 7.0))


def test_steep_sigmoid_stays_finite_where_snntorch_overflows():
    u = torch.tensor([-100.0, 0.0, 100.0])
    assert SURROGATES["sigmoid"].derivative(u, 25.0).tolist() == [0.0, 6.25, 0.0]


@pytest.mark.parametrize("activation", ["sigmoid", "relu"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", [8, None])
def test_ann_twin_equals_plain_torch(kind, activation, bits):
    task = make_task(3, "subtract", kind, "atan", "direct", bits, family="ann", activation=activation)
    make = {"sigmoid": nn.Sigmoid, "relu": nn.ReLU}[activation]
    convolutions = [nn.Conv2d(1, 3, 3, 2, 1), make(), nn.Conv2d(3, 4, 3, 2, 1), make(), nn.Flatten()]
    stem = convolutions if kind == "conv" else [nn.Flatten()]
    plain = nn.Sequential(*stem, nn.Linear(36 if kind == "conv" else 100, 16), make(), nn.Linear(16, 4)).double()
    network = Network(task, SHAPE, CLASSES, dtype=torch.float64)
    drawn = initial_parameters(task, SHAPE, CLASSES)
    params = {k: torch.from_numpy(v).double().requires_grad_() for k, v in drawn.items()}
    with torch.no_grad():
        for own, mine in zip(plain.parameters(), params.values(), strict=True):
            own.copy_(fake_quantize(mine, bits) if mine.ndim > 1 else mine)
    frames, labels = make_batch(task)
    expected, found = plain(frames[0]), network(params, frames)
    assert relative(found, expected) < 1e-12
    wanted = torch.autograd.grad(cross_entropy(expected, labels), list(plain.parameters()))
    got = torch.autograd.grad(cross_entropy(found, labels), list(params.values()))
    assert all(relative(g, w) < 1e-12 for g, w in zip(got, wanted, strict=True))
    reference, _, _ = both(task, torch.float64)
    assert relative(found, reference(frames)) < 1e-12


@pytest.mark.parametrize("kind", KINDS)
def test_trace_names_hidden_activity(kind):
    for family, steps in (("snn", 5), ("ann", 1)):
        task = make_task(5, "subtract", kind, "atan", "direct", family=family)
        _, network, params = both(task, torch.float32)
        frames, _ = make_batch(task, torch.float32)
        logits, emitted = network.trace(params, frames)
        assert torch.equal(logits, network(params, frames))
        expected = [(steps, 3, *layer.outputs) for layer in network.layers[:-1]]
        assert [tuple(e.shape) for e in emitted] == expected
        if family == "snn":
            assert set(torch.cat([e.flatten() for e in emitted]).tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("kind", KINDS)
def test_direct_frame_equals_the_same_frame_repeated(kind):
    task = make_task(5, "subtract", kind, "atan")
    _, network, params = both(task, torch.float64)
    frames, _ = make_batch(task)
    once, repeated = network(params, frames), network(params, frames.expand(5, *frames.shape[1:]).clone())
    assert relative(once, repeated) < 1e-12


def test_wrong_frames_are_refused():
    _, network, params = both(make_task(5, "subtract", "fc", "atan"), torch.float32)
    for shape in ((2, 3, *SHAPE), (5, 3, 1, 10, 9)):
        with pytest.raises(ValueError, match=r"expected \[5 or 1, batch, 1, 10, 10\]"):
            network(params, torch.zeros(shape))


def test_fake_quantization_is_a_grid_of_255_levels_per_channel():
    weight = torch.randn((3, 4, 3, 3), generator=torch.Generator().manual_seed(1)).requires_grad_()
    with torch.no_grad():
        weight[1] = 0
    quantized = fake_quantize(weight, 8)
    scale = weight.detach().flatten(1).abs().amax(1) / 127
    codes = quantized[0] / scale[0]
    assert torch.allclose(codes, codes.round(), atol=1e-4)
    assert codes.abs().max().round() == 127
    assert ((quantized - weight).flatten(1).abs().amax(1) <= scale / 2 * 1.001).all()
    assert quantized[1].eq(0).all()
    upstream = torch.rand_like(weight)
    assert torch.equal(torch.autograd.grad(quantized, weight, upstream)[0], upstream)
    assert fake_quantize(weight, None) is weight


def test_initial_parameters_follow_the_seed_and_torchs_bounds():
    task = make_task(5, "subtract", "conv", "atan")
    first, second = initial_parameters(task, SHAPE, CLASSES), initial_parameters(task, SHAPE, CLASSES)
    assert {k: v.shape for k, v in first.items()} == parameter_shapes(task, SHAPE, CLASSES)
    assert all((first[k] == second[k]).all() for k in first)
    other = initial_parameters(TaskSpec(model=task.model, seed=2), SHAPE, CLASSES)
    assert not (first["layers.0.weight"] == other["layers.0.weight"]).any()
    for layer in layers(task, SHAPE, CLASSES):
        fan_in = first[f"{layer.name}.weight"][0].size
        for part in ("weight", "bias"):
            assert abs(first[f"{layer.name}.{part}"]).max() <= fan_in**-0.5


@pytest.mark.parametrize(("model", "shape", "match"), [
    (ModelSpec(kind="conv"), (64,), "channels, height, width"),
    (ModelSpec(hidden=()), (1, 8, 8), "hidden"),
])  # fmt: skip
def test_impossible_layouts_are_refused(model, shape, match):
    with pytest.raises(ConfigurationError, match=match):
        layers(TaskSpec(model=model), shape, 2)


def test_convolutions_may_have_kernels_of_their_own():
    task = TaskSpec(model=ModelSpec(kind="conv", hidden=(), channels=(8, 16), kernel=(5, 3)))
    assert [spec.weight_shape for spec in layers(task, (1, 28, 28), 10)[:2]] == [(8, 1, 5, 5), (16, 8, 3, 3)]
    assert [spec.outputs for spec in layers(task, (1, 28, 28), 10)[:2]] == [(8, 14, 14), (16, 7, 7)]
    with pytest.raises(ValueError, match=r"kernel = \[5\] with channels = \[8, 16\]"):
        ModelSpec(kind="conv", kernel=(5,))
