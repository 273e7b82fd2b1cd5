"""The attacker's own copy of a quantised network, and what it still reads out of that network's gradients."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import torch

from attack.methods.conv_codebook import ConvCodebook
from attack.methods.frame_lp import FrameLP, known_network
from attack.simulation import Simulator
from contract.datasets import load
from contract.metrics import psnr
from contract.models.layout import initial_parameters
from tests.frame_updates import rate_task, rate_update
from tests.science.image_updates import observe, task_of

BITS = ((8, None), (4, None), (2, None), (None, 8), (None, 16), (2, 8))


def quantised(steps, weights, membranes, **options):
    task = rate_task(steps, weight_bits=weights, **options)
    return msgspec.structs.replace(task, model=msgspec.structs.replace(task.model, membrane_bits=membranes))


def tied(found, observed):
    """Of 256 neurons those with another gradient: a membrane within float32's rounding of a tie went the other way."""
    return int((np.abs(found - observed).max(1) > 1e-5 * np.abs(observed).max()).sum())


@pytest.mark.parametrize("reset", ["subtract", "zero", "none"])
@pytest.mark.parametrize(("weights", "membranes"), BITS)
def test_simulated_gradients_are_the_devices(weights, membranes, reset):
    observation, frames, y = rate_update(quantised(6, weights, membranes, reset=reset), 1, 3, updates=5)
    observed = observation.gradient["layers.0.weight"]
    found = known_network(observation).gradient(frames[0].astype(np.float64), int(y[0]))
    assert tied(found, observed) <= (0 if membranes is None else 3)
    simulator = Simulator(observation, dtype=torch.float64)
    inputs = torch.from_numpy(frames[0].reshape(6, 1, 1, 28, 28).astype(np.float64))
    first = simulator.gradients(inputs, torch.tensor(y[:1]))[0].numpy()
    assert tied(first, observed) <= (0 if membranes is None else 3)


@pytest.mark.parametrize(("weights", "membranes"), [(4, None), (2, None), (None, 8), (2, 8)])
def test_frames_are_read_through_quantisation(weights, membranes):
    """Quantised weights and membranes change the adjoints, not the frames: all of them come back, in order."""
    observation, frames, _ = rate_update(quantised(8, weights, membranes), 1, 5)
    found = FrameLP().run(observation, 20.0, np.random.default_rng(0))
    assert found.verdict == "exact", found.reason
    assert (found.frames.reshape(8, -1).astype(np.uint8) == frames[0]).all()


@pytest.mark.parametrize(("weights", "membranes"), [(4, None), (2, 8)])
def test_an_image_is_read_through_a_quantised_convolution(weights, membranes):
    data = load("mnist5k")
    quantisation = {"weight_bits": weights, "membrane_bits": membranes}
    task = task_of(kind="conv", channels=(6,), hidden=(), stride=1, steps=7, seed=0, **quantisation)
    parameters = initial_parameters(task, (1, 28, 28), 10)
    parameters["layers.0.weight"] *= 3
    observation, _ = observe(task, data.x[:1], data.y[:1], parameters=parameters)
    found = ConvCodebook().run(observation, 10.0, np.random.default_rng(0))
    assert found.verdict == "recovered", found.reason
    assert psnr(found.images, data.x[:1]) > 33
