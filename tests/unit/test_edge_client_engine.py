"""Engines, and what importing the room brings along."""

from __future__ import annotations

import ast
import gc
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

from contract.errors import ConfigurationError
from contract.models.layout import initial_parameters
from contract.models.network import Network
from contract.task import EncodingSpec, ModelSpec, NeuronSpec, TaskSpec
from edge_client import emitted_sums
from edge_client.engine import ENGINES, EngineKind, open_engine
from hardware.loihi.environment import Lava
from server.export import inference_graph, training_graph

SHAPE, CLASSES, BATCH = (1, 8, 8), 10, 4
TASKS = {
    "fc": TaskSpec(encoding=EncodingSpec(kind="rate", steps=4), model=ModelSpec(hidden=(12,))),
    "conv": TaskSpec(encoding=EncodingSpec(steps=3), model=ModelSpec(kind="conv", channels=(3,), hidden=())),
    "two conv": TaskSpec(
        encoding=EncodingSpec(kind="rate", steps=3), model=ModelSpec(kind="conv", channels=(3, 4), hidden=())
    ),
    "ann": TaskSpec(encoding=EncodingSpec(steps=1), model=ModelSpec(family="ann", hidden=(12,), weight_bits=None)),
}


def inputs(task: TaskSpec) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    if task.encoding.kind == "rate":
        frames = (rng.random((task.encoding.steps, BATCH, *SHAPE)) < 0.4).astype(np.float32)
    else:
        frames = rng.random((1, BATCH, *SHAPE), dtype=np.float32)
    return frames, rng.integers(0, CLASSES, BATCH)


CHIP = {
    "fc": TaskSpec(
        encoding=EncodingSpec(kind="rate", steps=4),
        model=ModelSpec(hidden=(12,), readout="spike"),
        neuron=NeuronSpec(reset="zero"),
    ),
    "conv": TaskSpec(
        encoding=EncodingSpec(kind="rate", steps=3),
        model=ModelSpec(kind="conv", channels=(3,), hidden=(), readout="spike"),
        neuron=NeuronSpec(reset="zero"),
    ),
}
"""Engine `loihi` takes tasks that its chip can run."""
PAIRS = [(name, kind) for name in ENGINES for kind in (CHIP if name == "loihi" else TASKS)]


def task_for(name: str, kind: str) -> TaskSpec:
    return CHIP[kind] if name == "loihi" else TASKS[kind]


@pytest.fixture(autouse=True)
def _no_lava(monkeypatch):
    """The chip's place is taken by the numpy reference in a second process; lava is not installed here."""
    monkeypatch.setattr(Lava, "find", classmethod(lambda cls: cls(Path(sys.executable), reference=True)))


def opened(name: str, task: TaskSpec):
    graphs = {}
    if ENGINES[name].needs:
        graphs = {"training": training_graph(task, SHAPE, CLASSES), "inference": inference_graph(task, SHAPE, CLASSES)}
    return open_engine(name, task, SHAPE, CLASSES, graphs=graphs)


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_every_engine_gives_the_gradient_of_the_reference_network(name, kind):
    task = task_for(name, kind)
    engine = opened(name, task)
    params = initial_parameters(task, SHAPE, CLASSES)
    kept = {key: value.copy() for key, value in params.items()}
    frames, labels = inputs(task)
    result = engine.gradients(params, frames, labels)

    leaves = {key: torch.tensor(value, requires_grad=True) for key, value in params.items()}
    logits, hidden = Network(task, SHAPE, CLASSES).trace(leaves, torch.tensor(frames))
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(labels))
    loss.backward()
    assert engine.name.split()[0] == name
    assert result.loss == pytest.approx(loss.item(), rel=1e-5)
    assert list(result.gradients) == list(params)
    for key, gradient in result.gradients.items():
        assert gradient.dtype == np.float32
        np.testing.assert_allclose(gradient, leaves[key].grad.numpy(), rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(params[key], kept[key])
    (passes,) = engine.emitted()
    assert (passes.batch, passes.passes, engine.emitted()) == (BATCH, 1, ())
    for counts, layer in zip(passes.counts, hidden, strict=True):
        expected = torch.count_nonzero(layer, 0).flatten(1)
        expected = expected.T if layer.ndim > 3 else expected  # samples innermost behind a convolution
        np.testing.assert_array_equal(counts, expected.reshape(1, -1).numpy())
        assert counts.dtype == np.float32


@pytest.mark.parametrize("name", ENGINES)
def test_read_only_parameters_are_taken(name):
    task = task_for(name, "fc")
    params = initial_parameters(task, SHAPE, CLASSES)
    for value in params.values():
        value.flags.writeable = False
    frames, labels = inputs(task)
    frames.flags.writeable = labels.flags.writeable = False
    assert np.isfinite(opened(name, task).gradients(params, frames, labels).loss)


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_parameters_are_read_where_they_lie_at_each_pass(name, kind):
    """Changed in place, replaced, with gaps, askew, and batches of other sizes between: as an engine made anew says."""
    task = task_for(name, kind)
    engine, params = opened(name, task), initial_parameters(task, SHAPE, CLASSES)
    frames, labels = inputs(task)
    key = next(iter(params))
    wide = np.zeros((*params[key].shape, 2), np.float32)
    askew = np.frombuffer(b"." + params[key].tobytes(), np.float32, offset=1).reshape(params[key].shape)
    assert not askew.flags.aligned

    def check(size: int = BATCH) -> None:
        found = engine.gradients(params, frames[:, :size], labels[:size])
        expected = opened(name, task).gradients(params, frames[:, :size], labels[:size])
        assert found.loss == expected.loss
        for mine, theirs in zip(found.gradients.values(), expected.gradients.values(), strict=True):
            np.testing.assert_array_equal(mine, theirs)

    check()
    params[key] *= 2
    check(2)
    params[key] = params[key] + 0.125
    check()
    params[key] = wide[..., 0]
    check()
    wide += 0.25
    check()
    params[key] = askew
    check(1)


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_what_passes_emit_adds_up_for_each_size_of_batch(monkeypatch, name, kind):
    """Also over more passes than float32 could count exactly: other frames in each, and each alone by a new engine."""
    monkeypatch.setattr(emitted_sums, "EXACT", 12)
    task = task_for(name, kind)
    engine, params = opened(name, task), initial_parameters(task, SHAPE, CLASSES)
    params = {key: 3 * value for key, value in params.items()}
    frames, labels = inputs(task)
    singly, sizes = [], (4, 4, 4, 4, 4, 2, 2, 4)
    for i, size in enumerate(sizes):
        given = (params, np.roll(frames, i, axis=-1)[:, :size], labels[:size])
        engine.gradients(*given)
        alone = opened(name, task)
        alone.gradients(*given)
        singly += alone.emitted()
    together = engine.emitted()
    steps = task.encoding.steps if task.model.family == "snn" else 1
    assert all(each.passes <= 12 // steps for each in together)
    assert sum(each.passes for each in together if each.batch == 4) == 6
    assert sum(each.passes for each in together if each.batch == 2) == 2
    for size in (2, 4):
        one, all_ = ([each.counts for each in found if each.batch == size] for found in (singly, together))
        for mine, theirs in zip(zip(*all_, strict=True), zip(*one, strict=True), strict=True):
            np.testing.assert_array_equal(sum(mine), sum(theirs))
            assert np.any(sum(mine))
    assert engine.emitted() == ()


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_does_not_keep_a_model(name):
    task = task_for(name, "fc")
    engine, params = opened(name, task), initial_parameters(task, SHAPE, CLASSES)
    engine.gradients(params, *inputs(task))
    models = [weakref.ref(value) for value in params.values()]
    del params
    gc.collect()
    assert [model() for model in models] == [None] * len(models)


def test_labels_that_are_not_one_a_sample_are_refused():
    frames, labels = inputs(TASKS["fc"])
    params = initial_parameters(TASKS["fc"], SHAPE, CLASSES)
    with pytest.raises(ValueError, match="one for each sample"):
        opened("onnx", TASKS["fc"]).gradients(params, frames, labels[:1])


def test_there_are_engines():
    assert {"onnx", "torch"} <= set(ENGINES)


@pytest.mark.parametrize("name", ["loihi2", "", "Torch"])
def test_an_unknown_engine_is_refused_with_the_list(name):
    with pytest.raises(ConfigurationError, match=r"no such engine; choose one of .*torch"):
        open_engine(name, TASKS["fc"], SHAPE, CLASSES)


def test_an_engine_without_its_library_is_refused(monkeypatch):
    def absent(*_args: object) -> None:
        raise ImportError("No module named 'torch'")

    monkeypatch.setitem(ENGINES, "torch", EngineKind(factory=absent))
    with pytest.raises(ConfigurationError, match="install its library"):
        open_engine("torch", TASKS["fc"], SHAPE, CLASSES)


FOREIGN = ("torch", "snntorch", "server", "attack", "deploy", "scipy", "skimage", "matplotlib", "sklearn", "mlxtend")


@pytest.mark.parametrize("module", ["edge_client", "edge_client.app", "edge_client.device", "edge_client.scoring"])
def test_importing_the_room_stays_light(module):
    program = f"import sys, {module}; print(sorted(set(sys.modules) & set({FOREIGN!r})))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_client_runs_with_the_boards_dependencies_alone():
    """Nothing outside the standard library, numpy, msgspec and paho is imported."""
    program = (
        "import sys, edge_client.app; roots = {m.split('.')[0] for m in sys.modules};"
        "own = {'contract', 'hardware', 'edge_client'};"
        "print(sorted(r for r in roots - own - set(sys.stdlib_module_names) if not r.startswith('_')))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    # cython_runtime is part of numpy; msgspec reads typing_extensions where it happens to be installed.
    assert set(ast.literal_eval(done.stdout)) <= {"numpy", "msgspec", "paho", "cython_runtime", "typing_extensions"}
