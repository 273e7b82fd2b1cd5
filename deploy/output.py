"""The output folder of a run: ours alone while it runs, and holding one study."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec

from contract.configuration import decode_toml
from contract.errors import ConfigurationError, EnvironmentFaultError
from deploy import broker
from deploy.study import Study, to_toml


@contextlib.contextmanager
def faults_of(out: Path) -> Iterator[None]:
    """Faults of disk and ledger as one message.

    Raises:
        EnvironmentFaultError: In place of an OSError or an error of SQLite.
    """
    try:
        yield
    except OSError as error:
        where = error.filename or out
        raise EnvironmentFaultError(
            f"{where}: {error.strerror or error}; once that is mended, run again with --out {out} to go on"
        ) from error
    except sqlite3.Error as error:
        raise EnvironmentFaultError(f"ledger in {out}: {error}") from error


@contextlib.contextmanager
def locked(out: Path, whose: str) -> Iterator[None]:
    """An output folder, made where there is none, and ours alone.

    Args:
        out: The folder.
        whose: What writes there: `run` or `sweep`.

    Raises:
        EnvironmentFaultError: It cannot be written, or another one writes there.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = (out / ".lock").open("w")
    except OSError as error:
        raise EnvironmentFaultError(f"--out {out}: cannot be written ({error.strerror}); choose another") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise EnvironmentFaultError(
                f"--out {out}: another {whose} is writing there; wait for it or choose another"
            ) from error
        yield


@contextlib.contextmanager
def folder(study: Study, out: Path) -> Iterator[str]:
    """The output folder, ours alone: writable, locked, and holding this study and no other. Gives the run's token."""
    with locked(out, "run"):
        _hold_study(study, out)
        token_path = out / "settings" / "token"
        token_path.parent.mkdir(exist_ok=True)
        if not token_path.exists():
            write_atomically(token_path, secrets.token_hex(4))
        yield token_path.read_text(encoding="ascii").strip()


def _hold_study(study: Study, out: Path) -> None:
    path = out / "config.toml"
    if not path.exists():
        if any(p.name != ".lock" for p in out.iterdir()):
            raise ConfigurationError(f"--out {out}: is not empty and holds no run to resume; choose another folder")
        write_atomically(path, to_toml(study))
        return
    held = decode_toml(path, Study)
    if _science(held) != _science(study):
        before, now = msgspec.to_builtins(_science(held)), msgspec.to_builtins(_science(study))
        differing = ", ".join(sorted(key for key in now if now[key] != before.get(key)))
        raise ConfigurationError(
            f"--out {out}: holds a run of another study (config.toml differs in: {differing}); "
            "choose another folder, or run the study that it holds"
        )


def _science(study: Study) -> Study:
    """What must agree for a run to be resumed: all but the broker and where the network's file lies."""
    return msgspec.structs.replace(study, broker=broker.BrokerSection(), model=None)


def write_atomically(path: Path, text: str) -> None:
    """Writes a file in one step, on disk when this returns."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
