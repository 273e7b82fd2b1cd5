"""Local training: draws, determinism, FedSGD and FedAvg against independent loops."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from contract.encodings import encode
from contract.errors import ConfigurationError
from contract.messages import Operations
from contract.models.emissions import Emitted
from contract.models.layout import initial_parameters
from contract.models.network import Network
from contract.models.operations import OperationCounter
from contract.task import EncodingSpec, ModelSpec, OwnModel, ParameterSpec, RoundPlan, TaskSpec
from edge_client import training
from edge_client.engine import StepResult, open_engine
from edge_client.training import Shard, draw_batches, encoded_steps, local_update, make_receipt
from server.export import training_graph

SHAPE, CLASSES = (1, 4, 4), 3
TASK = TaskSpec(encoding=EncodingSpec(kind="rate", steps=5), model=ModelSpec(hidden=(6,), weight_bits=None))
RNG = np.random.default_rng(5)
SHARD = Shard(x=RNG.random((21, *SHAPE), dtype=np.float32), y=RNG.integers(0, CLASSES, 21), classes=CLASSES)
PARAMS = initial_parameters(TASK, SHAPE, CLASSES)
ENGINE = open_engine("torch", TASK, SHAPE, CLASSES)
FEDAVG = RoundPlan(local_steps=5, batch_size=8, learning_rate=0.3, momentum=0.9)
FEDSGD = RoundPlan(algorithm="fedsgd", batch_size=8)


def receipt(plan: RoundPlan, uid: str = "a" * 32, **changes) -> training.Receipt:
    return make_receipt(TASK, plan, len(SHARD.x), **({"secret": 1, "node": "n", "round_": 3, "uid": uid} | changes))


def update(plan: RoundPlan, drawn: training.Receipt, **changes) -> training.LocalUpdate:
    return local_update(ENGINE, PARAMS, **({"task": TASK, "plan": plan, "shard": SHARD, "receipt": drawn} | changes))


@given(
    samples=st.integers(1, 60),
    batch=st.integers(1, 70),
    steps=st.integers(1, 12),
    seed=st.integers(0, 2**32 - 1),
)
def test_batches_never_repeat_a_sample_within_an_epoch(samples, batch, steps, seed):
    batches = draw_batches(np.random.default_rng(seed), samples, batch, steps)
    size = min(batch, samples)
    assert [len(b) for b in batches] == [size] * steps
    per_epoch = samples // size
    for first in range(0, steps, per_epoch):
        epoch = np.concatenate(batches[first : first + per_epoch])
        assert len(set(epoch.tolist())) == len(epoch)
        assert epoch.min() >= 0
        assert epoch.max() < samples


def test_draws_follow_from_the_devices_own_secret_alone():
    mine, again, other = receipt(FEDAVG), receipt(FEDAVG), receipt(FEDAVG, secret=2)
    assert mine == again
    assert mine.draws != other.draws
    assert not set(mine.encoding_seeds) & set(other.encoding_seeds)


def test_a_small_shard_clips_the_batch_and_says_so():
    drawn = receipt(RoundPlan(local_steps=3, batch_size=64))
    assert len(drawn.samples) == 63
    assert update(FEDAVG, drawn).samples == 63


def test_an_empty_shard_is_refused():
    with pytest.raises(ConfigurationError, match="'n' is empty"):
        make_receipt(TASK, FEDSGD, 0, secret=1, node="n", round_=1, uid="a" * 32)


def test_receipts_are_a_function_of_seed_node_round_and_uid():
    base = receipt(FEDAVG)
    assert base == receipt(FEDAVG)
    others = [receipt(FEDAVG, uid="b" * 32), receipt(FEDAVG, node="m"), receipt(FEDAVG, round_=4)]
    assert all(other.draws != base.draws and other.encoding_seeds != base.encoding_seeds for other in others)


def test_training_is_deterministic_and_rebuildable_from_the_receipt():
    first, second = update(FEDAVG, receipt(FEDAVG)), update(FEDAVG, receipt(FEDAVG))
    for name, value in first.tensors.items():
        np.testing.assert_array_equal(value, second.tensors[name])
    again = list(encoded_steps(first.receipt, SHARD, TASK.encoding))
    by_hand = [
        encode(TASK.encoding, SHARD.x[list(draw)], np.random.default_rng(seed))
        for draw, seed in zip(first.receipt.draws, first.receipt.encoding_seeds, strict=True)
    ]
    assert all(np.array_equal(a, b) for a, b in zip(again, by_hand, strict=True))


def test_fedsgd_is_the_mean_gradient_of_the_batch():
    drawn = receipt(FEDSGD)
    made = update(FEDSGD, drawn)
    (frames,) = encoded_steps(drawn, SHARD, TASK.encoding)
    leaves = {k: torch.tensor(v, requires_grad=True) for k, v in PARAMS.items()}
    logits = Network(TASK, SHAPE, CLASSES)(leaves, torch.tensor(frames))
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(SHARD.y[list(drawn.samples)]))
    loss.backward()
    assert made.loss == pytest.approx(loss.item(), rel=1e-6)
    for name, gradient in made.tensors.items():
        np.testing.assert_allclose(gradient, leaves[name].grad.numpy(), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("plan", [FEDSGD, FEDAVG])
def test_an_update_stays_when_the_engine_goes_on(plan):
    """Devices of a process share an engine, whose memory each pass writes again."""
    engine = open_engine("onnx", TASK, SHAPE, CLASSES, graphs={"training": training_graph(TASK, SHAPE, CLASSES)})
    made = local_update(engine, PARAMS, task=TASK, plan=plan, shard=SHARD, receipt=receipt(plan))
    kept = {name: value.copy() for name, value in made.tensors.items()}
    local_update(engine, PARAMS, task=TASK, plan=plan, shard=SHARD, receipt=receipt(plan, round_=2))
    for name, value in made.tensors.items():
        np.testing.assert_array_equal(value, kept[name])


@pytest.mark.parametrize("proximal", [0.0, 0.5])
def test_fedavg_and_fedprox_equal_torchs_own_sgd(proximal):
    """FedProx: autograd over the loss with its proximal term, as Li et al. write it."""
    plan = msgspec.structs.replace(FEDAVG, proximal=proximal)
    drawn = receipt(plan)
    made = update(plan, drawn)
    leaves = {k: torch.tensor(v, requires_grad=True) for k, v in PARAMS.items()}
    optimiser = torch.optim.SGD(leaves.values(), lr=0.3, momentum=0.9)
    network, losses = Network(TASK, SHAPE, CLASSES), []
    for frames, draw in zip(encoded_steps(drawn, SHARD, TASK.encoding), drawn.draws, strict=True):
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(
            network(leaves, torch.tensor(frames)), torch.tensor(SHARD.y[list(draw)])
        )
        distance = sum(((leaf - torch.tensor(PARAMS[name])) ** 2).sum() for name, leaf in leaves.items())
        (loss + proximal / 2 * distance).backward()
        optimiser.step()
        losses.append(loss.item())
    assert made.loss == pytest.approx(np.mean(losses), rel=1e-5)
    for name, value in made.tensors.items():
        np.testing.assert_allclose(value, PARAMS[name] - leaves[name].detach().numpy(), rtol=2e-4, atol=1e-6)
        assert np.abs(value).max() > 0


def test_a_proximal_term_keeps_the_update_small():
    def norm(proximal: float) -> float:
        plan = RoundPlan(local_steps=20, batch_size=8, learning_rate=0.1, proximal=proximal)
        return float(np.sqrt(sum(np.square(v).sum() for v in update(plan, receipt(plan)).tensors.values())))

    assert norm(5.0) < 0.7 * norm(0.0)


def test_fedavg_of_one_step_is_the_learning_rate_times_fedsgd():
    one = RoundPlan(local_steps=1, batch_size=8, learning_rate=0.25, momentum=0.9)
    drawn = receipt(one)
    gradient = update(FEDSGD, drawn).tensors
    for name, value in update(one, drawn).tensors.items():
        np.testing.assert_allclose(value, 0.25 * gradient[name], rtol=1e-3, atol=1e-6)


class Quadratic:
    """An engine whose gradient is the weight itself: SGD can be followed by hand."""

    name = "quadratic"

    def gradients(self, params, _frames, _labels) -> StepResult:
        gradients = {name: np.array(value) for name, value in params.items()}
        return StepResult(loss=float(params["w"][0]), gradients=gradients)

    def emitted(self) -> tuple[Emitted, ...]:
        return (Emitted(batch=8, passes=3, counts=()),)


class Tally:
    """Counts two MACs a step."""

    def __init__(self, *_task) -> None:
        self.steps = 0

    def give_together(self, _frames) -> None:
        pass

    def add(self, emitted) -> None:
        self.steps += emitted.passes

    def total(self) -> Operations:
        return Operations(macs=2 * self.steps, active=(7 * self.steps,))


def test_momentum_by_hand(monkeypatch):
    monkeypatch.setattr(training, "OperationCounter", Tally)
    plan = RoundPlan(local_steps=3, batch_size=8, learning_rate=0.5, momentum=0.5)
    params = {"w": np.array([1.0], dtype=np.float32)}
    made = local_update(Quadratic(), params, task=TASK, plan=plan, shard=SHARD, receipt=receipt(plan))
    # w, v: 1, 0 -> v=1 w=.5 -> v=1 w=0 -> v=.5 w=-.25
    np.testing.assert_allclose(made.tensors["w"], [1.25], rtol=1e-6)
    assert made.loss == pytest.approx((1 + 0.5 + 0) / 3)
    assert params["w"] == 1.0
    assert made.operations == Operations(macs=6, active=(21,))


def test_operations_of_a_users_network_are_not_counted():
    own = OwnModel(sha256="0" * 64, factory="make", parameters=(ParameterSpec(name="w", shape=(1,)),))
    task = msgspec.structs.replace(TASK, model=ModelSpec(kind="own", own=own))
    plan = RoundPlan(local_steps=3, batch_size=8, learning_rate=0.5)
    params = {"w": np.array([1.0], dtype=np.float32)}
    made = local_update(Quadratic(), params, task=task, plan=plan, shard=SHARD, receipt=receipt(plan))
    assert made.operations is None
    np.testing.assert_allclose(made.tensors["w"], [1 - 0.5**3], rtol=1e-6)


def test_operations_are_those_of_every_step():
    drawn = receipt(FEDSGD)
    made = update(FEDSGD, drawn)
    (frames,) = encoded_steps(drawn, SHARD, TASK.encoding)
    ENGINE.gradients(PARAMS, frames, SHARD.y[list(drawn.samples)])
    counter = OperationCounter(TASK, SHAPE, CLASSES)
    counter.give(frames)
    counter.add(*ENGINE.emitted())
    expected = counter.total()
    assert expected.active[0] == np.count_nonzero(frames)
    assert made.operations == expected
    assert expected.acs > 0


@pytest.mark.parametrize("kind", ["fc", "conv"])
@pytest.mark.parametrize("encoding", ["rate", "direct"])
def test_levels_and_their_intensities_count_alike(kind, encoding):
    levels = np.random.default_rng(3).integers(0, 4, SHARD.x.shape).astype(np.uint8)
    intensities = Shard(x=levels / np.float32(255), y=SHARD.y, classes=CLASSES)
    model = ModelSpec(kind=kind, channels=(3,), hidden=()) if kind == "conv" else ModelSpec(hidden=(7,))
    task = msgspec.structs.replace(TASK, model=model, encoding=EncodingSpec(kind=encoding, steps=5, gain=20))
    engine, params = open_engine("torch", task, SHAPE, CLASSES), initial_parameters(task, SHAPE, CLASSES)
    given = {"task": task, "plan": FEDAVG, "receipt": receipt(FEDAVG)}
    one, other = (
        local_update(engine, params, shard=shard, **given)
        for shard in (Shard(x=levels, y=SHARD.y, classes=CLASSES), intensities)
    )
    assert one.operations == other.operations
    assert one.operations is not None
    assert 0 < one.operations.active[0] < one.operations.sites[0]
    if encoding == "direct":
        assert one.operations.active[0] == sum(np.count_nonzero(levels[i]) for i in given["receipt"].samples)


@pytest.mark.parametrize("kind", ["rate", "direct"])
@pytest.mark.parametrize("plan", [FEDAVG, FEDSGD])
def test_frames_too_large_to_keep_are_encoded_step_by_step_with_the_same_result(monkeypatch, plan, kind):
    task = msgspec.structs.replace(TASK, encoding=EncodingSpec(kind=kind, steps=5))
    engine = open_engine("torch", task, SHAPE, CLASSES)
    made = []
    for limit in (0, 10**9):
        monkeypatch.setattr(training, "LARGEST_FRAMES_BYTES", limit)
        phases: list[str] = []
        given = {"task": task, "plan": plan, "shard": SHARD, "receipt": receipt(plan), "enter": phases.append}
        made.append(local_update(engine, PARAMS, **given))
        assert made[-1].encoded_ahead == (limit > 0)
        assert phases == ["load", "encode", "train"]
    assert made[0].operations == made[1].operations
    for name, value in made[0].tensors.items():
        np.testing.assert_array_equal(value, made[1].tensors[name])


@pytest.mark.parametrize("family", ["snn", "ann"])
def test_what_a_network_emitted_that_diverged_is_not_known(family):
    """Nor is it 0; the next update, of a sound model by the same engine, is counted again."""
    model = ModelSpec(family=family, hidden=(7,), weight_bits=None)
    task = msgspec.structs.replace(TASK, model=model, encoding=EncodingSpec(kind="direct", steps=3))
    graphs = {"training": training_graph(task, SHAPE, CLASSES)}
    engine, sound = open_engine("onnx", task, SHAPE, CLASSES, graphs=graphs), initial_parameters(task, SHAPE, CLASSES)
    broken = {name: np.full_like(value, np.nan) for name, value in sound.items()}
    given = {"task": task, "plan": FEDAVG, "shard": SHARD, "receipt": receipt(FEDAVG)}
    before, diverged, after = (local_update(engine, params, **given) for params in (sound, broken, sound))
    assert diverged.operations is None
    assert before.operations is not None
    assert before.operations == after.operations
