"""A user's network stated for a task: the file loaded and checked, the same in everybody's hands."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from msgspec import structs
from torch import nn

from contract.errors import ConfigurationError
from contract.models.layout import layers, parameter_shapes
from contract.models.own import user_network
from contract.task import EncodingSpec, ModelSpec, OwnModel, ParameterSpec, TaskSpec, task_hash
from edge_client.engine import open_engine
from tests.conftest import ROOT

FILE = ROOT / "tests" / "audited_models.py"
SHAPE, CLASSES = (1, 8, 8), 10
TASK = TaskSpec(dataset="digits", encoding=EncodingSpec(kind="rate", steps=3))
HEAD = "import torch, snntorch as snn\nfrom torch import nn\n"
LINEAR = "class Made(nn.Module):\n  def __init__(self):\n    super().__init__(); self.f = nn.Linear(64, {classes})\n"
FLAT = "  def forward(self, x): return self.f(x.mean(0).flatten(1))\n"


def network_of(spec=f"{FILE}:StepLoop", task=TASK, shape=SHAPE, classes=CLASSES):
    return user_network(str(spec), task, shape, classes, named="model = 'net.py:make'")


def written(folder, body):
    path = folder / "net.py"
    path.write_text(HEAD + body)
    return f"{path}:Made"


def test_the_task_names_file_factory_and_parameters():
    network, task = network_of()
    assert task.model.kind == "own"
    assert task.model.own.factory == "StepLoop"
    shapes = {"fc1.weight": (48, 64), "fc1.bias": (48,), "fc2.weight": (10, 48), "fc2.bias": (10,)}
    assert parameter_shapes(task, SHAPE, CLASSES) == shapes
    assert {name: p.shape for name, p in network.initial_parameters().items()} == shapes
    assert network_of(task=task)[1] == task
    with pytest.raises(ConfigurationError, match="not known"):
        layers(task, SHAPE, CLASSES)


def test_the_task_changes_with_the_code(tmp_path):
    first = network_of(written(tmp_path, LINEAR.format(classes=10) + FLAT))[1]
    second = network_of(written(tmp_path, LINEAR.format(classes=10) + FLAT.replace("mean", "sum")))[1]
    assert first.model.own.parameters == second.model.own.parameters
    assert task_hash(first) != task_hash(second)
    with pytest.raises(ConfigurationError, match="sha256 differs"):
        network_of(written(tmp_path, LINEAR.format(classes=10) + FLAT), task=second)


def test_the_seed_decides_the_first_model_and_nothing_else():
    torch.manual_seed(77)
    expected = torch.rand(1)
    torch.manual_seed(77)
    first, again = network_of()[0].initial_parameters(), network_of()[0].initial_parameters()
    assert torch.equal(torch.rand(1), expected)
    other = network_of(task=structs.replace(TASK, seed=2))[0].initial_parameters()
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["fc1.weight"], other["fc1.weight"])


def test_one_frame_stands_for_all_and_neurons_forget():
    network = network_of(f"{FILE}:ConvNet")[0]
    params = {name: p.detach() for name, p in network.trained.items()}
    frame = torch.rand((1, 2, *SHAPE), generator=torch.Generator().manual_seed(1))
    before = {name: buffer.clone() for name, buffer in network.module.named_buffers()}
    logits = network(params, frame)
    assert torch.equal(logits, network(params, frame.expand(3, *frame.shape[1:])))
    assert all(torch.equal(buffer, before[name]) for name, buffer in network.module.named_buffers())


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("class Mad(nn.Module): pass\n", "did you mean 'Mad'"),
        ("Made = 3\n", "not a callable"),
        ("def Made(): return 3\n", "must return a torch.nn.Module"),
        ("def Made(): raise OSError('no weights here')\n", "OSError: no weights here"),
        ("import nowhere_to_be_found\n", "cannot be imported: ModuleNotFoundError"),
        (LINEAR.format(classes=7) + FLAT, r"shape \[3, 7\] .* logits \[3, 10\]"),
        (LINEAR.format(classes=10) + "  def forward(self, x): return self.f(x.flatten(2))\n", r"shape \[3, 3, 10\]"),
        (LINEAR.format(classes=10) + "  def forward(self, x): return x, x\n", "returns a tuple"),
        (LINEAR.format(classes=10) + "  def forward(self, x): return self.f(x)\n", "the module fails on frames"),
        (LINEAR.format(classes=10) + FLAT + "    + torch.rand(1)\n", "second call"),
        (LINEAR.format(classes=10) + FLAT.replace(".flatten(1))", ".flatten(1)) / 0"), "not finite"),
        (LINEAR.format(classes=10) + "    self.d = nn.Dropout(0.2)\n" + FLAT, "'d' is a dropout layer"),
        (LINEAR.format(classes=10) + "    self.n = nn.BatchNorm2d(1)\n" + FLAT, "running statistics"),
        (LINEAR.format(classes=10) + "    self.f.requires_grad_(False)\n" + FLAT, "no trainable parameter"),
        (LINEAR.format(classes=10) + "    self.b = nn.Parameter(torch.tensor(0.5))\n" + FLAT, r"shape \[\]"),
        (LINEAR.format(classes=10) + "    self.double()\n" + FLAT, "torch.float64"),
    ],
)
def test_one_clear_line_for_what_cannot_be_used(tmp_path, body, said):
    body = body.replace("\n    + torch", " + torch") if "torch.rand(1)" in body else body
    with pytest.raises(ConfigurationError, match=said) as caught:
        network_of(written(tmp_path, body))
    assert str(caught.value).startswith("model = 'net.py:make': ")
    assert "\n" not in str(caught.value)


def test_no_such_file_and_no_such_form():
    with pytest.raises(ConfigurationError, match="there is no file"):
        network_of("nowhere.py:make")
    with pytest.raises(ConfigurationError, match=r"FILE\.py:FACTORY is expected"):
        network_of("StepLoop")


def test_a_task_with_another_network_is_refused():
    with pytest.raises(ConfigurationError, match=r"\[task.model\] describes another network"):
        network_of(task=structs.replace(TASK, model=ModelSpec(hidden=(32,))))


def test_the_record_goes_with_its_kind():
    own = OwnModel(sha256="0" * 64, factory="make", parameters=(ParameterSpec(name="w", shape=(2,)),))
    with pytest.raises(ValueError, match="with the record"):
        ModelSpec(own=own)
    with pytest.raises(ValueError, match="without the record"):
        ModelSpec(kind="own")


def test_a_device_runs_no_code_of_users():
    with pytest.raises(ConfigurationError, match="engine = 'onnx'"):
        open_engine("torch", network_of()[1], SHAPE, CLASSES)


def test_frozen_parameters_are_no_part_of_the_task(tmp_path):
    body = LINEAR.format(classes=10) + "    self.g = nn.Linear(2, 2); self.g.weight.requires_grad = False\n" + FLAT
    network, task = network_of(written(tmp_path, body))
    assert list(parameter_shapes(task, SHAPE, CLASSES)) == ["f.weight", "f.bias", "g.bias"]
    assert isinstance(network.trained["g.bias"], nn.Parameter)
