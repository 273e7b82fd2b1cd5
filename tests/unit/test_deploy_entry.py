"""The command `spikeleak` where its libraries are not installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from contract.errors import EnvironmentFaultError
from deploy import supervisor
from tests.conftest import ROOT


@pytest.mark.parametrize("missing", ["typer", "rich", "msgspec"])
def test_a_library_that_is_not_there_is_one_clear_message(tmp_path: Path, missing: str) -> None:
    text = f"raise ModuleNotFoundError(\"No module named '{missing}'\", name={missing!r})"
    (tmp_path / f"{missing}.py").write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "deploy.entry", "--help"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONSAFEPATH": ""},
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {missing} is not installed: pip install")
    assert len(done.stderr.splitlines()) == 1


def test_a_full_disk_is_named_when_a_log_could_not_hold_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    party = supervisor.Party("server", ["no_such_module"], tmp_path / "server.log", max_restarts=0)
    party.start()
    full = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(supervisor.shutil, "disk_usage", lambda _folder: full)
    while party.pid is not None:
        time.sleep(0.02)
    with pytest.raises(EnvironmentFaultError, match="100 bytes left; make room and run again with the same --out"):
        party.watch()
