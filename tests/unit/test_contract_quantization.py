"""Quantised weights and fixed-point membranes: their definitions by hand, and the fast network against snntorch's."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from contract.models.emissions import Emitted
from contract.models.layout import layers
from contract.models.neurons import Leaky
from contract.models.operations import OperationCounter
from contract.models.quantization import GRIDS, fake_quantize, membrane_grid
from contract.task import NeuronSpec
from tests.unit.test_contract_network import (
    CLASSES,
    SHAPE,
    both,
    input_slope_of_gradient_norm,
    make_batch,
    make_task,
    relative,
)

BITS, MEMBRANES = (None, 2, 4, 8), (8, 16)
SIDES = tuple(itertools.product(("fc", "conv"), ("membrane", "spike"), ("direct", "rate")))
CASES = [
    (steps, reset, *SIDES[i % 8], bits, membrane)
    for i, (bits, membrane, reset, steps) in enumerate(
        itertools.product(BITS, MEMBRANES, ("subtract", "zero", "none"), (1, 5, 12))
    )
]


def weight(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(11), dtype=torch.float64)


@pytest.mark.parametrize("bits", sorted(GRIDS))
def test_levels_per_channel(bits):
    for channel in fake_quantize(weight(5, 400, 3, 3), bits):
        levels = channel.unique()
        assert 0.0 in levels
        steps = levels / levels.abs().max() * (2 ** (bits - 1) - 1)
        assert torch.allclose(steps, steps.round(), atol=1e-9)


def test_ternary_by_hand():
    # mean |w| = 0.5, so values over 0.35 stay, with the mean of their magnitudes: (0.4 + 0.6 + 0.8) / 3 = 0.6.
    row = torch.tensor([[0.4, -0.6, 0.2, 0.8]], dtype=torch.float64)
    assert torch.allclose(fake_quantize(row, 2), torch.tensor([[0.6, -0.6, 0.0, 0.6]], dtype=torch.float64))


def test_ternary_is_close_to_the_best_there_is():
    """0.7 mean|w| is a rule of thumb; the best threshold is found by trying all, in (sum kept)^2 / kept."""
    row = weight(1, 500)
    magnitude = row.abs().flatten().sort(descending=True).values
    explained = magnitude.cumsum(0).square() / torch.arange(1, 501)
    best = (row.square().sum() - explained.max()).item()
    assert best <= (fake_quantize(row, 2) - row).square().sum().item() < 1.01 * best


@pytest.mark.parametrize("bits", sorted(GRIDS))
def test_a_silent_channel_stays_silent_and_the_gradient_passes(bits):
    w = weight(3, 7)
    w[1] = 0
    w.requires_grad_()
    quantized = fake_quantize(w, bits)
    assert quantized[1].eq(0).all()
    assert quantized.isfinite().all()
    upstream = torch.rand_like(w)
    assert torch.equal(torch.autograd.grad(quantized, w, upstream)[0], upstream)


@pytest.mark.parametrize("bits", MEMBRANES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("threshold", [0.3, 1.0, 1.7])
def test_membrane_grid(bits, dtype, threshold):
    grid = membrane_grid(threshold, bits)
    points = torch.tensor([0.0, threshold, -threshold, 100.0, -100.0], dtype=dtype)
    rounded = grid.round_(points.clone())
    assert torch.equal(rounded[:3], points[:3])  # zero and the threshold lie on it, exactly
    assert rounded[3:].tolist() == pytest.approx([4 * threshold - grid.step, -4 * threshold], rel=1e-6)
    inside = (torch.rand(1000, generator=torch.Generator().manual_seed(2), dtype=dtype) * 7 - 3.5) * threshold
    moved = (grid.round_(inside.clone()) - inside).abs()
    assert grid.step * 0.4 < moved.max() <= grid.step * 0.5001
    codes = grid.round_(inside) / grid.step
    assert (codes - codes.round()).abs().max() < 1e-2


def test_membrane_is_float_unless_asked():
    assert membrane_grid(1.0, None) is None
    assert Leaky(NeuronSpec()).grid is None


TRAJECTORIES = {
    # In units of the grid, 1/32: beta 0.5, threshold 32, current 23.4, rounded at each step.
    "subtract": [23, 35, 9, 28, 37, 10],
    "zero": [23, 35, 23, 35, 23, 35],
    "none": [23, 35, 41, 44, 45, 46],
}


@pytest.mark.parametrize("reset", sorted(TRAJECTORIES))
def test_fixed_point_voltage_by_hand(reset):
    neuron = Leaky(NeuronSpec(beta=0.5, threshold=1.0, reset=reset), membrane_bits=8)
    current = torch.full((6, 1), 23.4 / 32, dtype=torch.float64)
    spikes, membranes = neuron(current)
    assert (membranes * 32).flatten().tolist() == TRAJECTORIES[reset]
    assert spikes.flatten().tolist() == [float(code > 32) for code in TRAJECTORIES[reset]]


def test_ties_go_to_even_and_a_small_membrane_no_longer_leaks():
    neuron = Leaky(NeuronSpec(beta=0.9, threshold=1.0), membrane_bits=8)
    current = torch.tensor([5.0, 0.0, 0.0, 0.0], dtype=torch.float64)[:, None] / 32
    assert (neuron(current)[1] * 32).flatten().tolist() == [5, 4, 4, 4]  # 4.5 to 4, then 3.6 to 4


class Membranes:
    """What every neuron's membrane was, in the fast and in the stepping network: `[layer][T, B, ...]`."""

    def __init__(self, reference, network):
        self.stepped, self.fast, leaky = [[] for _ in reference.neurons], [], network._neuron
        for neuron, kept in zip(reference.neurons, self.stepped, strict=True):
            neuron.register_forward_hook(lambda _m, _in, out, kept=kept: kept.append(out[1].detach()))
        network._neuron = self._record(leaky)

    def _record(self, leaky):
        def run(current):
            spikes, membranes = leaky(current)
            self.fast.append(membranes.detach())
            return spikes, membranes

        return run

    def flips(self):
        """Fixed-point membranes that differ: one was on a tie of rounding, and what followed from it."""
        pairs = zip(self.fast, [torch.stack(kept) for kept in self.stepped], strict=False)
        return sum(int((f - s.view_as(f)).abs().gt(1e-5).sum()) for f, s in pairs)


def gradients(case, dtype):
    steps, reset, kind, readout, encoding, bits, membrane = case
    task = make_task(steps, reset, kind, "atan", encoding, bits, readout, membrane_bits=membrane)
    reference, network, params = both(task, dtype)
    membranes = Membranes(reference, network)
    frames, labels = make_batch(task, dtype)
    expected, found = reference(frames), network(params, frames)
    wanted = torch.autograd.grad(cross_entropy(expected, labels), list(reference.parameters()))
    got = torch.autograd.grad(cross_entropy(found, labels), list(params.values()))
    worst = max(relative(f, e) for f, e in zip((found, *got), (expected, *wanted), strict=True))
    return worst, membranes.flips()


def test_every_choice_occurs_with_every_number_of_bits():
    for column in range(5):
        values = {case[column] for case in CASES}
        assert {(case[column], *case[5:]) for case in CASES} == set(itertools.product(values, BITS, MEMBRANES))


def test_equals_snntorch_stepping_in_float64():
    for case in CASES:
        worst, flips = gradients(case, torch.float64)
        assert worst < 1e-10, case
        assert flips == 0, case


def test_equals_snntorch_stepping_in_float32_but_for_ties_of_rounding():
    tied = {8: 0, 16: 0}
    for case in CASES:
        worst, flips = gradients(case, torch.float32)
        assert worst < 1e-5 or flips, case
        tied[case[-1]] += flips > 0
    # A grid 256 times finer has as many more ties within float32's rounding.
    assert tied[8] <= 0.05 * len(CASES) / 2
    assert tied[16] <= 0.5 * len(CASES) / 2


@pytest.mark.parametrize(("bits", "membrane", "kind", "reset", "readout", "encoding"), [
    (2, 8, "fc", "subtract", "membrane", "direct"),
    (4, 16, "fc", "zero", "spike", "rate"),
    (2, 16, "conv", "none", "spike", "direct"),
    (None, 8, "conv", "zero", "membrane", "rate"),
])  # fmt: skip
def test_second_derivative_equals_snntorch(bits, membrane, kind, reset, readout, encoding):  # noqa: PLR0917 - one case
    task = make_task(6, reset, kind, "atan", encoding, bits, readout, membrane_bits=membrane)
    reference, network, params = both(task, torch.float64)
    frames, labels = make_batch(task)
    frames.requires_grad_()
    expected = input_slope_of_gradient_norm(reference(frames), list(reference.parameters()), frames, labels)
    found = input_slope_of_gradient_norm(network(params, frames), list(params.values()), frames, labels)
    assert expected.abs().max() > 0
    assert relative(found, expected) < 1e-10


@pytest.mark.parametrize("readout", ["membrane", "spike"])
def test_fixed_point_membranes_move_fewer_bytes(readout):
    def moved(bits):
        task = make_task(5, "subtract", "fc", "atan", readout=readout, membrane_bits=bits)
        counter = OperationCounter(task, SHAPE, CLASSES)
        hidden = [np.zeros((1, 3 * math.prod(layer.outputs)), np.float32) for layer in layers(task, SHAPE, CLASSES)]
        counter.give(np.zeros((1, 3, *SHAPE), np.float32))
        counter.add(Emitted(batch=3, passes=1, counts=tuple(hidden[:-1])))
        return counter.total().memory_bytes

    neurons = 16 + (CLASSES if readout == "spike" else 0)
    for bits in MEMBRANES:
        assert moved(None) - moved(bits) == 3 * 5 * 3 * neurons * (32 - bits) // 8
