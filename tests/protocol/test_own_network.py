"""A study with a network of the user's own, whole; and one line with status 2 for files that cannot be used."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from contract.errors import ConfigurationError
from contract.models.own import user_network
from contract.task import EncodingSpec, TaskSpec
from deploy.study import load_study
from server.app import run_server
from server.graphs.tracing_check import TOLERANCE
from server.ledger import Ledger
from server.settings import ServerSettings
from tests.conftest import ROOT, spikeleak

STUDY = """
name = "own"
clients = 2
model = "{model}"

[task]
dataset = "digits"

[task.encoding]
kind = "direct"
steps = 2

[devices]
seed = 1

[attack]
attacks = ["label", "ratio"]
noise_controls = 0

[[schedule]]
kind = "train"
rounds = 2
local_steps = 5
batch_size = 16

[[schedule]]
kind = "audit"
algorithm = "fedsgd"
batch_size = 1
"""


@pytest.fixture
def study(tmp_path: Path):
    shutil.copy(ROOT / "tests" / "own_networks.py", tmp_path / "net.py")

    def write(model="net.py:StepLoop", more="") -> Path:
        path = tmp_path / "study.toml"
        path.write_text(STUDY.format(model=model) + more)
        return path

    return write


def test_a_study_trains_attacks_and_reports_a_users_network(study, tmp_path):
    out = tmp_path / "out"
    done = spikeleak("run", str(study()), "--out", str(out), timeout_s=280)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["rounds"], summary["updates"]["admitted"], summary["updates"]["lost"]) == (3, 6, 0)
    assert summary["leakage"]["by_schedule"]["audit"]["worst_psnr_db"] > 120
    assert summary["int8_inference"]["reason"] == "not made for a network of the user's own"
    with Ledger.open_read(out / "ledger.sqlite") as ledger:
        rows = ledger.rows("SELECT r.verdict FROM reconstructions r WHERE r.attack = 'ratio' AND r.round = 3")
        assert [row["verdict"] for row in rows] == ["exact", "exact"]
        accuracies = [row["accuracy"] for row in ledger.rows("SELECT accuracy FROM evaluations ORDER BY version")]
        trained = ledger.rows("SELECT * FROM energy WHERE phase = 'train' AND source = 'model'")
        assert ledger.value("SELECT COUNT(*) FROM operations") == 0
        assert 0 < ledger.value("SELECT MAX(error) FROM graphs") < TOLERANCE
    assert len(accuracies) == 3
    assert len(set(accuracies)) > 1
    assert len(trained) == 6
    assert all(row["energy_j"] is None and "not known to the device" in row["reason"] for row in trained)
    report = (out / "report.html").read_text()
    assert "a network of the user" in report
    logs = "".join(path.read_text() for path in (out / "logs").glob("device-*.log"))
    assert "engine onnx" in logs
    again = spikeleak("run", str(tmp_path / "study.toml"), "--out", str(out))
    assert again.returncode == 0, again.stderr
    (tmp_path / "net.py").write_text((tmp_path / "net.py").read_text() + "# changed\n")
    changed = spikeleak("run", str(tmp_path / "study.toml"), "--out", str(out))
    assert changed.returncode == 2
    assert "config.toml differs in: task" in changed.stderr


@pytest.mark.parametrize(
    ("model", "more", "said"),
    [
        ("nowhere.py:make", "", "there is no file"),
        ("net.py:Steploop", "", "did you mean 'StepLoop'"),
        ("StepLoop", "", "FILE.py:FACTORY is expected"),
        ("net.py:StepLoop", "[task.model]\nhidden = [3]\n", "describes another network"),
        ("net.py:StepLoop", "[twin]\n", "no known twin"),
        ("net.py:StepLoop", "[server]\nexport = false\n", "server.export = false"),
    ],
)
def test_what_a_study_cannot_have(study, model, more, said):
    with pytest.raises(ConfigurationError) as caught:
        load_study(study(model, more))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_engine_torch_is_refused(study):
    path = study()
    path.write_text(path.read_text().replace("seed = 1", 'engine = "torch"'))
    with pytest.raises(ConfigurationError, match=r"set devices\.engine = 'onnx'"):
        load_study(path)


def test_a_wrong_shape_ends_with_status_2_and_one_line(study, tmp_path):
    path = study("net.py:Wrong")
    with (tmp_path / "net.py").open("a") as file:
        file.write("\n\nclass Wrong(Plain):\n    def forward(self, frames):\n        return frames.flatten(2)\n")
    done = spikeleak("run", str(path), "--out", str(tmp_path / "out"))
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "logits [3, 10] are expected" in done.stderr


def test_a_server_names_the_operator_that_cannot_be_exported(tmp_path):
    path = tmp_path / "server.toml"
    path.write_text(
        f'run = "own"\ndirectory = "{tmp_path / "run"}"\nmodel = "{ROOT / "tests" / "own_networks.py"}:Inexpressible"\n'
        '[task]\ndataset = "digits"\n[task.encoding]\nsteps = 2\n[[schedule]]\n'
    )
    done = spikeleak("server", str(path))
    assert done.returncode == 2
    assert [line for line in done.stderr.splitlines() if "error" in line] == done.stderr.strip().splitlines()[-1:]
    assert "has no form in ONNX" in done.stderr


def test_a_server_needs_the_file_and_the_graphs(tmp_path):
    task = TaskSpec(dataset="digits", encoding=EncodingSpec(steps=2))
    model = f"{ROOT / 'tests' / 'own_networks.py'}:Plain"
    with pytest.raises(ConfigurationError, match="with export = false"):
        run_server(ServerSettings(run="own", directory=tmp_path, task=task, model=model, export=False))
    _, stated = user_network(model, task, (1, 8, 8), 10, named="model")
    with pytest.raises(ConfigurationError, match="without model"):
        run_server(ServerSettings(run="own", directory=tmp_path, task=stated))
