"""The worked examples of edge_client/sensors/README.md, run as they stand on real recordings and a real log."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from contract.datasets import data_dir, load, on_disk
from tests.conftest import ROOT

TEXT = (ROOT / "edge_client" / "sensors" / "README.md").read_text(encoding="utf-8")
EXAMPLES = dict(zip(("digits", "walk"), re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL), strict=True))
QUICK = '\n[attack]\nattacks = ["label"]\nnoise_controls = 0\n'


def run(folder: Path, name: str) -> subprocess.CompletedProcess[str]:
    (folder / "study.toml").write_text(EXAMPLES[name] + QUICK)
    program = [sys.executable, "-m", "deploy.cli", "run", "study.toml", "--out", "out"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        program, cwd=folder, capture_output=True, text=True, timeout=280, env=environment, check=False
    )


def recordings(folder: Path) -> None:
    with zipfile.ZipFile(data_dir() / "fsdd" / "fsdd_recordings.zip") as archive:
        for index, speaker in enumerate(("george", "theo")):
            (folder / "recordings" / str(index)).mkdir(parents=True)
            for digit in range(10):
                name = f"{digit}_{speaker}_3.wav"
                (folder / "recordings" / str(index) / name).write_bytes(archive.read(f"recordings/{name}"))


@pytest.mark.skipif(not on_disk("fsdd"), reason="SPIKELEAK_DATA holds no recordings of 'fsdd'")
def test_spoken_digits_from_folders_of_recordings(tmp_path):
    recordings(tmp_path)
    done = run(tmp_path, "digits")
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["rounds"], summary["clients"], summary["updates"]["admitted"]) == (2, 2, 4)
    assert summary["accuracy"] is None
    assert "devices alone" in summary["accuracy_reason"]
    assert "the data exists on devices alone" in (tmp_path / "out" / "report.html").read_text()
    assert "10 samples" in (tmp_path / "out" / "logs" / "device-001.log").read_text()


@pytest.mark.skipif(not on_disk("uci_har_test"), reason="SPIKELEAK_DATA holds no files of 'uci_har_test'")
def test_walking_from_an_accelerometer_s_log(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "uci-har").symlink_to(data_dir() / "uci-har")
    monkeypatch.setenv("SPIKELEAK_DATA", str(tmp_path / "data"))  # the decoded set is kept here and not there
    data = load("uci_har_test")
    acceleration = data.x[:, 6:]  # total acceleration, in the example's own range
    names = {4: "standing", 0: "walking", 5: "lying"}
    labels = list(names)
    for index in range(2):
        with (tmp_path / f"log-{index}.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["activity", "x", "y", "z"])
            for label, name in names.items():
                for window in acceleration[(data.users == index) & (data.y == label)][:12]:
                    table.writerows([name, *row] for row in (5 * window - 2.5).T)
    known = np.flatnonzero(np.isin(data.y, labels) & (data.users > 1))[::7]
    np.savez(tmp_path / "held_out.npz", x=acceleration[known], y=[labels.index(y) for y in data.y[known]])
    done = run(tmp_path, "walk")
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["evaluated_on"] == len(known)
    assert summary["accuracy"] > 0.5  # a third by chance; people whom no device knows
    assert "36 samples" in (tmp_path / "out" / "logs" / "device-000.log").read_text()
