"""A board's install, as small as it is: one clean environment, its size, and a whole run of its client in it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.datasets import load
from contract.task import EncodingSpec, ModelSpec, TaskSpec
from deploy import broker
from deploy.study import to_toml
from edge_client.settings import ClientSettings
from server.ledger import FILE_NAME, Ledger
from server.settings import ScheduleEntry, ServerSettings
from tests.benchmarks.board import (
    CLIENT,
    INSTALL_MB,
    PEAK_MB,
    base_requirements,
    board_environment,
    environment,
    installed_mb,
)
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

HEAVY = ("torch", "snntorch", "scipy", "pandas", "sympy", "onnx", "matplotlib")


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of an environment that holds the project's base requirements alone."""
    try:
        return environment(tmp_path_factory.mktemp("board") / "venv", *base_requirements())
    except RuntimeError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"pip cannot install the base requirements here: {error}")


def test_the_install_is_small_and_holds_nothing_heavy(board: Path) -> None:
    assert installed_mb(board) <= INSTALL_MB
    program = (
        "import importlib.util, edge_client.app, edge_client.engines.onnx;"
        f"print(*[m for m in {HEAVY!r} if importlib.util.find_spec(m)])"
    )
    done = subprocess.run(
        [str(board), "-c", program], capture_output=True, text=True, check=True, cwd=ROOT, env=board_environment()
    )
    assert done.stdout.split() == []


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ServerSettings, subprocess.Popen[str]]]:
    """A broker, and a server process of the environment that runs this test, which exports the graphs."""
    monkeypatch.setenv("SPIKELEAK_DATA", str(tmp_path / "data"))
    load("digits")  # a board gets its data as files: the library that brings this set is not there
    with broker.serve(broker.BrokerSection(), tmp_path) as running:
        settings = ServerSettings(
            run="board",
            directory=tmp_path / "server",
            link=running.link,
            task=TaskSpec(dataset="digits", encoding=EncodingSpec(kind="rate", steps=5), model=ModelSpec(hidden=(16,))),
            clients=1,
            drain_s=5.0,
            schedule=(ScheduleEntry(rounds=2, local_steps=3, batch_size=8, codec="int8", proximal=0.1),),
        )
        config = tmp_path / "server.toml"
        config.write_text(to_toml(settings), encoding="utf-8")
        command = [sys.executable, "-m", "deploy.cli", "server", str(config)]
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        yield settings, process
        process.kill()
        process.communicate()


def test_a_board_takes_part_in_a_whole_run(
    board: Path, server: tuple[ServerSettings, subprocess.Popen[str]], tmp_path: Path
) -> None:
    settings, process = server
    device = ClientSettings(
        run="board", node="pi-1", link=settings.link, directory=tmp_path / "device", shard=0, shards=1
    )
    config = tmp_path / "device.toml"
    config.write_text(to_toml(device), encoding="utf-8")
    done = subprocess.run(
        [str(board), "-c", CLIENT, str(config)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=ROOT,
        env=board_environment(),
    )
    assert done.returncode == 0, done.stderr
    peak_kib, _seconds, _waited, *heavy = done.stdout.split()
    assert heavy == []
    assert int(peak_kib) * 1024 / 1e6 <= PEAK_MB
    assert process.wait(60) == 0
    with Ledger.open_read(settings.directory / FILE_NAME) as ledger:
        assert ledger.value("SELECT COUNT(*) FROM updates WHERE status = 'admitted'") == 2
        assert ledger.value("SELECT COUNT(*) FROM aggregated") == 2
        graph = ledger.row("SELECT sha256, bytes, object FROM graphs WHERE name = 'training'")
        assert graph is not None
        accuracy = [row["accuracy"] for row in ledger.rows("SELECT accuracy FROM evaluations ORDER BY version")]
    assert len(accuracy) == 3
    kept = list((tmp_path / "device" / "graphs").iterdir())
    assert [path.name for path in kept] == [f"{graph['sha256']}.onnx"]
    assert kept[0].read_bytes() == graph["object"]
