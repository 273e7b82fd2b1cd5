"""Every command has a help that ends in an example, and the example is one of that command."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from deploy.cli import app
from tests.conftest import ROOT


def walk(command: Any, *path: str) -> Iterator[tuple[str, Any]]:
    """Every command and group, by what is typed."""
    yield " ".join(path), command
    for name, below in getattr(command, "commands", {}).items():
        yield from walk(below, *path, name)


COMMANDS = dict(walk(get_command(app), "spikeleak"))
GROUPS = {name for name, command in COMMANDS.items() if getattr(command, "commands", {})}


def words_of(command: Any) -> set[str]:
    return {word for parameter in command.params for word in (*parameter.opts, *parameter.secondary_opts)}


def test_the_walk_finds_groups_and_commands_of_groups() -> None:
    some = {"spikeleak demo", "spikeleak data fetch", "spikeleak enroll revoke", "spikeleak deploy status"}
    assert some <= set(COMMANDS)
    assert {"spikeleak", "spikeleak data", "spikeleak enroll", "spikeleak deploy"} == GROUPS


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_each_command_has_help_with_an_example_of_it(name: str) -> None:
    done = CliRunner().invoke(app, [*name.split()[1:], "--help"], terminal_width=200)
    assert done.exit_code == 0, done.output
    found = re.findall(r"Example: (.*)", COMMANDS[name].help or "")
    assert found, f"{name} --help: no example"
    shown = " ".join(done.output.replace("│", " ").split())
    for line in found:
        assert " ".join(line.split()[:4]) in shown, done.output
        assert line.startswith(name), f"{name} --help: the example is of another command: {line}"
        path = max((path for path in COMMANDS if f"{line} ".startswith(f"{path} ")), key=len)
        given = [word for word in shlex.split(line) if word.startswith("-")]
        assert set(given) <= words_of(COMMANDS[path]), f"{name} --help: {line}: no such option"
        assert (path == name) is (name not in GROUPS), line


def test_a_device_s_command_has_help_with_an_example() -> None:
    line = [sys.executable, "-m", "edge_client", "--help"]
    done = subprocess.run(line, capture_output=True, text=True, check=True, cwd=ROOT)
    assert "Example: spikeleak-client " in done.stdout
