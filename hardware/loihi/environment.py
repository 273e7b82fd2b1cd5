"""Lava in an environment of its own, from the host's side: found, asked, answered. Nothing of lava is imported here."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import IO

import msgspec

from hardware.loihi.cuba import Spikes, check_input
from hardware.loihi.description import ChipNetwork
from hardware.loihi.errors import ChipError, NoLavaError
from hardware.loihi.request import Answer, Where, read_answer, write_request

VARIABLE = "SPIKELEAK_LOIHI"
"""Names the environment's folder where it is not the project's `.venv-loihi`."""
FOLDER = ".venv-loihi"
LONGEST_S = 3600.0
"""After this a run is taken for hung."""
PROBE_S = 120.0
_REMEDY = "make it by `make loihi` in the project's folder"
_UNUSABLE = 2
_ERROR = re.compile(r"[\w.]*(Error|Exception)\b")
_ERRORS_SHOWN = 3


class ChipRun(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What a network did.

    Attributes:
        answer: Where it ran, for how long, by what.
        trains: Per recorded layer `[N, T, *outputs]`; the last one is the network's output.
    """

    answer: Answer
    trains: tuple[Spikes, ...]


class Lava:
    """Lava's process, started anew for each run.

    Args:
        python: The interpreter of lava's environment.
        reference: Computes by `hardware.loihi.cuba` in that process, without lava.
    """

    def __init__(self, python: Path, *, reference: bool = False) -> None:
        self._command = (str(python), "-m", "hardware.loihi.run")
        self._options = ("--reference",) if reference else ()

    @classmethod
    def find(cls) -> Lava:
        """The environment that `make loihi` made.

        Raises:
            NoLavaError: There is none.
        """
        return cls(find_python())

    def where(self) -> Where:
        """Where a network would run.

        Raises:
            NoLavaError: The environment cannot import what it needs.
        """
        if self._options:
            return "reference"
        said = self._call("--where", limit_s=PROBE_S).strip().rpartition("\n")[2]
        if said == "hardware":
            return "hardware"
        if said == "simulator":
            return "simulator"
        raise NoLavaError(f"{self._command[0]} says {said!r} in place of 'hardware' or 'simulator': {_REMEDY} again")

    def run(self, network: ChipNetwork, spikes: Spikes, *, limit_s: float = LONGEST_S) -> ChipRun:
        """Runs samples through a network.

        Args:
            network: The network.
            spikes: `[N, T, *inputs]`.
            limit_s: How long it may take.

        Raises:
            ChipError: Network or input cannot be run.
            NoLavaError: The process failed or took too long.
        """
        check_input(network, spikes)
        with tempfile.TemporaryDirectory(prefix="spikeleak-loihi-") as name:
            folder = Path(name)
            write_request(folder, network, spikes)
            self._call(name, *self._options, limit_s=limit_s)
            answer, trains = read_answer(folder)
        return ChipRun(answer=answer, trains=trains)

    def _call(self, *arguments: str, limit_s: float) -> str:
        command = [*self._command, *arguments]
        # Files, not pipes: what lava starts would hold a pipe open after the process itself is gone.
        with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as complaint:
            try:
                process = subprocess.Popen(  # noqa: S603 - the interpreter of the user's environment
                    command, stdin=subprocess.DEVNULL, stdout=said, stderr=complaint, start_new_session=True
                )
            except OSError as error:
                raise NoLavaError(f"{command[0]} cannot be started ({error}): {_REMEDY} again") from error
            try:
                status = process.wait(limit_s)
            except subprocess.TimeoutExpired as error:
                raise NoLavaError(f"lava's process took longer than {limit_s:g} s: run fewer samples") from error
            finally:
                _end(process)
            text, faults = (_text(file) for file in (said, complaint))
        if status == _UNUSABLE:
            raise ChipError(faults.strip())
        if status:
            raise NoLavaError(
                f"lava's process ended with status {status}: {_errors(faults)}; if a module is missing, {_REMEDY} again"
            )
        return text


def find_python() -> Path:
    """The interpreter of lava's environment.

    Raises:
        NoLavaError: There is none.
    """
    named = os.environ.get(VARIABLE)
    folders = [Path(named)] if named else [Path(__file__).parents[2] / FOLDER, Path.cwd() / FOLDER]
    for folder in folders:
        python = folder / "bin" / "python"
        if python.exists():
            return python
    origin = f"{VARIABLE} = {named!r} has" if named else f"{folders[0]} has"
    raise NoLavaError(f"{origin} no bin/python: lava needs an environment of its own; {_REMEDY}, or set {VARIABLE}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends the process and all that lava started; after an error of its own lava leaves some of them waiting."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def _errors(text: str) -> str:
    """The errors that a process complained of, the first ones first: lava's own last word says only that there were."""
    found = list(dict.fromkeys(line for line in text.splitlines() if _ERROR.match(line)))
    return "; ".join(found[-_ERRORS_SHOWN:]) or text.strip()[-300:] or "it said nothing"
