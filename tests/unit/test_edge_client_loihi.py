"""Engine `loihi`: what it refuses, what it classifies, and a device that lives with it. Lava is not needed."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from contract.encodings import encode
from contract.errors import ConfigurationError
from contract.messages import EnergyReport, GraphRecord, NodeState, Update, decode
from contract.models.layout import initial_parameters
from contract.task import EncodingSpec, ModelSpec, NeuronSpec, TaskSpec, task_hash
from deploy.study import Study, check_study
from edge_client.app import main, run_client
from edge_client.engine import open_engine
from edge_client.engines.loihi import LoihiEngine, check_task
from hardware.loihi import cuba
from hardware.loihi.environment import Lava
from hardware.loihi.errors import NoLavaError
from server.export import training_graph
from server.settings import ScheduleEntry
from tests.unit import edge_client_world as world

SHAPE, CLASSES = (1, 8, 8), 10
CHIP = TaskSpec(
    dataset="digits",
    encoding=EncodingSpec(kind="rate", steps=6),
    model=ModelSpec(hidden=(12,), readout="spike"),
    neuron=NeuronSpec(reset="zero"),
)
CONV = msgspec.structs.replace(
    CHIP, model=ModelSpec(kind="conv", channels=(3, 4), kernel=3, hidden=(8,), readout="spike")
)
REFERENCE = Lava(Path(sys.executable), reference=True)


def changed(**parts) -> TaskSpec:
    return msgspec.structs.replace(CHIP, **parts)


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (changed(encoding=EncodingSpec()), ["task.encoding.kind = 'direct'", "set 'rate'"]),
        (changed(neuron=NeuronSpec()), ["task.neuron.reset = 'subtract'", "set 'zero'"]),
        (changed(neuron=NeuronSpec(reset="zero", beta=0.0)), ["task.neuron.beta = 0.0", "0.00024 or more"]),
        (changed(model=ModelSpec(hidden=(12,))), ["task.model.readout = 'membrane'", "set 'spike'"]),
        (changed(model=ModelSpec(readout="spike", weight_bits=None)), ["task.model.weight_bits = 32", "set 8"]),
        (changed(model=ModelSpec(readout="spike", weight_bits=4)), ["task.model.weight_bits = 4"]),
        (changed(model=ModelSpec(readout="spike", membrane_bits=8)), ["task.model.membrane_bits = 8", "leave it out"]),
        (changed(model=ModelSpec(family="ann")), ["task.model.family = 'ann'", "set 'snn'"]),
    ],
)
def test_what_the_chip_cannot_run_is_refused_by_key_value_and_remedy(task, words):
    with pytest.raises(ConfigurationError) as caught:
        check_task(task)
    assert all(word in str(caught.value) for word in [*words, "engine = 'loihi'", "engine = 'onnx'"])
    study = Study(name="s", clients=1, schedule=(ScheduleEntry(),), task=task)
    study = msgspec.structs.replace(study, devices=msgspec.structs.replace(study.devices, engine="loihi"))
    with pytest.raises(ConfigurationError, match=r"devices\.engine"):
        check_study(study, origin="study.toml")


def test_without_lavas_environment_a_device_ends_with_status_2(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SPIKELEAK_LOIHI", str(tmp_path))
    monkeypatch.setattr("signal.signal", lambda *_: None)
    path = tmp_path / "device.toml"
    path.write_text(f'run = "r"\nnode = "n"\ndirectory = "{tmp_path}/state"\nshard = 0\nshards = 1\nengine = "loihi"\n')
    assert main([str(path)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "make loihi" in said


def test_an_environment_without_lava_is_refused():
    graphs = {"training": training_graph(CHIP, SHAPE, CLASSES)}
    with pytest.raises(ConfigurationError, match="No module named 'lava"):
        LoihiEngine(CHIP, SHAPE, CLASSES, graphs, lava=Lava(Path(sys.executable)))


@pytest.mark.parametrize("task", [CHIP, CONV], ids=["fc", "conv"])
def test_the_chip_classifies_by_the_spikes_of_its_last_layer(task):
    params = {k: 4 * v for k, v in initial_parameters(task, SHAPE, CLASSES).items()}
    engine = LoihiEngine(task, SHAPE, CLASSES, {"training": training_graph(task, SHAPE, CLASSES)}, lava=REFERENCE)
    rng = np.random.default_rng(2)
    frames = encode(task.encoding, rng.random((5, *SHAPE), dtype=np.float32), rng)
    found = engine.classify(params, frames)
    network = engine.network(params)
    x = np.moveaxis(frames, 0, 1).astype(np.uint8).reshape(5, 6, *network.inputs)
    out = cuba.simulate(network, x).trains[-1]
    assert out.any()
    np.testing.assert_array_equal(found.predictions, out.sum(1).argmax(1))
    assert found.where == "reference"
    assert [r.provenance for r in found.readings] == ["unavailable", "modelled", "unavailable"]


def live(tmp_path, monkeypatch, lava: Lava) -> tuple[world.MemoryServer, list[dict]]:
    graph = training_graph(CHIP, tuple(world.INFO.shape), world.INFO.classes)
    record = GraphRecord(name="training", sha256=hashlib.sha256(graph).hexdigest(), nbytes=len(graph))
    for name, value in {"TASK": CHIP, "HASH": task_hash(CHIP), "GRAPH": graph, "RECORD": record}.items():
        monkeypatch.setattr(world, name, value)
    monkeypatch.setattr(Lava, "find", classmethod(lambda _cls: lava))
    server = world.MemoryServer(rounds=2, graphs=(record,))
    settings = world.settings(tmp_path, engine="loihi", infer_samples=9)
    assert run_client(settings, link_type=lambda *a, **k: world.MemoryLink(server, *a, **k)) == 0
    lines = (tmp_path / "device" / "inference.jsonl").read_text().splitlines()
    return server, [json.loads(line) for line in lines]


def test_a_device_trains_on_the_host_and_infers_on_the_chip(tmp_path, monkeypatch):
    server, inferences = live(tmp_path, monkeypatch, REFERENCE)
    assert [u.round for u in server.updates] == [1, 2]
    assert server.states[0].engine == "loihi (reference)"
    assert decode(server.link.farewell[1], NodeState).engine == "loihi (reference)"
    (found,) = inferences  # two rounds of one model
    assert (found["model_version"], found["samples"], found["where"]) == (1, 9, "reference")
    assert 0 <= found["accuracy"] <= 1
    assert found["reason"] == ""
    assert {r["provenance"] for r in found["readings"]} == {"unavailable", "modelled"}
    reports = [m for m, _ in server.objects.values() if isinstance(m, EnergyReport)]
    assert all(p.phase != "other" for report in reports for p in report.phases)


def test_a_chip_that_fails_costs_no_update(tmp_path, monkeypatch):
    class Failing(Lava):
        def run(self, *_arguments, **_named):
            raise NoLavaError("the board has gone")

    server, (found,) = live(tmp_path, monkeypatch, Failing(Path(sys.executable), reference=True))
    assert len(server.updates) == 2
    assert isinstance(server.updates[0], Update)
    assert (found["accuracy"], found["reason"]) == (None, "the board has gone")


def test_the_engine_is_opened_by_its_name(monkeypatch):
    monkeypatch.setattr(Lava, "find", classmethod(lambda _cls: REFERENCE))
    graphs = {"training": training_graph(CHIP, SHAPE, CLASSES)}
    assert open_engine("loihi", CHIP, SHAPE, CLASSES, graphs=graphs).name == "loihi (reference)"
