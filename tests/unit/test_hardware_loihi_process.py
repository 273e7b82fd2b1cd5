"""The second process and its files, without lava; and that nothing of lava is anywhere else."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from hardware.loihi import cuba
from hardware.loihi.environment import Lava, find_python
from hardware.loihi.errors import ChipError, NoLavaError
from hardware.loihi.request import Answer, read_answer, read_request, write_answer, write_request
from tests.conftest import ROOT
from tests.loihi_networks import networks, spikes

LAVA_ONLY = {"hardware/loihi/chip.py", "hardware/loihi/hdf5.py"}
ROOMS = ("contract", "hardware", "edge_client", "server", "attack", "deploy", "tests")


@pytest.mark.parametrize("name", networks())
def test_a_request_through_a_second_process(name):
    network = networks()[name]
    x = spikes(network)
    run = Lava(Path(sys.executable), reference=True).run(network, x)
    assert run.answer.where == "reference"
    assert run.answer.recorded == tuple(range(len(network.layers)))
    for found, expected in zip(run.trains, cuba.simulate(network, x).trains, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_requests_and_answers_read_back(tmp_path):
    network = networks()["conv"]
    x = spikes(network)
    write_request(tmp_path, network, x)
    _, back = read_request(tmp_path)
    np.testing.assert_array_equal(back, x)
    answer = Answer(
        where="hardware", recorded=(2,), duration_s=1.5, versions={"numpy": "2"}, energy_j=1.0, energy_s=2.0
    )
    with pytest.raises(ChipError, match="no answer"):
        read_answer(tmp_path)
    write_answer(tmp_path, answer, (x,))
    found, (train,) = read_answer(tmp_path)
    assert found == answer
    np.testing.assert_array_equal(train, x)


def test_without_an_environment_it_says_how_one_is_made(tmp_path, monkeypatch):
    monkeypatch.setenv("SPIKELEAK_LOIHI", str(tmp_path))
    with pytest.raises(NoLavaError, match=r"SPIKELEAK_LOIHI = .* has no bin/python: .*make loihi"):
        Lava.find()


def test_the_environment_that_is_named_is_taken(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    monkeypatch.setenv("SPIKELEAK_LOIHI", str(tmp_path))
    assert find_python() == tmp_path / "bin" / "python"


def test_an_environment_without_lava_is_told():
    with pytest.raises(NoLavaError, match=r"ended with status 1: .*No module named 'lava.*make loihi"):
        Lava(Path(sys.executable)).where()


def test_an_interpreter_that_is_none_is_told(tmp_path):
    with pytest.raises(NoLavaError, match="cannot be started"):
        Lava(tmp_path / "python").where()


def test_a_process_that_hangs_is_ended_with_all_that_it_started(tmp_path):
    """Lava's workers outlive it after some errors: none may be left, and none may be waited for."""
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\nsleep 60 & echo $! > {tmp_path}/worker\nsleep 60\n")
    python.chmod(0o755)
    network = networks()["fc"]
    began_s = time.monotonic()
    with pytest.raises(NoLavaError, match=r"longer than 0\.5 s"):
        Lava(python).run(network, spikes(network), limit_s=0.5)
    assert time.monotonic() - began_s < 10
    worker = Path("/proc") / (tmp_path / "worker").read_text().strip() / "stat"
    deadline_s = time.monotonic() + 5
    while worker.exists() and ") Z " not in worker.read_text() and time.monotonic() < deadline_s:
        time.sleep(0.02)
    assert not worker.exists() or ") Z " in worker.read_text()


def test_the_process_refuses_a_damaged_request(tmp_path):
    write_request(tmp_path, networks()["fc"], spikes(networks()["fc"]))
    (tmp_path / "input.npz").write_bytes(b"PK")
    command = [sys.executable, "-m", "hardware.loihi.run", "--reference", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 2
    assert "input.npz" in done.stderr
    assert not (tmp_path / "answer.json").exists()


def _imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module or "")
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            names |= {a.value for a in node.args if isinstance(a, ast.Constant)}
    return {name.partition(".")[0] for name in names}


def test_only_lavas_own_modules_import_it():
    found = {
        str(path.relative_to(ROOT))
        for room in ROOMS
        for path in (ROOT / room).rglob("*.py")
        if re.search("lava|h5py", path.read_text(encoding="utf-8")) and _imported(path) & {"lava", "h5py"}
    }
    # `run` asks for lava.utils.loihi by name, after it has looked whether lava is there; a data set lies in HDF5 files.
    assert found - {"contract/datasets/sets/shd.py"} == LAVA_ONLY | {"hardware/loihi/run.py"}


def test_nothing_of_lava_is_imported_by_the_host():
    """Every module but those two, the engine and the comparison, in a fresh interpreter."""
    modules = [
        f"hardware.loihi.{path.stem}"
        for path in (ROOT / "hardware" / "loihi").glob("*.py")
        if str(path.relative_to(ROOT)) not in LAVA_ONLY and path.stem != "__init__"
    ]
    assert len(modules) >= 8
    modules += ["edge_client.app", "edge_client.engines.loihi", "deploy.study", "server.app"]
    program = (
        f"import importlib, sys\nfor name in {modules!r}: importlib.import_module(name)\n"
        "print(sorted(m for m in sys.modules if m.split('.')[0] in {'lava', 'h5py'}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_the_rest_of_the_folder_needs_numpy_and_msgspec_alone():
    allowed = {"numpy", "msgspec", "hardware"} | set(sys.stdlib_module_names)
    for path in (ROOT / "hardware" / "loihi").glob("*.py"):
        if str(path.relative_to(ROOT)) not in LAVA_ONLY | {"hardware/loihi/run.py"}:
            assert _imported(path) <= allowed, path
