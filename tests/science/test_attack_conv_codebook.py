"""One convolution and a readout: trains and image from the readout's gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from attack.images.codebook import codebook
from attack.methods.conv_codebook import ConvCodebook
from attack.threat import Observation
from contract.datasets import load
from contract.metrics import psnr
from contract.models.layout import initial_parameters
from contract.models.neurons import Leaky
from contract.task import NeuronSpec
from tests.science.image_updates import observe, task_of


def conv_observation(steps, readout="membrane", channels=(6,), seed=0):
    data = load("mnist5k")
    task = task_of(kind="conv", channels=channels, hidden=(), stride=1, readout=readout, steps=steps, seed=seed)
    parameters = initial_parameters(task, (1, 28, 28), 10)
    parameters = {**parameters, "layers.0.weight": 3 * parameters["layers.0.weight"]}
    x, y = data.x[seed : seed + 1], data.y[seed : seed + 1]
    return observe(task, x, y, parameters=parameters)[0], x


@pytest.mark.parametrize(
    ("steps", "readout", "least_db"), [(5, "membrane", 25), (10, "membrane", 40), (5, "spike", 25)]
)
def test_image_comes_out_and_more_steps_leak_more(steps, readout, least_db):
    observation, x = conv_observation(steps, readout)
    assert ConvCodebook().applies(observation) is None
    finding = ConvCodebook().run(observation, 10.0, np.random.default_rng(0))
    assert finding.verdict in {"recovered", "partial"}
    assert psnr(finding.images, x) > least_db


def test_another_gradient_is_not_recovered():
    observation, _ = conv_observation(5)
    rng = np.random.default_rng(0)
    noise = {name: rng.normal(size=value.shape).astype(np.float32) for name, value in observation.update.items()}
    finding = ConvCodebook().run(Observation(**{**observation.__dict__, "update": noise}), 10.0, rng)
    assert finding.verdict == "failed"


def test_two_convolutions_are_refused():
    observation, _ = conv_observation(3, channels=(2, 2))
    assert "3 layers" in (ConvCodebook().applies(observation) or "")


@pytest.mark.parametrize("bits", [None, 8])
def test_codebook_intervals_hold_their_trains(bits):
    neuron = NeuronSpec(beta=0.8, reset="zero")
    book = codebook(neuron, 7, 3.0, bits)
    inside = np.clip(book.low, -1.0, None) * 0.5 + np.clip(book.high, None, 3.0) * 0.5
    spikes = Leaky(neuron, bits)(torch.tensor(inside).expand(7, -1))[0].numpy()
    assert np.array_equal(spikes, book.trains)
    assert len({train.tobytes() for train in book.trains.T.copy()}) == book.trains.shape[1]
