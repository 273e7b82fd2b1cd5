"""Errors of the user's files: each names file, key, value and what is allowed."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from contract.configuration import decode_toml
from contract.errors import ConfigurationError
from contract.link_settings import LinkSettings
from contract.task import TaskSpec


class Wrapped(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    task: TaskSpec = TaskSpec()
    parts: tuple[TaskSpec, ...] = ()
    folder: Path = Path()
    maybe: TaskSpec | None = None


def fault(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        decode_toml(path, Wrapped)
    assert caught.value.exit_status == 2
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_a_file_becomes_a_record(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('folder = "a/b"\n[task]\ndataset = "digits"\n[task.encoding]\nsteps = 7\n')
    read = decode_toml(path, Wrapped)
    assert (read.folder, read.task.dataset, read.task.encoding.steps) == (Path("a/b"), "digits", 7)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("tusk = 1", ["unknown key 'tusk'", "did you mean 'task'"]),
        ("[task.encoding]\nstep = 3", ["unknown key 'task.encoding.step'", "did you mean 'steps'", "gain", "kind"]),
        ("[[parts]]\n[[parts]]\nsede = 3", ["unknown key 'parts[1].sede'", "did you mean 'seed'"]),
        ("[maybe]\nsede = 3", ["unknown key 'maybe.sede'", "did you mean 'seed'"]),
        ("[task.encoding]\nsteps = 0", ["'task.encoding.steps' = 0", ">= 1"]),
        ('[task.encoding]\nkind = "morse"', ["'task.encoding.kind' = 'morse'", "morse"]),
        ('[task]\nseed = "one"', ["'task.seed' = 'one'", "int", "str"]),
        ("task = [", ["not valid TOML"]),
    ],
)
def test_every_mistake_is_named(tmp_path: Path, text: str, parts: list[str]) -> None:
    message = fault(tmp_path, text)
    assert all(part in message for part in parts), message
    assert "\n" not in message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no such file"):
        decode_toml(tmp_path / "none.toml", Wrapped)


def test_passwords_are_not_printed(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    for text in (
        'host = "far.example"\npassword = "Hush"',
        'host = "127.0.0.1"\nport = "x"\npassword = "Hush"',
        'password = ["Hush"]',
    ):
        path.write_text(text)
        with pytest.raises(ConfigurationError) as caught:
            decode_toml(path, LinkSettings)
        assert str(path) in str(caught.value)
        assert "Hush" not in str(caught.value)
