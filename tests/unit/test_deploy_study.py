"""Studies as TOML: what is written down reads back as the same study."""

from __future__ import annotations

import msgspec
import pytest

from contract.configuration import decode_toml
from contract.encodings import input_shape
from contract.errors import ConfigurationError
from contract.task import ModelSpec, TaskSpec, task_hash
from deploy.parties import noise_places
from deploy.study import Study, arms, load_study, to_toml
from edge_client.sensors import SensorSettings
from server.settings import ScheduleEntry


@pytest.mark.parametrize("bits", [2, 4, 8, None])
def test_a_study_reads_back_with_its_weights(tmp_path, bits):
    study = Study(name="s", schedule=(ScheduleEntry(),), task=TaskSpec(model=ModelSpec(weight_bits=bits)))
    path = tmp_path / "config.toml"
    path.write_text(to_toml(study))
    assert decode_toml(path, Study) == study


def test_32_bits_are_float_weights_and_the_same_task(tmp_path):
    path = tmp_path / "study.toml"
    path.write_text('name = "s"\n[[schedule]]\n[task.model]\nweight_bits = 32\n')
    task = decode_toml(path, Study).task
    assert task.model.weight_bits is None
    assert task_hash(task) == task_hash(TaskSpec(model=ModelSpec(weight_bits=None)))
    assert msgspec.json.decode(msgspec.json.encode(task))["model"]["weight_bits"] is None


def test_other_widths_are_refused(tmp_path):
    path = tmp_path / "study.toml"
    path.write_text('name = "s"\n[[schedule]]\n[task.model]\nweight_bits = 16\n')
    with pytest.raises(ConfigurationError, match=r"task\.model\.weight_bits' = 16"):
        decode_toml(path, Study)


OWN = """
name = "s"
schedule = [{}]
task.dataset = "own"
task.own_data = { shape = [2, 8], classes = 2, series = true }
task.encoding = { kind = "delta", steps = 8, gain = 20.0 }
"""


def study_of(tmp_path, text):
    path = tmp_path / "study.toml"
    path.write_text(text)
    return load_study(path)


@pytest.mark.parametrize("sensor", ['"mine-{index}.py:samples"', '{ path = "recordings/{index}" }'])
def test_each_device_reads_data_of_its_own(tmp_path, sensor):
    study = study_of(tmp_path, f"{OWN}devices.sensor = {sensor}")
    (tmp_path / "again.toml").write_text(to_toml(study))
    assert decode_toml(tmp_path / "again.toml", Study) == study
    third = SensorSettings.of(study.devices.sensor_of(3))
    assert third.path.name in {"mine-3.py", "3"}


@pytest.mark.parametrize(("more", "words"), [
    ("", r"'own' without \[devices.sensor\]"),
    ("devices.sensor = 'a.py:f'\nattack.candidates = 3", "attack.candidates = 3: .*'own' has none"),
    ("devices.sensor = 'a.py:f'\ntask.partition.kind = 'user'", "'own' does not say who made its samples"),
])  # fmt: skip
def test_what_does_not_go_with_own_data_is_refused(tmp_path, more, words):
    with pytest.raises(ConfigurationError, match=words):
        study_of(tmp_path, OWN + more)


@pytest.mark.parametrize("more", ["devices.sensor = 'a.py:f'", "server.held_out = 'h.npz'"])
def test_what_goes_with_own_data_alone_is_refused_elsewhere(tmp_path, more):
    with pytest.raises(ConfigurationError, match="goes with dataset = 'own' alone"):
        study_of(tmp_path, f'name = "s"\nschedule = [{{}}]\n{more}')


def test_a_series_whose_twin_sees_it_whole(tmp_path):
    text = 'name = "s"\nschedule = [{}]\ntask.dataset = "fsdd"\ntwin = {}\n'
    snn, twin = arms(
        study_of(tmp_path, f'{text}task.encoding = {{ kind = "delta", steps = 64, gain = 10.0 }}'), tmp_path
    )
    assert input_shape(snn.task.encoding, (32, 64)) == (2, 32)
    assert input_shape(twin.task.encoding, (32, 64)) == (32, 64)
    assert (twin.task.encoding.kind, twin.task.encoding.gain) == ("direct", 1.0)


@pytest.mark.parametrize(
    ("audit", "count", "places"),
    [
        ("rounds = 2", 2, ((4, "a"), (4, "b"))),
        ("rounds = 2", 3, ((4, "a"), (4, "b"), (5, "a"))),
        ("rounds = 1", 9, ((4, "a"), (4, "b"), (6, "a"), (6, "b"))),
        ("clients = 1", 1, ()),
        ("min_updates = 1", 1, ()),
    ],
)
def test_noise_controls_are_on_the_first_audit_updates_where_these_are_known_beforehand(tmp_path, audit, count, places):
    path = tmp_path / "study.toml"
    rounds = [
        "rounds = 3",
        f'kind = "audit"\nalgorithm = "fedsgd"\n{audit}',
        "",
        'kind = "audit"\nalgorithm = "fedsgd"',
    ]
    schedule = "".join(f"[[schedule]]\n{entry}\n" for entry in rounds)
    path.write_text(f'name = "s"\nclients = 2\n{schedule}[attack]\nnoise_controls = {count}\n')
    study = decode_toml(path, Study)
    assert noise_places(study, study.schedule, ["a", "b"]) == places
