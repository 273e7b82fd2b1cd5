"""The attacker of a user's network: with its own copy of the file, with another one, and with none."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from attack.app import run_attack
from attack.methods import METHODS
from attack.own.view import NO_FILE, OwnViews
from attack.settings import AttackSettings
from attack.threat import ThreatModel
from attack.worker import Job, Worker
from contract.codecs import encode_tensors
from contract.datasets import load
from contract.encodings import encode
from contract.errors import ConfigurationError
from contract.messages import Update, pack, unpack
from contract.metrics import psnr
from contract.models.own import user_network
from contract.task import EncodingSpec, TaskSpec, task_hash
from tests.attack_updates import audit_plan
from tests.conftest import ROOT

FILE = ROOT / "tests" / "own_networks.py"
SHAPE, CLASSES = (1, 8, 8), 10
START = TaskSpec(dataset="digits", encoding=EncodingSpec(kind="direct", steps=4))
NETWORK, TASK = user_network(f"{FILE}:StepLoop", START, SHAPE, CLASSES, named="model")
PARAMETERS = NETWORK.initial_parameters()
LADDER = {name: METHODS[name] for name in ("label", "ratio", "cosine")}


def job(sample=3):
    data = load("digits")
    x, y = np.array(data.x[sample : sample + 1]), np.array(data.y[sample : sample + 1])
    leaves = {name: torch.tensor(value, requires_grad=True) for name, value in PARAMETERS.items()}
    frames = torch.tensor(encode(TASK.encoding, x, np.random.default_rng(1)))
    loss = torch.nn.functional.cross_entropy(NETWORK(leaves, frames), torch.tensor(y))
    found = torch.autograd.grad(loss, list(leaves.values()))
    gradient = {name: g.numpy() for name, g in zip(leaves, found, strict=True)}
    records, buffers = encode_tensors("fp32", gradient, np.random.default_rng(2))
    head = Update(
        uid=hashlib.sha256(b"own").hexdigest()[:32],
        node="device-1",
        epoch=1,
        round=1,
        model_version=0,
        task_hash=task_hash(TASK),
        plan=audit_plan(),
        samples=1,
        loss=1.0,
        tensors=records,
    )
    update, views = unpack(pack(head, buffers), Update)
    return x[0], int(y[0]), Job(update=update, views=views)


def attacked(spec, task=TASK):
    x, y, waiting = job()
    worker = Worker(LADDER, ThreatModel(), budget_s=5.0, exhaustive=True, seed=1, own=OwnViews(spec))
    observation = worker.observe(waiting, task, PARAMETERS)
    message = worker.attack(waiting, task, PARAMETERS).message
    return x, y, {result.attack: result for result in message.results}, observation


def test_with_its_file_the_network_is_simulated_and_the_ratio_certified():
    x, y, results, observation = attacked(f"{FILE}:StepLoop")
    assert observation.first_layer.name == "fc1"
    assert observation.readout.name == "fc2"
    assert (results["ratio"].verdict, results["ratio"].labels) == ("exact", (y,))
    assert "forward simulation" in results["ratio"].reason
    assert results["cosine"].verdict in {"recovered", "partial", "exact"}
    image = METHODS["ratio"].run(observation, 1.0, np.random.default_rng(0)).images[0]
    assert psnr(image, x) > 120


@pytest.mark.parametrize("spec", [None, f"{FILE}:Plain"])
def test_without_it_first_layer_attacks_alone_apply_and_say_why(spec):
    x, _, results, observation = attacked(spec)
    assert results["ratio"].verdict in {"recovered", "partial"}
    assert psnr(METHODS["ratio"].run(observation, 1.0, np.random.default_rng(0)).images[0], x) > 120
    assert results["cosine"].verdict == "refused"
    reason = OwnViews(spec).of(TASK, SHAPE, CLASSES).unknown
    assert reason == NO_FILE if spec is None else "factory differs" in reason
    assert results["cosine"].reason.endswith(reason)
    assert not {"architecture", "neuron"} & observation.known
    with pytest.raises(Exception, match="the network is the user's own" if spec is None else "factory differs"):
        _ = observation.model


def test_layers_are_put_in_order_by_their_shapes():
    views = OwnViews(None)
    names = ("out.weight", "out.bias", "mid.weight", "first.weight", "first.bias")
    shapes = ((10, 5), (10,), (5, 20), (20, 64), (20,))
    from attack.own.view import _guessed

    found = _guessed(dict(zip(names, shapes, strict=True)), SHAPE, CLASSES)
    assert list(found) == ["first.weight", "first.bias", "mid.weight", "out.weight", "out.bias"]
    assert views.of(START, SHAPE, CLASSES) is None


def test_a_file_that_is_not_there_is_said_before_anything_else(tmp_path):
    with pytest.raises(ConfigurationError, match="there is no file"):
        run_attack(AttackSettings(run="r", directory=tmp_path, model=str(tmp_path / "none.py:make")))
