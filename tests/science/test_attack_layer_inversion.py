"""Two spiking layers behind a leaky readout, trained: trains from the readout, then the image."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch

from attack.certificate import certified
from attack.clock import now_s
from attack.images.known_trains import KnownTrains
from attack.images.smoothed_trains import SmoothedTrains
from attack.methods import layer_inversion
from attack.methods.layer_inversion import LayerInversion
from attack.readout_trains import decode_trains
from contract.metrics import psnr
from contract.models.neurons import Leaky
from contract.task import NeuronSpec
from tests.science.image_updates import observe, task_of
from tests.trained_networks import trained

STEPS = 8


def deep_task(**options):
    small = {"dataset": "digits", "kind": "conv", "channels": (6, 8), "hidden": (), "stride": 1, "steps": STEPS}
    return task_of(**{**small, **options})


@pytest.fixture(scope="module")
def network():
    found = trained(deep_task(), steps=150)
    assert found.accuracy > 0.9
    return found


@pytest.fixture(scope="module")
def seen(network):
    x = network.x[:1]
    return observe(deep_task(), x, network.y[:1], parameters=network.parameters)[0], x


def known_trains(observation):
    readout = observation.readout
    trains = decode_trains(readout.weight, readout.bias, STEPS, observation.neuron.beta)
    return KnownTrains(observation, trains)


def test_image_comes_out_of_a_trained_network(seen, monkeypatch):
    observation, x = seen
    monkeypatch.setattr(layer_inversion, "ITERATIONS", 60)
    assert LayerInversion().applies(observation) is None
    finding = certified(observation, LayerInversion().run(observation, 60.0, np.random.default_rng(0)))
    assert finding.verdict == "partial"
    assert psnr(finding.images, x) > 25.0
    assert psnr(np.zeros_like(x), x) < 12.0


def test_it_keeps_to_its_budget(seen):
    began = now_s()
    finding = LayerInversion().run(seen[0], 0.5, np.random.default_rng(0))
    assert finding.verdict == "partial"
    assert now_s() - began < 2.0


def test_the_true_image_explains_trains_and_gradients(seen):
    observation, x = seen
    layers = known_trains(observation)
    for image, least, most in ((x, 0.0, 0.01), (1 - x, 0.5, np.inf)):
        found = layers.mismatch(torch.tensor(image), layers.trains.table(0.0))
        for part in (found.lower, found.upper, found.trains / 100):
            assert least <= float(part.detach()) < most


def test_the_slope_is_the_one_of_the_smoothed_objective(seen):
    observation, x = seen
    layers = known_trains(observation)
    table, rng = layers.trains.table(0.2), np.random.default_rng(0)
    image = torch.tensor(np.float32(0.5) * x + np.float32(0.2)).requires_grad_()
    direction = torch.tensor(rng.standard_normal(x.shape).astype(np.float32))

    def loss(at):
        found = layers.mismatch(at, table)
        return found.lower + found.upper + found.trains / 100

    (slope,) = torch.autograd.grad(loss(image), image)
    step = 2e-3
    ahead, behind = (float(loss(image.detach() + sign * step * direction).detach()) for sign in (1, -1))
    assert float((slope * direction).sum()) == pytest.approx((ahead - behind) / (2 * step), rel=0.03)


@pytest.mark.parametrize("reset", ["subtract", "zero", "none"])
def test_unsmoothed_tables_hold_the_neurons_trains_and_gradients(reset):
    neuron = NeuronSpec(beta=0.8, reset=reset)
    trains = SmoothedTrains(neuron, None, 6, -1.0, 3.0)
    currents = torch.linspace(-0.9, 2.9, 40).requires_grad_()
    spikes, _ = Leaky(neuron)(currents.expand(6, -1))
    adjoint = torch.randn(6, 40, generator=torch.Generator().manual_seed(0))
    (slope,) = torch.autograd.grad((adjoint * spikes).sum(), currents)
    found, factors = trains(currents.detach(), trains.table(0.0))
    away = (found.round() == found).all(0)
    assert away.float().mean() > 0.9
    assert torch.equal(found[:, away], spikes.detach()[:, away])
    torch.testing.assert_close((adjoint * factors).sum(0)[away], slope[away], rtol=1e-2, atol=1e-2)


def test_another_gradient_is_not_recovered(seen):
    observation, _ = seen
    rng = np.random.default_rng(0)
    noise = {name: rng.normal(size=value.shape).astype(np.float32) for name, value in observation.update.items()}
    finding = LayerInversion().run(replace(observation, update=noise), 1.0, rng)
    assert finding.verdict == "failed"


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"channels": (4,)}, "one more spiking layer"),
        ({"readout": "spike"}, "readout spikes"),
        ({"encoding": "rate"}, "not constant"),
        ({"steps": 30}, "30 steps"),
    ],
)
def test_what_it_cannot_invert_is_refused(network, options, word):
    observation, _ = observe(deep_task(**options), network.x[:1], network.y[:1])
    assert word in (LayerInversion().applies(observation) or "")


def test_two_samples_are_refused(network):
    observation, _ = observe(deep_task(), network.x[:2], network.y[:2], parameters=network.parameters)
    assert "2 samples" in (LayerInversion().applies(observation) or "")


def test_hidden_dense_layer_and_quantised_weights_are_read_as_well():
    task = deep_task(channels=(6,), hidden=(64,), weight_bits=8)
    network = trained(task, steps=60)
    observation, _ = observe(task, network.x[:1], network.y[:1], parameters=network.parameters)
    layers = known_trains(observation)
    found = layers.mismatch(torch.tensor(network.x[:1]), layers.trains.table(0.0))
    assert float((found.lower + found.upper).detach()) < 0.02
    assert LayerInversion().applies(observation) is None
    assert msgspec.structs.asdict(LayerInversion())["name"] == "layer_inversion"
