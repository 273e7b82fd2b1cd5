"""The benchmarks' own parts: the same network for both sides, failures counted, a plain word when a peer is absent."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import torch

from attack.method import Finding
from attack.methods import KNOWN
from tests.benchmarks import breaching, literature


def test_both_sides_attack_the_same_gradients():
    case = breaching.Case(3)
    twin = breaching.Twin(case.parameters)
    loss = torch.nn.functional.cross_entropy(twin(torch.from_numpy(case.x)), torch.from_numpy(case.y))
    found = torch.autograd.grad(loss, list(twin.parameters()))
    for name, gradient in zip(case.parameters, found, strict=True):
        np.testing.assert_allclose(gradient.numpy(), case.observation.update[name], rtol=1e-4, atol=1e-7)


def test_evaluations_are_counted_per_restart():
    case = breaching.Case(0)
    matching = msgspec.structs.replace(breaching.COSINE, iterations=3, restarts=2, enough=-1.0)
    db, rate = breaching.ours(case, matching)
    assert db > 0
    assert rate > 0


def test_without_breaching_it_says_how_to_install_it(monkeypatch, capsys):
    monkeypatch.setattr(breaching, "find_spec", lambda _name: None)
    breaching.main([])
    said = capsys.readouterr().out
    assert "skipped" in said
    assert "pip install --no-deps" in said


def test_what_fails_counts_as_nothing_found():
    class Broken:
        name, citation, requires = "broken", KNOWN["dlg"].citation, frozenset()

        def applies(self, *_):
            return None

        def run(self, *_):
            return Finding(verdict="failed", reason="on purpose")

    class Blind(Broken):
        def run(self, *_):
            return Finding(verdict="partial", images=np.full((1, 1, 28, 28), np.nan, np.float32))

    observation, image = literature.update(literature.task_of(hidden=(8,)), 0, steps=0)
    for method in (Broken(), Blind()):
        assert literature.trial(method, observation, image, 1.0)[0] == 0.0
    assert literature.trial(KNOWN["ratio"], observation, image, 1.0)[0] > 100


def test_every_cell_of_the_comparison_names_known_attacks():
    assert {*literature.ATTACKS, *literature.SPIKES, *literature.CLOSED.values()} <= KNOWN.keys()
    with pytest.raises(SystemExit):
        literature.main(["snn-atn"])
