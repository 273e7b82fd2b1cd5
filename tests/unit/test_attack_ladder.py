"""The ladder's verdicts: nothing is skipped, no crash passes for an answer, nothing is known that is withheld."""

from __future__ import annotations

import ast
import time
from dataclasses import fields
from pathlib import Path

import msgspec
import numpy as np
import pytest

import attack
from attack.citations import CITATIONS
from attack.clock import spend
from attack.ladder import climb
from attack.method import MAX_IMAGES, Citation, Finding
from attack.methods import METHODS
from attack.optimisation.descent import Descent, DivergedError, OutOfTimeError
from attack.threat import NotKnownError, Observation, ThreatModel
from contract.configuration import decode_tables
from contract.datasets import load
from contract.errors import ConfigurationError
from tests.attack_updates import observe, task_of

SHAPE = (1, 8, 8)


class Scripted(msgspec.Struct, frozen=True, kw_only=True):
    """A method that does as it is told."""

    name: str = "scripted"
    citation: Citation = CITATIONS["spikeleak"]
    requires: frozenset = frozenset()
    refuses: str | None = None
    does: object = None
    budgets: list = msgspec.field(default_factory=list)

    def applies(self, _observation):
        return self.refuses

    def run(self, observation, budget_s, rng):
        self.budgets.append(budget_s)
        if isinstance(self.does, Exception):
            raise self.does
        return self.does(observation, rng) if callable(self.does) else self.does


def images(value=0.5, count=1, shape=SHAPE):
    return np.full((count, *shape), value, dtype=np.float32)


@pytest.fixture(scope="module")
def seen() -> Observation:
    data = load("digits")
    return observe(task_of(hidden=(16,)), np.array(data.x[:1]), np.array(data.y[:1]))


def one(method, seen, **options):
    (rung,) = climb(seen, {method.name: method}, budget_s=1.0, **options)
    return rung.finding


@pytest.mark.parametrize(
    ("does", "words"),
    [
        (RuntimeError("lost my way"), "crashed: RuntimeError: lost my way"),
        (MemoryError(), "crashed: MemoryError"),
        (Finding(verdict="recovered", images=images(np.nan)), "64 of 64 pixels are not finite"),
        (Finding(verdict="recovered", images=images(), objective=float("nan")), "the objective is nan"),
        (Finding(verdict="recovered", images=images(shape=(64,))), "expected"),
        (Finding(verdict="recovered", images=images(count=0)), "expected"),
        (None, "crashed"),
    ],
)
def test_what_cannot_be_used_is_a_failure_with_its_reason(seen, does, words):
    finding = one(Scripted(does=does), seen)
    assert finding.verdict == "failed"
    assert finding.images is None
    assert words in finding.reason


def test_reading_what_is_withheld_is_a_refusal():
    data = load("digits")
    blind = observe(
        task_of(hidden=(16,)), np.array(data.x[:1]), np.array(data.y[:1]), threat=ThreatModel(weights=False)
    )
    declared = one(Scripted(requires=frozenset({"weights"})), blind)
    assert (declared.verdict, declared.reason) == ("refused", "needs weights, which this attacker does not know")
    peeking = one(Scripted(does=lambda observation, _: observation.parameters), blind)
    assert peeking.verdict == "refused"
    assert "weights" in peeking.reason


def test_reason_of_a_method_that_does_not_apply_is_kept(seen):
    finding = one(Scripted(refuses="no convolution here"), seen)
    assert (finding.verdict, finding.reason) == ("refused", "no convolution here")


def test_images_are_clipped_and_cut(seen):
    wild = np.concatenate([images(-1.0), images(7.0, MAX_IMAGES + 5)])
    finding = one(Scripted(does=Finding(verdict="partial", images=wild, labels=tuple(range(len(wild))))), seen)
    assert finding.images.shape == (MAX_IMAGES, *SHAPE)
    assert finding.labels == tuple(range(MAX_IMAGES))
    assert finding.images.min() == 0.0
    assert finding.images.max() == 1.0


def test_a_correct_candidate_is_certified_and_a_wrong_one_is_not(seen):
    x = np.array(load("digits").x[:1])
    right = one(Scripted(does=Finding(verdict="partial", images=x)), seen)
    assert right.verdict == "exact"
    assert "gradient residual" in right.reason
    wrong = one(Scripted(does=Finding(verdict="recovered", images=1 - x)), seen)
    assert wrong.verdict == "recovered"
    assert "not certified" in wrong.reason


@pytest.mark.parametrize("exhaustive", [True, False])
def test_stops_at_a_certified_reconstruction_unless_exhaustive(seen, exhaustive):
    good = Scripted(name="good", does=Finding(verdict="partial", images=np.array(load("digits").x[:1])))
    late = Scripted(name="late", does=Finding(verdict="partial", images=images()))
    rungs = climb(seen, {"good": good, "late": late}, budget_s=1.0, exhaustive=exhaustive)
    assert [rung.attack for rung in rungs] == ["good", "late"]
    assert rungs[1].finding.verdict == ("partial" if exhaustive else "refused")
    assert len(late.budgets) == int(exhaustive)


@pytest.mark.parametrize("clock", ["processor", "work"])
def test_budget_is_shared_and_what_is_left_goes_on(seen, clock, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "process_time", lambda: now[0])

    def costs(seconds):
        def run(_observation, _rng):
            now[0] += seconds
            spend(seconds)
            return Finding(verdict="failed", reason="scripted")

        return run

    chain = [Scripted(name=str(k), does=costs(s)) for k, s in enumerate((0.0, 1.0, 100.0, 0.0))]
    rungs = climb(seen, {m.name: m for m in chain}, budget_s=8.0, exhaustive=True, clock=clock)
    assert chain[0].budgets == [2.0]
    assert chain[1].budgets == [pytest.approx(8 / 3)]
    assert chain[2].budgets == [pytest.approx(3.5)]
    assert chain[3].budgets == []
    assert rungs[3].finding.verdict == "failed"
    assert "spent" in rungs[3].finding.reason
    assert rungs[2].seconds == 100.0


def test_draws_depend_on_the_observation_and_the_method_alone(seen):
    def draw(_observation, rng):
        return Finding(verdict="partial", images=images(rng.random()))

    both = {name: Scripted(name=name, does=draw) for name in ("a", "b")}
    first, again = climb(seen, both, budget_s=1.0), climb(seen, dict(reversed(both.items())), budget_s=1.0)
    value = {rung.attack: float(rung.finding.images.max()) for rung in first}
    assert value == {rung.attack: float(rung.finding.images.max()) for rung in again}
    assert value["a"] != value["b"]


# --- the family -------------------------------------------------------------------------------------------------


def test_every_method_is_named_and_cited():
    assert len(METHODS) >= 5
    for name, method in METHODS.items():
        assert method.name == name
        assert CITATIONS[method.citation.key] == method.citation
        assert method.citation.entry.startswith("@")


@pytest.mark.parametrize("kind", ["direct", "rate"])
@pytest.mark.parametrize("model", [{"family": "ann"}, {"kind": "conv", "channels": (4,), "kernel": 3}, {}])
def test_every_method_answers_on_every_kind_of_network(kind, model):
    data = load("digits")
    task = task_of(hidden=(16,), steps=4, kind=kind)
    task = msgspec.structs.replace(task, model=msgspec.structs.replace(task.model, **model))
    seen = observe(task, np.array(data.x[:1]), np.array(data.y[:1]))
    for rung in climb(seen, METHODS, budget_s=0.6, exhaustive=True):
        assert not rung.finding.reason.startswith("crashed"), (rung.attack, rung.finding.reason)
        if task.model.kind == "conv" and rung.attack in {"ratio", "rank1"}:
            assert rung.finding.verdict == "refused"
            assert "convolution" in rung.finding.reason


# --- knowledge --------------------------------------------------------------------------------------------------


def test_observation_has_these_fields_and_no_truth_among_them():
    assert {field.name for field in fields(Observation)} == {
        "threat", "shape", "classes", "samples", "update", "seed", "masked",
        "_task", "_plan", "_parameters", "_records", "_labels", "_network", "_rates", "_candidates", "_unknown",
        "_errors",
    }  # fmt: skip


GUARDED = {
    "architecture": ("model", "task"),
    "neuron": ("neuron", "task"),
    "encoding": ("encoding", "task"),
    "weights": ("parameters",),
    "plan": ("plan", "gradient"),
    "codec": ("records",),
}


@pytest.mark.parametrize("item", GUARDED)
def test_withheld_knowledge_cannot_be_read(item):
    data = load("digits")
    threat = ThreatModel(**{item: False})
    seen = observe(task_of(hidden=(16,)), np.array(data.x[:1]), np.array(data.y[:1]), threat=threat)
    for name in GUARDED[item]:
        with pytest.raises(NotKnownError, match=item):
            getattr(seen, name)
    assert item not in seen.known


def test_defaults_are_an_honest_but_curious_servers():
    threat = decode_tables({}, ThreatModel, origin="attack.toml")
    assert threat.vantage == "server"
    assert threat.knowledge == {"architecture", "neuron", "encoding", "weights", "plan", "codec"}
    with pytest.raises(ConfigurationError, match="label"):
        decode_tables({"label": True}, ThreatModel, origin="attack.toml")


def test_no_file_of_the_room_can_reach_a_truth():
    allowed = {
        "contract.datasets": {"dataset_info", "task_info"},
        "contract.messages": {
            "Aggregate", "AttackResult", "MAX_CANDIDATES", "MAX_HEAD_BYTES", "MAX_IMAGES_BYTES", "MembershipTest",
            "Message", "Model", "Name", "Reconstruction", "Seen", "ServerState", "TaskManifest",
            "TensorRecord", "Update", "Verdict", "decode",
            "pack", "unpack", "unpack_one_of",
        },
    }  # fmt: skip
    sources = sorted(Path(attack.__file__).parent.rglob("*.py"))
    assert len(sources) > 10
    for source in sources:
        for node in ast.walk(ast.parse(source.read_text())):
            names = {alias.name for alias in node.names} if isinstance(node, (ast.Import, ast.ImportFrom)) else set()
            module = node.module if isinstance(node, ast.ImportFrom) else None
            assert module is None or module in allowed or not module.startswith(("contract.datasets", "edge_client"))
            if module in allowed:
                assert names <= allowed[module], f"{source.name} imports {names - allowed[module]} from {module}"
            assert not any(name.startswith(("contract.datasets", "edge_client", "server")) for name in names), source


# --- descent ----------------------------------------------------------------------------------------------------


def test_descent_keeps_each_restarts_best_point_and_names_divergence():
    import torch

    x = torch.tensor([[2.0], [3.0]], requires_grad=True)
    descent = Descent(lambda v: (v**2).sum(1), deadline=0.0, enough=0.0)
    descent.evaluate(x)
    assert (descent.best_loss, descent.best.item()) == (4.0, 2.0)
    with pytest.raises(OutOfTimeError):
        descent.evaluate(x)
    for broken in (lambda v: (v - torch.inf).sum(1) * 0, lambda v: (v - 4).sqrt().sum(1)):
        with pytest.raises(DivergedError, match="finite"):
            Descent(broken, deadline=1e12, enough=0.0).evaluate(x)


def test_a_restart_that_diverges_leaves_the_others_alone():
    import torch

    x = torch.tensor([[2.0], [5.0]], requires_grad=True)
    descent = Descent(lambda v: (v - 4).sqrt().sum(1), deadline=1e12, enough=0.0)
    assert descent.evaluate(x).tolist() == [float("inf"), 1.0]
    assert descent.broken.tolist() == [True, False]
    assert x.grad.tolist() == [[0.0], [0.5]]
    assert (descent.best_loss, descent.best.item()) == (1.0, 5.0)
