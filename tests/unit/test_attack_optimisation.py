"""Gradient matching's parts: rows against plain gradients, windows, batched optimisers, priors."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import torch
from torch.nn.functional import conv2d

from attack.app import chosen_methods
from attack.citations import CITATIONS
from attack.methods import METHODS, VARIANTS
from attack.optimisation.candidates import Candidates
from attack.optimisation.descent import Descent
from attack.optimisation.gauss_newton import _Linearised
from attack.optimisation.lbfgs import HISTORY, _Memory, lbfgs
from attack.optimisation.objectives import OBJECTIVES, dot, relative_square
from attack.optimisation.priors import PRIORS
from attack.optimisation.relaxations import straight_through
from attack.optimisation.windows import windows
from contract.datasets import load
from contract.metrics import psnr
from contract.models.layout import layers
from tests.attack_updates import observe, task_of

NETWORKS = [
    {"family": "ann"},
    {"family": "ann", "kind_": "conv", "channels": (3, 2), "hidden": ()},
    {"surrogate": "atan"},
    {"surrogate": "fast_sigmoid", "kind": "rate", "steps": 3},
    {"kind_": "conv", "channels": (3,), "hidden": (6,), "stride": 1, "kernel": 3, "kind": "rate", "steps": 3},
    {"readout": "spike", "surrogate": "sigmoid", "surrogate_slope": 3.0},
]


def seen_update(options, count=2):
    data, options = load("digits"), dict(options)
    kind = options.pop("kind_", "fc")
    task = task_of(**{"steps": 4, "hidden": (12,), "weight_bits": None} | options)
    task = msgspec.structs.replace(task, model=msgspec.structs.replace(task.model, kind=kind))
    return observe(task, np.array(data.x[:count]), np.array(data.y[:count]))


@pytest.mark.parametrize("options", NETWORKS)
@pytest.mark.parametrize("soft", [False, True])
def test_rows_give_the_plain_gradients_products_and_their_derivative(options, soft):
    """Three restarts in one tensor equal three simulations of their own."""
    seen = seen_update(options)
    candidates = Candidates(seen, dtype=torch.float64)
    simulator, rng = candidates.simulator, np.random.default_rng(0)
    x = torch.tensor(rng.random((3, simulator.steps, 2, *seen.shape)), requires_grad=True)
    labels = torch.tensor(rng.dirichlet(np.ones(seen.classes), (3, 2))) if soft else torch.tensor([1, 4])
    comparison = candidates.compare(x, labels)
    plain = [simulator.gradients(x[r], labels[r] if soft else labels, create_graph=True) for r in range(3)]
    for found, expected in (
        (comparison.found, [dot(g, g) for g in plain]),
        (comparison.cross, [dot(g, simulator.target) for g in plain]),
        (OBJECTIVES["relative_square"](comparison), [relative_square(g, simulator.target) for g in plain]),
    ):
        torch.testing.assert_close(found, torch.stack(expected), rtol=1e-9, atol=1e-12)
        derivative = [
            torch.autograd.grad(side.sum(), x, retain_graph=True)[0] for side in (found, torch.stack(expected))
        ]
        assert derivative[1].abs().max() > 0
        torch.testing.assert_close(*derivative, rtol=1e-8, atol=1e-10)


def test_the_true_input_has_distance_zero():
    seen = seen_update({"family": "ann"}, count=1)
    data = load("digits")
    candidates = Candidates(seen, dtype=torch.float64)
    x = torch.tensor(np.array(data.x[:1]), dtype=torch.float64)[None, None]
    comparison = candidates.compare(x, torch.tensor(data.y[:1]))
    for objective in OBJECTIVES.values():
        assert abs(objective(comparison).item()) < 1e-9


@pytest.mark.parametrize(("stride", "kernel"), [(1, 3), (2, 5), (2, 2)])
def test_windows_are_what_a_convolution_sees_to_second_order(stride, kernel):
    task = task_of("mnist5k", channels=(4,), stride=stride, kernel=kernel)
    task = msgspec.structs.replace(task, model=msgspec.structs.replace(task.model, kind="conv"))
    layer = layers(task, (2, 9, 9), 3)[0]
    rng = np.random.default_rng(0)
    x = torch.tensor(rng.normal(size=(2, 2, 9, 9)), requires_grad=True)
    weight = torch.tensor(rng.normal(size=layer.weight_shape))
    ours = (windows(x, layer) @ weight.flatten(1).T).transpose(1, 2).reshape(2, *layer.outputs)
    theirs = conv2d(x, weight, stride=stride, padding=layer.padding)
    torch.testing.assert_close(ours, theirs)
    for _ in range(2):
        ours, theirs = (torch.autograd.grad((side**3).sum(), x, create_graph=True)[0] for side in (ours, theirs))
        torch.testing.assert_close(ours, theirs)


def test_restarts_of_one_batch_do_not_act_on_each_other():
    """Rosenbrock's valley from three starts, alone and together."""
    scale = torch.tensor([1.0, 30.0, 5.0, 0.2], dtype=torch.float64)

    def loss(x):
        a, b = x[:, ::2], x[:, 1::2]
        return (scale[0] * (1 - a) ** 2 + scale[1] * (b - a**2) ** 2).sum(1)

    starts = torch.tensor(np.random.default_rng(0).normal(size=(3, 4)))
    together = Descent(loss, deadline=1e12, enough=1e-20)
    lbfgs(together, starts, 200)
    alone = []
    for start in starts:
        one = Descent(loss, deadline=1e12, enough=1e-20)
        lbfgs(one, start[None], 200)
        alone.append(one.best_loss)
    assert together.best_loss < 1e-18
    assert together.best_loss == pytest.approx(min(alone), abs=1e-20)


def test_gauss_newton_products_are_those_of_the_jacobian():
    seen = seen_update({"family": "ann", "hidden": (5,)}, count=1)
    candidates = Candidates(seen, dtype=torch.float64)
    simulator, rng = candidates.simulator, np.random.default_rng(0)
    labels, size = torch.tensor([3]), int(np.prod(seen.shape))

    def inputs(x):
        return x.reshape(len(x), 1, 1, *seen.shape), labels

    x, v = torch.tensor(rng.random((2, size))), torch.tensor(rng.normal(size=(2, size)))
    at = _Linearised(candidates, inputs, x)

    def gradient(row):
        found = simulator.gradients(row.reshape(1, 1, *seen.shape), labels, create_graph=True)
        return torch.cat([g.flatten() for g in found]) / candidates.norm.sqrt()

    for restart in range(2):
        jacobian = torch.autograd.functional.jacobian(gradient, x[restart])
        target = torch.cat([t.flatten() for t in simulator.target]) / candidates.norm.sqrt()
        expected = jacobian.T @ (jacobian @ v[restart])
        torch.testing.assert_close(at.normal_product(v)[restart], expected, rtol=1e-8, atol=1e-12)
        downhill = 2 * jacobian.T @ (gradient(x[restart]) - target)
        torch.testing.assert_close(at.gradient[restart], downhill, rtol=1e-7, atol=1e-11)


def test_variants_run_when_they_are_named_and_only_then():
    assert list(chosen_methods(("gauss_newton", "ratio"))) == ["ratio", "gauss_newton"]
    assert chosen_methods(None) is METHODS
    assert VARIANTS
    assert not METHODS.keys() & VARIANTS.keys()
    for name, method in VARIANTS.items():
        assert method.name == name
        assert CITATIONS[method.citation.key] == method.citation


@pytest.mark.parametrize("name", ["dlg_joint", "gauss_newton"])
def test_variants_invert_an_artificial_network(name):
    data = load("digits")
    seen = seen_update({"family": "ann", "hidden": (32,)}, count=1)
    finding = VARIANTS[name].run(seen, 20.0, np.random.default_rng(0))
    assert finding.verdict == "recovered"
    assert finding.labels == (int(data.y[0]),)
    assert psnr(finding.images[0], data.x[0]) > 60


def test_variants_for_spikes_estimate_the_image_and_refuse_direct_coding():
    data = load("digits")
    rate = seen_update({"kind": "rate", "steps": 4, "hidden": (32,)}, count=1)
    direct = seen_update({}, count=1)
    grey = psnr(np.full_like(data.x[0], 0.5), data.x[0])
    for name in ("cosine_common_rate", "cosine_smooth_in_time", "cosine_straight_through"):
        assert "no spikes" in VARIANTS[name].applies(direct)
        assert VARIANTS[name].applies(rate) is None
        short = msgspec.structs.replace(VARIANTS[name].matching, iterations=120)
        finding = short.run(rate, 20.0, np.random.default_rng(0))
        assert finding.verdict == "partial"
        assert psnr(finding.images[0], data.x[0]) > grey, name


def test_priors_are_zero_for_the_likeliest_and_apart_for_each_restart():
    still = torch.full((2, 3, 1, 1, 4, 4), 0.5, dtype=torch.float64)
    moving = still.clone()
    moving[1, 1] = torch.rand(1, 1, 4, 4)
    for name, prior in PRIORS.items():
        assert prior(still).tolist() == [0.0, 0.0], name
        assert prior(moving)[0] == 0
        assert (prior(moving)[1] > 0) == (name != "none")


def test_straight_through_gives_spikes_and_passes_the_derivative():
    x = torch.tensor([0.2, 0.7, 1.4], requires_grad=True)
    spikes = straight_through(x)
    assert spikes.tolist() == [0.0, 1.0, 1.0]
    assert torch.autograd.grad((spikes * torch.tensor([1.0, 2.0, 3.0])).sum(), x)[0].tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(("history", "pairs"), [(4, 3), (4, 11), (8, 8)])
def test_directions_are_those_of_the_inverse_hessian_formed_pair_by_pair(monkeypatch, history, pairs):
    """Rings of pairs, of which each restart takes its own, against the product form of BFGS."""
    monkeypatch.setattr("attack.optimisation.lbfgs.HISTORY", history)
    rng, (restarts, n) = np.random.default_rng(0), (3, 7)
    memory = _Memory(torch.zeros(restarts, n, dtype=torch.float64))
    root = rng.normal(size=(restarts, n, n))
    hessians = root @ root.transpose(0, 2, 1) + np.eye(n)
    taken: list[list[tuple]] = [[] for _ in range(restarts)]
    for _ in range(pairs):
        s, g, which = rng.normal(size=(restarts, n)), rng.normal(size=(restarts, n)), rng.random(restarts) > 0.3
        y = np.einsum("rij,rj->ri", hessians, s)
        products = memory.push(*map(torch.tensor, (which, s, y, g)))
        for r in np.flatnonzero(which):
            taken[r].append((s[r], y[r]))
        expected = [-_inverse_hessian(taken[r][-history:], g[r]) @ g[r] for r in range(restarts)]
        for found in (memory.direction(torch.tensor(g), products), memory.direction(torch.tensor(g))):
            np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-10)
    memory.forget(torch.tensor([True, False, False]))
    g = torch.tensor(rng.normal(size=(restarts, n)))
    torch.testing.assert_close(memory.direction(g)[0], -g[0] / g[0].abs().sum().clamp_min(1.0))


def _inverse_hessian(pairs, g):
    eye = np.eye(len(g))
    if not pairs:
        return eye / max(1.0, np.abs(g).sum())
    newest_s, newest_y = pairs[-1]
    found = eye * (newest_s @ newest_y) / (newest_y @ newest_y)
    for s, y in pairs:
        left = eye - np.outer(s, y) / (s @ y)
        found = left @ found @ left.T + np.outer(s, s) / (s @ y)
    return found


def test_pairs_fit_their_memory():
    memory = _Memory(torch.zeros(4, 100_000, dtype=torch.float64))
    assert memory.history == (256 << 20) // (2 * 4 * 100_000 * 8)
    assert _Memory(torch.zeros(2, 10)).history == HISTORY
