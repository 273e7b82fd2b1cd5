"""A device's own data: each reader, and what is said of samples that will not do."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from contract.cochlea import cochleagram
from contract.configuration import decode_tables
from contract.errors import ConfigurationError
from contract.task import EncodingSpec, ModelSpec, OwnData, TaskSpec
from edge_client import sensors
from edge_client.app import prepare
from edge_client.engine import ENGINES
from edge_client.sensors import READERS, SensorSettings, read_shard
from edge_client.sensors.settings import Kind
from edge_client.settings import ClientSettings
from tests.unit.test_contract_cochlea import RATE, tone, wav

IMAGES = OwnData(shape=(2, 3), classes=3)
WALK = OwnData(shape=(3, 4), classes=2, series=True)


def npy(path: Path, values) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.asarray(values, dtype=np.float64))


def test_every_kind_of_sensor_has_a_reader():
    assert set(READERS) == set(get_args(Kind))


def test_a_folder_of_arrays(tmp_path):
    npy(tmp_path / "sit" / "b.npy", np.full((2, 3), 5.0))
    npy(tmp_path / "run" / "a.npy", np.arange(6).reshape(2, 3))
    npy(tmp_path / "stand_7.npy", np.zeros((2, 3)))
    (tmp_path / "notes.txt").write_text("not a sample")
    shard = read_shard(SensorSettings(path=tmp_path, labels=("sit", "stand", "run"), high=5.0), IMAGES)
    assert shard.y.tolist() == [2, 0, 1]
    np.testing.assert_allclose(shard.x[0], np.arange(6).reshape(2, 3) / 5)
    assert (shard.x.dtype, shard.x[1].min(), shard.classes) == (np.float32, 1.0, 3)


def test_a_folder_of_recordings(tmp_path):
    sound = tone(700.0)
    (tmp_path / "1_me_0.wav").write_bytes(wav(sound))
    data = OwnData(shape=(8, 16), classes=2, series=True)
    shard = read_shard(SensorSettings(path=tmp_path, low=-9, high=9), data)
    assert shard.y.tolist() == [1]
    expected = cochleagram((np.rint(sound * 32767) / 32768).astype(np.float32), RATE, bands=8, frames=16)
    np.testing.assert_allclose(shard.x[0], expected, atol=1e-6)
    with pytest.raises(ConfigurationError, match=r"1_me_0.wav: a recording becomes a series.*\[8, 16\] without series"):
        read_shard(SensorSettings(path=tmp_path), OwnData(shape=(8, 16), classes=2))
    (tmp_path / "1_me_0.wav").write_bytes(b"RIFF")
    with pytest.raises(ConfigurationError, match=r"1_me_0.wav: cannot be read: no PCM WAV"):
        read_shard(SensorSettings(path=tmp_path), data)


def log(tmp_path: Path, *rows: str) -> Path:
    path = tmp_path / "log.csv"
    path.write_text("\n".join(["time,x,what,y,z", *rows]) + "\n")
    return path


def rows(what: str, count: int, start: int = 0) -> list[str]:
    return [f"{i},{i},{what},0,-1" for i in range(start, start + count)]


def sensor(path: Path, **changes) -> SensorSettings:
    given = {"kind": "csv", "path": path, "channels": ("x", "y", "z"), "label": "what", "labels": ("walk", "sit")}
    return SensorSettings(**{**given, "low": -10.0, "high": 10.0, **changes})


@pytest.mark.parametrize(("stride", "starts"), [(None, [0, 4]), (2, [0, 2, 4]), (5, [0, 5])])
def test_a_table_is_cut_into_windows_of_one_label(tmp_path, stride, starts):
    path = log(tmp_path, *rows("walk", 9), *rows("", 4), *rows("sit", 3), *rows("walk", 4, 6))
    shard = read_shard(sensor(path, stride=stride), WALK)
    assert shard.y.tolist() == [0] * (len(starts) + 1)
    np.testing.assert_allclose(20 * shard.x[:, 0, 0] - 10, [*starts, 6], atol=1e-5)
    np.testing.assert_allclose(20 * shard.x[0] - 10, [[0, 1, 2, 3], [0] * 4, [-1] * 4], atol=1e-5)


def test_what_is_wrong_with_a_table_is_said_with_its_line(tmp_path):
    path = log(tmp_path, *rows("walk", 3), "3,nan,walk,0,0")
    with pytest.raises(
        ConfigurationError, match=r"log.csv, lines 2 to 5: reading nan at \[0, 3\] is outside -10 to 10"
    ):
        read_shard(sensor(path), WALK)
    with pytest.raises(ConfigurationError, match=r"lines 2 to 5: reading 3 at .* outside -1 to 2.5: set sensor.low"):
        read_shard(sensor(log(tmp_path, *rows("walk", 4)), low=-1.0, high=2.5), WALK)
    with pytest.raises(ConfigurationError, match=r"log.csv, line 3: could not convert string to float: 'high'"):
        read_shard(sensor(log(tmp_path, *rows("walk", 1), "1,high,walk,0,0")), WALK)
    with pytest.raises(ConfigurationError, match=r"log.csv, line 3: "):
        read_shard(sensor(log(tmp_path, *rows("walk", 1), "1,2")), WALK)
    with pytest.raises(ConfigurationError, match="has no column 'gx'; its columns: time, x, what, y, z"):
        read_shard(sensor(path, channels=("gx", "y", "z")), WALK)
    with pytest.raises(ConfigurationError, match=r"2 channels \(x, y\).*\[3, 4\]: expected a series \[2, readings\]"):
        read_shard(sensor(path, channels=("x", "y")), WALK)
    with pytest.raises(ConfigurationError, match=r"none.csv: cannot be read"):
        read_shard(sensor(tmp_path / "none.csv"), WALK)
    with pytest.raises(ConfigurationError, match=r"label 'swim' is none of sensor.labels: walk, sit"):
        read_shard(sensor(log(tmp_path, *rows("swim", 4))), WALK)
    with pytest.raises(ConfigurationError, match="holds no sample of a known label"):
        read_shard(sensor(log(tmp_path, *rows("walk", 3))), WALK)


ENTRY = """
import numpy as np

def samples():
    for label in (0, 2):
        yield np.full((2, 3), label / 4), label

def wrong():
    yield np.zeros((2, 3)), 0
    yield np.zeros((2, 3))

def fails():
    yield np.zeros((2, 3)), 0
    raise OSError("the sensor is unplugged")

def loud():
    yield np.full((2, 3), 1.5), 0

def far():
    yield np.zeros((2, 3)), 3

def words():
    yield [["a", "b", "c"], ["d", "e", "f"]], 0

def many():
    for _ in range(20):
        yield np.zeros((2, 3)), 0
"""


@pytest.fixture
def entry(tmp_path):
    (tmp_path / "mine.py").write_text(ENTRY)
    return lambda factory: f"{tmp_path / 'mine.py'}:{factory}"


def test_a_python_entry_point(entry):
    shard = read_shard(entry("samples"), IMAGES)
    assert shard.y.tolist() == [0, 2]
    assert shard.x[:, 1, 2].tolist() == [0.0, 0.5]


@pytest.mark.parametrize(("factory", "words"), [
    ("wrong", r"mine.py:wrong, sample 1: is no pair"),
    ("fails", r"mine.py:fails: fails after 1 samples: OSError: the sensor is unplugged"),
    ("loud", r"mine.py:loud, sample 0: reading 1.5 at \[0, 0\] is outside 0 to 1: scale it to \[0, 1\]"),
    ("far", r"sample 0: label 3 is class 3, the task has 0 to 2"),
    ("words", r"sample 0: is no array of numbers"),
    ("none", r"the file has no callable 'none'"),
    ("np", r"the file has no callable 'np'"),
])  # fmt: skip
def test_what_is_wrong_with_an_entry_point_is_said(entry, factory, words):
    with pytest.raises(ConfigurationError, match=words):
        read_shard(entry(factory), IMAGES)


def test_files_and_names_of_entry_points(tmp_path, entry):
    with pytest.raises(ConfigurationError, match=r"none.py is no Python file"):
        read_shard(f"{tmp_path / 'none.py'}:f", IMAGES)
    (tmp_path / "mine.py").write_text("import nothing_of_this_name")
    with pytest.raises(ConfigurationError, match="cannot be imported: ModuleNotFoundError"):
        read_shard(entry("samples"), IMAGES)
    for spec in ("mine.py", ":f", "mine.py:", "mine.py:1f"):
        with pytest.raises(ConfigurationError, match=r"expected 'FILE.py:FACTORY'"):
            read_shard(spec, IMAGES)


def test_more_than_a_device_can_hold(entry, monkeypatch):
    monkeypatch.setattr(sensors, "MOST_BYTES", 100)
    with pytest.raises(ConfigurationError, match=r"sample 4: the samples up to here take 120 bytes.*at most 100"):
        read_shard(entry("many"), IMAGES)


def test_a_sample_of_another_shape_or_label_names_its_file(tmp_path):
    npy(tmp_path / "0_a.npy", np.zeros((3, 2)))
    with pytest.raises(ConfigurationError, match=r"0_a.npy: a sample of shape \[3, 2\], .*\[2, 3\]"):
        read_shard(SensorSettings(path=tmp_path), IMAGES)
    npy(tmp_path / "0_a.npy", np.zeros((2, 3)))
    npy(tmp_path / "x_a.npy", np.zeros((2, 3)))
    with pytest.raises(ConfigurationError, match=r"x_a.npy: label 'x' is no number: name the classes"):
        read_shard(SensorSettings(path=tmp_path), IMAGES)
    (tmp_path / "x_a.npy").write_bytes(b"")
    with pytest.raises(ConfigurationError, match=r"x_a.npy: cannot be read"):
        read_shard(SensorSettings(path=tmp_path), IMAGES)
    with pytest.raises(ConfigurationError, match="none: is no folder"):
        read_shard(SensorSettings(path=tmp_path / "none"), IMAGES)


@pytest.mark.parametrize(("table", "words"), [
    ({"path": "x", "low": 1.0, "high": 1.0}, "low must be less"),
    ({"path": "x", "kind": "python"}, "kind 'python' names a factory"),
    ({"path": "x", "factory": "f"}, "kind 'python' names a factory"),
    ({"path": "x", "kind": "csv"}, "kind 'csv' names columns"),
    ({"path": "x", "kind": "cvs"}, "cvs"),
    ({"paht": "x"}, "path"),
])  # fmt: skip
def test_settings_that_cannot_be_are_refused(table, words):
    given = {"run": "r", "node": "n", "directory": "d", "sensor": table}
    with pytest.raises(ConfigurationError, match=words):
        decode_tables(given, ClientSettings, origin="device.toml")


def device(**changes) -> ClientSettings:
    return ClientSettings(**{"run": "r", "node": "n", "directory": Path(), "engine": "torch", **changes})


def test_a_device_takes_what_its_task_asks_for(entry):
    task = TaskSpec(dataset="own", own_data=IMAGES, encoding=EncodingSpec(steps=3), model=ModelSpec(hidden=(4,)))
    assert "torch" in ENGINES
    shard, _engine = prepare(device(sensor=entry("samples")), task, {})
    assert len(shard.x) == 2
    with pytest.raises(ConfigurationError, match=r"name no sensor: add a table \[sensor\]"):
        prepare(device(), task, {})
    with pytest.raises(ConfigurationError, match="sensor is set, but the run's task is learnt from data set 'digits'"):
        prepare(device(sensor=entry("samples")), TaskSpec(dataset="digits"), {})
    with pytest.raises(ValueError, match="shards = 2 with sensor"):
        device(sensor="a.py:f", shards=2)
