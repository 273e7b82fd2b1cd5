"""The README is true: its commands exist, its study runs, its paths are there."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT, spikeleak

README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_two_commands_are_targets_that_install_what_they_need() -> None:
    commands = [line.split("#")[0].split() for block in blocks("sh") for line in block.splitlines() if line.strip()]
    assert [c[:2] for c in commands] == [["make", "demo"], ["make", "test"]]
    for command, last in zip(commands, ["spikeleak demo", "-m pytest"], strict=True):
        plan = subprocess.run(
            [*command, "--dry-run", "--always-make", "TORCH=torch==9.9.9", "PIP_ARGS=--no-index"],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
        ).stdout
        torch, rest = plan.index('--no-index "torch==9.9.9"'), plan.index("--no-index -e")
        assert torch < rest < plan.index(last)


def test_the_study_of_the_readme_runs(tmp_path: Path) -> None:
    (text,) = blocks("toml")
    study = tmp_path / "study.toml"
    study.write_text(text)
    done = spikeleak("run", str(study), "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["leakage"]["by_schedule"]["audit"]["worst_psnr_db"] > 60


COMMANDS = sorted({name for row in re.findall(r"`spikeleak ([^`]+)`", README) for name in re.findall(r"[a-z]+", row)})


@pytest.mark.parametrize(
    "command", ["audit", "demo", "run", "server", "client", "attack", "report", "meter", "data", "enroll", "deploy"]
)
def test_each_command_is_in_the_readme_and_has_help_with_an_example(command: str) -> None:
    assert command in COMMANDS
    done = spikeleak(command, "--help")
    assert done.returncode == 0
    assert "Example" in done.stdout


def test_links_point_to_files() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
