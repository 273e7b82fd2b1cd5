"""The mathematics of the frame attacks, on small factorisations and hand-made cases."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attack.frames.clustering import clusters, distances
from attack.frames.deflation import Deflation
from attack.frames.enumeration import MAX_RANK, enumerate_frames
from attack.frames.row_space import pivot_form, row_space
from attack.frames.simulation import SURROGATES, Simulator
from attack.frames.spectrum import spectrum
from attack.frames.vertex_hunt import VertexHunt
from contract.models.surrogates import surrogate
from contract.task import NeuronSpec
from tests.conftest import ROOT
from tests.frame_updates import rate_task, stepped_gradient


def factorisation(seed, rank, width=120, hidden=64, density=0.4):
    """A gradient ``Delta X`` with binary X, in float32's precision."""
    rng = np.random.default_rng(seed)
    frames = (rng.random((rank, width)) < density).astype(np.uint8)
    delta = rng.normal(size=(hidden, rank))
    return (delta @ frames).astype(np.float32).astype(np.float64), frames, delta


def as_set(frames):
    return {frame.tobytes() for frame in np.asarray(frames, dtype=np.uint8)}


def test_the_rank_is_where_the_spectrum_falls():
    found = spectrum(np.array([1.0, 0.1, 1e-2, 1e-8, 5e-9]))
    assert found.rank == 3
    assert found.gap == pytest.approx(1e6)
    assert 1e-8 < found.floor < 1e-2
    assert spectrum(np.array([1.0, 0.5, 0.3]), most=2).rank <= 2
    assert spectrum(np.zeros(4)).rank == 0


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), rank=st.integers(1, 9))
def test_enumeration_finds_every_frame_and_no_stranger_enters(seed, rank):
    gradient, frames, _ = factorisation(seed, rank)
    space = row_space(gradient)
    assert space.rank == np.linalg.matrix_rank(frames.astype(float))
    assert as_set(frames[frames.any(axis=1)]) <= as_set(enumerate_frames(space))
    stranger = np.random.default_rng(seed + 1).integers(0, 2, (5, 120)).astype(np.uint8)
    assert not space.members(stranger[:, space.active]).any()


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10_000), rank=st.integers(2, 12))
def test_the_hunt_finds_every_frame(seed, rank):
    gradient, frames, _ = factorisation(seed, rank)
    space = row_space(gradient)
    hunt = VertexHunt(space=space, rng=np.random.default_rng(seed))
    hunt.run(20.0)
    assert hunt.complete
    assert as_set(frames[frames.any(axis=1)]) <= as_set(space.widen(hunt.frames))


def test_enumeration_refuses_what_it_cannot_finish():
    gradient, _, _ = factorisation(0, MAX_RANK + 1)
    with pytest.raises(ValueError, match="vertex hunt"):
        enumerate_frames(row_space(gradient))


def test_equal_columns_are_merged_and_pivots_carry_the_vector():
    gradient, frames, _ = factorisation(3, 6, width=40)
    space = row_space(np.hstack([gradient, gradient[:, :10], np.zeros((64, 5))]))
    silent = ~frames.any(axis=0)
    assert space.active.sum() == 50 - silent.sum() - silent[:10].sum()
    assert len(space.representative) == len(np.unique(frames[:, frames.any(axis=0)], axis=1).T)
    form = pivot_form(space.merged)
    vector = np.random.default_rng(0).normal(size=6) @ space.merged
    np.testing.assert_allclose(form.complete(vector[form.pivots]), vector, atol=1e-9)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), rank=st.integers(4, 12), taken=st.integers(1, 3))
def test_the_rank_drop_certifies_the_right_adjoints_alone(seed, rank, taken):
    gradient, frames, delta = factorisation(seed, rank)
    space = row_space(gradient)
    if space.rank < rank:
        return
    rest = Deflation(gradient, space)
    assert rest.certifies(frames[:taken], delta[:, :taken])
    assert not rest.certifies(frames[:taken], 1.5 * delta[:, :taken])
    assert not rest.certifies(frames[:taken], delta[:, 1 : taken + 1])
    rest.take(frames[:taken], delta[:, :taken])
    left = gradient - delta[:, :taken] @ frames[:taken]
    assert rest.left == rest.space.rank == np.linalg.matrix_rank(left, tol=1e-3)
    outside = rest.space.complement.T @ left
    assert np.abs(outside).max() < 1e-3 * np.abs(left).max()


def test_repeated_and_empty_frames_count_once_and_not_at_all():
    gradient, frames, delta = factorisation(5, 6)
    rest = Deflation(gradient, row_space(gradient))
    sample = np.stack([frames[0], frames[1] * 0, frames[0]])
    half = np.stack([delta[:, 0] * 0.25, delta[:, 1], delta[:, 0] * 0.75], axis=1)
    assert rest.certifies(sample, half)
    rest.take(sample, half)
    assert rest.left == 5


@pytest.mark.parametrize("name", sorted(SURROGATES))
def test_surrogates_are_those_of_the_network(name):
    u = torch.linspace(-2, 2, 41, dtype=torch.float64)
    spec = NeuronSpec(surrogate=name)
    expected = surrogate(spec)(u)
    one = np.eye(1)
    simulator = Simulator(weights=(one, one), biases=(np.zeros(1), np.zeros(1)), neuron=spec, readout="spike")
    np.testing.assert_allclose(simulator.surrogate(u.numpy() + 1.0), expected.numpy(), atol=1e-12)


@pytest.mark.parametrize("readout", ["membrane", "spike"])
@pytest.mark.parametrize("reset", ["subtract", "zero", "none"])
@pytest.mark.parametrize("hidden", [(16,), (16, 12)])
def test_simulated_gradients_equal_snntorchs(readout, reset, hidden):
    task = rate_task(6, readout=readout)
    task = type(task)(
        dataset="digits",
        encoding=task.encoding,
        model=type(task.model)(hidden=hidden, readout=readout, weight_bits=None),
        neuron=NeuronSpec(reset=reset, threshold=0.3),
    )
    rng = np.random.default_rng(4)
    widths = (64, *hidden, 10)
    parameters = {}
    for i, (n, m) in enumerate(pairwise(widths)):
        parameters[f"layers.{i}.weight"] = (rng.normal(size=(m, n)) * 1.5 / np.sqrt(n)).astype(np.float32)
        parameters[f"layers.{i}.bias"] = rng.normal(size=m).astype(np.float32) * 0.1
    frames = (rng.random((6, 1, 1, 8, 8)) < 0.4).astype(np.float32)
    expected = stepped_gradient(task, parameters, frames, np.array([3]))["layers.0.weight"]
    wide = {k: v.astype(np.float64) for k, v in parameters.items()}
    simulator = Simulator(
        weights=tuple(v for k, v in wide.items() if k.endswith("weight")),
        biases=tuple(v for k, v in wide.items() if k.endswith("bias")),
        neuron=task.neuron,
        readout=readout,
    )
    found = simulator.gradient(frames.reshape(6, 64).astype(np.float64), 3)
    np.testing.assert_allclose(found, expected, atol=2e-6 * np.abs(expected).max())


def test_clusters_follow_likeness_and_are_evened_out():
    rng = np.random.default_rng(0)
    means = np.repeat(np.array([[0.9] * 30 + [0.05] * 30, [0.05] * 30 + [0.9] * 30]), 5, axis=0)
    frames = (rng.random((10, 60)) < means).astype(np.uint8)
    adjoints = np.repeat(np.array([[1.0, -1.0], [-1.0, 1.0]]), 5, axis=1)
    groups = clusters(distances(frames, adjoints), groups=2, size=5)
    assert sorted(sorted(group.tolist()) for group in groups) == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    assert [len(group) for group in clusters(distances(frames, adjoints), groups=5, size=2)] == [2] * 5


def test_a_full_row_space_is_not_selective():
    gradient, _, _ = factorisation(0, 12, width=14)
    assert not row_space(gradient).selective
    assert row_space(factorisation(0, 12)[0]).selective


def test_the_solver_says_nothing_on_the_standard_output():
    code = "from attack.simplex import simplex; simplex(); simplex().run(); print('done')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "done\n"
