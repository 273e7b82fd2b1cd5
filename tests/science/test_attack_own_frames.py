"""Spike frames out of updates of networks that no task describes, and of optimisers that are no gradient descent."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import snntorch as snn
import torch
from torch import nn

from attack.ladder import attempt
from attack.methods import METHODS
from attack.methods.frame_lp import FrameLP
from attack.methods.row_space_enumeration import RowSpaceEnumeration
from attack.methods.row_space_membership import row_space_residuals
from attack.module_network import ModuleNetwork
from contract.task import EncodingSpec, ModelSpec, NeuronSpec, RoundPlan, TaskSpec
from tests.attack_updates import observe
from tests.audited_models import LastStep, StepLoop
from tests.frame_updates import rate_task, rate_update


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class SpikeSum(nn.Module):
    """Logits are the readout's spike counts, as in snntorch's `ce_count_loss`."""

    def __init__(self, *, norm=False):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(784, 128), nn.Linear(128, 10)
        self.norm = nn.BatchNorm1d(128) if norm else nn.Identity()
        self.lif1, self.lif2 = snn.Leaky(beta=0.85), snn.Leaky(beta=0.85)

    def forward(self, x):
        mem1, mem2 = self.lif1.reset_mem(), self.lif2.reset_mem()
        currents = self.norm(self.fc1(x.flatten(2)).flatten(0, 1)).reshape(len(x), -1, 128)
        count = 0
        for current in currents:
            spikes, mem1 = self.lif1(current, mem1)
            spikes, mem2 = self.lif2(self.fc2(spikes), mem2)
            count = count + spikes
        return count


def own(module, steps, batch, seed):
    """The attacker's view of a module's gradient, the true frames `[B, T, n]` and the labels."""
    observation, truth, y = rate_update(rate_task(steps), batch, seed)
    frames = torch.from_numpy(truth.astype(np.float32)).transpose(0, 1).reshape(steps, batch, 1, 28, 28)
    parameters = dict(module.named_parameters())
    loss = nn.functional.cross_entropy(module(frames), torch.from_numpy(y))
    found = torch.autograd.grad(loss, list(parameters.values()))
    network = ModuleNetwork(
        module,
        names={name: name for name in parameters},
        steps=steps,
        first="fc1",
        reason="it is somebody's own",
        coupled=any(isinstance(part, nn.BatchNorm1d) and part.training for part in module.modules()),
    )
    seen = replace(
        observation,
        update={name: g.numpy() for name, g in zip(parameters, found, strict=True)},
        _parameters={name: value.detach().numpy() for name, value in parameters.items()},
        _network=network,
    )
    return seen, truth, y


def assert_exact(finding, truth, y):
    assert finding.verdict == "exact", finding.reason
    found = finding.frames.reshape(len(truth), truth.shape[1], -1).astype(np.uint8)
    claimed = {frame.tobytes(): label for frame, label in zip(found, finding.labels, strict=True)}
    assert claimed == {sample.tobytes(): int(label) for sample, label in zip(truth, y, strict=True)}


@pytest.mark.parametrize("convention", ["sum of membranes", "last membrane", "sum of spikes"])
@pytest.mark.parametrize(("batch", "steps"), [(1, 8), (2, 6)])
def test_every_convention_of_a_readout_is_completed_by_simulation(convention, batch, steps):
    torch.manual_seed(0)
    builds = {
        "sum of membranes": lambda: StepLoop(784, 128),
        "last membrane": lambda: LastStep(784, 128),
        "sum of spikes": SpikeSum,
    }
    observation, truth, y = own(builds[convention](), steps, batch, seed=0)
    for method in (RowSpaceEnumeration(), FrameLP()):
        assert_exact(attempt(method, observation, 20.0), truth, y)


def test_more_frames_than_can_be_enumerated_are_hunted():
    torch.manual_seed(0)
    observation, truth, y = own(LastStep(784, 128), 20, 1, seed=0)
    assert "enumeration takes at most" in RowSpaceEnumeration().applies(observation)
    assert_exact(attempt(FrameLP(), observation, 30.0), truth, y)


def test_batch_norm_with_fixed_statistics_changes_the_adjoints_and_not_the_row_space():
    torch.manual_seed(0)
    observation, truth, y = own(SpikeSum(norm=True).eval(), 8, 1, seed=1)
    for method in (RowSpaceEnumeration(), FrameLP()):
        assert_exact(attempt(method, observation, 20.0), truth, y)


@pytest.mark.parametrize("batch", [1, 2])
def test_batch_norm_with_the_batchs_statistics_leaves_only_differences_of_frames(batch):
    torch.manual_seed(0)
    observation, truth, _ = own(SpikeSum(norm=True), 6, batch, seed=1)
    layer, frames = observation.first_layer, truth.reshape(6 * batch, -1).astype(np.float64)
    residuals = row_space_residuals(layer.weight, np.vstack([frames, frames[1:] - frames[0]]), len(frames))
    assert residuals[: len(frames)].min() > 0.05
    assert residuals[len(frames) :].max() < 1e-3
    assert np.abs(layer.bias).max() < 1e-5 * np.abs(layer.weight).max()
    for name in ("ratio", "rank1", "row_space_enumeration", "frame_lp"):
        assert attempt(METHODS[name], observation, 1.0).verdict in {"failed", "partial"}


def test_an_update_by_adam_is_certified_by_nothing():
    observation, _, _ = rate_update(rate_task(8), 1, seed=4)
    plan = RoundPlan(algorithm="fedavg", batch_size=1, local_steps=1, learning_rate=1e-3)
    stepped = {n: (1e-3 * g / (np.abs(g) + 1e-8)).astype(np.float32) for n, g in observation.update.items()}
    seen = replace(observation, update=stepped, _plan=plan)
    for name in ("ratio", "rank1", "row_space_enumeration", "frame_lp"):
        finding = attempt(METHODS[name], seen, 2.0)
        assert finding.verdict in {"failed", "partial"}, (name, finding.reason)
        assert finding.reason
        assert "crashed" not in finding.reason


@pytest.mark.parametrize("seed", range(16))
def test_nearly_empty_updates_crash_nothing(seed):
    rng = np.random.default_rng(seed)
    steps, batch, local = (int(rng.integers(1, 4)) for _ in range(3))
    task = TaskSpec(
        dataset="digits",
        encoding=EncodingSpec(kind=("rate", "latency")[seed % 2], steps=steps, gain=(1.0, 0.05)[seed // 2 % 2]),
        model=ModelSpec(hidden=((32,), (32, 16))[seed // 4 % 2], weight_bits=None),
        neuron=NeuronSpec(threshold=(1.0, 20.0)[seed // 8 % 2]),
    )
    x = np.zeros((batch * local, 1, 8, 8), dtype=np.float32)
    for one in x:
        one.reshape(-1)[rng.choice(64, rng.integers(0, 4), replace=False)] = 0.8
    algorithm = "fedsgd" if local == 1 else "fedavg"
    plan = RoundPlan(algorithm=algorithm, batch_size=batch, local_steps=local, learning_rate=1e-4)
    observation = observe(task, x, rng.integers(0, 10, len(x)), plan, seed=seed)
    for method in (FrameLP(), RowSpaceEnumeration(), METHODS["latency"]):
        finding = attempt(method, observation, 0.1)
        assert "crashed" not in finding.reason, finding.reason
