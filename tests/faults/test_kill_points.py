"""Kill points are real: each is passed in a run without faults, and a process that is told to dies there."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from deploy.study import to_toml
from tests.conftest import ROOT
from tests.faults.chaos.parties import Federation
from tests.faults.chaos.points import CLIENT, POINTS, Barrier, Point, install


@pytest.mark.parametrize("kind", POINTS)
def test_a_run_without_faults_passes_every_point(calm_run: Federation, kind: str) -> None:
    passed = set((calm_run.folder / f"passed-{kind}").read_text().split())
    assert passed == set(POINTS[kind]), f"never passed: {sorted(set(POINTS[kind]) - passed)}"


def party(calm_run: Federation, *options: str) -> subprocess.CompletedProcess[str]:
    """The launcher as a process of its own, with an empty folder."""
    lone = calm_run.folder / "lone.toml"
    settings = replace(calm_run.devices["device-0"], directory=calm_run.folder / "lone")
    lone.write_text(to_toml(settings), encoding="utf-8")
    command = [sys.executable, "-m", "tests.faults.chaos.party", "client", str(lone), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT, check=False)


def test_a_party_dies_at_the_passage_that_was_named(calm_run: Federation) -> None:
    ended = party(calm_run, "--kill-at", "resumed:1")
    assert ended.returncode == -signal.SIGKILL, ended.stderr


@pytest.mark.parametrize("text", ["nowhere:1", "resumed:0", "resumed", "resumed:x"])
def test_a_point_that_is_not_there_is_said(calm_run: Federation, text: str) -> None:
    ended = party(calm_run, "--kill-at", text)
    assert ended.returncode == 2
    assert f"--kill-at {text}" in ended.stderr


def test_a_function_that_is_gone_is_an_error() -> None:
    gone = {"gone": Point(call="edge_client.spool:Spool.no_longer_there", moment="before")}
    with pytest.raises(AttributeError, match="no_longer_there"):
        install(gone, Barrier())


def test_passages_are_counted_and_noted_once(tmp_path: Path) -> None:
    passed = tmp_path / "passed"
    barrier = Barrier(("train-before", 10**9), passed)
    for name in ("train-before", "train-before", "train-after"):
        assert name in CLIENT
        barrier.passage(name, 0.0)
    assert passed.read_text().split() == ["train-before", "train-after"]
