"""All wheels that a board installs, for its processor and its Python: made here, once, since the board has no network.

`DIR/<machine>-<python>/*.whl` holds this project's own wheel, what it requires and pip itself, so that a board needs
no more than its system's Python (Debian's has no pip without a further package). Only wheels are taken: nothing is
compiled on a board.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Literal

import msgspec

from contract.errors import ConfigurationError, EnvironmentFaultError

Machine = Literal["aarch64", "x86_64"]
Python = Literal["3.11", "3.13"]

MACHINES: tuple[Machine, ...] = ("aarch64", "x86_64")
PYTHONS: tuple[Python, ...] = ("3.11", "3.13")
"""Of Raspberry Pi OS and Debian 12 (bookworm), and of 13 (trixie)."""
GLIBC = ("2_28", "2_27", "2_17")
"""Versions of manylinux; Debian 12 has glibc 2.36."""
PROJECT = Path(__file__).resolve().parents[2]

_ROOMS = ("contract", "hardware", "edge_client", "server", "attack", "deploy")
_EPOCH = "315619200"
"""Time of the files in our own wheel, so that the same source gives the same wheel: 1980-01-02."""


class Wheelhouse(msgspec.Struct, frozen=True, kw_only=True):
    """Wheels in a folder.

    Attributes:
        folder: Holds them and nothing else.
        machine: Processor that they are for, as `uname -m` names it.
        python: Python that they are for.
        sha256: Checksum of each by file name.
    """

    folder: Path
    machine: Machine
    python: Python
    sha256: dict[str, str]

    @property
    def name(self) -> str:
        """Eight hex digits that stand for this content."""
        text = "".join(f"{digest}  {name}\n" for name, digest in sorted(self.sha256.items()))
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    @property
    def version(self) -> str:
        """Of this project's own wheel."""
        return next(name.split("-")[1] for name in self.sha256 if name.startswith("spikeleak-"))

    @property
    def nbytes(self) -> int:
        """Of all wheels."""
        return sum((self.folder / name).stat().st_size for name in self.sha256)

    def requirements(self) -> str:
        """What pip installs of it, each by version and checksum."""
        lines = []
        for name, digest in sorted(self.sha256.items()):
            package, version = name.split("-")[:2]
            if package != "pip":
                lines.append(f"{package}=={version} --hash=sha256:{digest}\n")
        return "".join(lines)


def build(
    place: Path,
    machine: Machine,
    python: Python,
    *,
    own: Path | None = None,
    pip_args: str = "",
    refresh: bool = False,
) -> Wheelhouse:
    """Makes a wheelhouse, or brings this project's own wheel in one up to date.

    The other wheels stay as they are while this project requires the same: what is pushed twice is the same twice.

    Args:
        place: Folder of wheelhouses.
        machine: Processor of the boards.
        python: Python of the boards.
        own: This project's wheel; `None` builds it from the source tree that runs.
        pip_args: More options of pip, as in a shell; pip's own configuration holds as well.
        refresh: Takes the newest of the other wheels.

    Raises:
        ConfigurationError: There is no source tree to build from, or `own` is no wheel of this project.
        EnvironmentFaultError: pip could not build or download.
    """
    folder, note = place / f"{machine}-{python}", place / f"{machine}-{python}.requires"
    words = shlex.split(pip_args)
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".making-", dir=place) as name:
        temporary = Path(name)
        wheel = _built(temporary, words) if own is None else _given(own)
        asked, made = _requires(wheel), temporary / "wheels"
        if not refresh and folder.exists() and note.exists() and note.read_text(encoding="utf-8") == asked:
            made.mkdir()
            for kept in folder.glob("*.whl"):
                if not kept.name.startswith("spikeleak-"):
                    shutil.copyfile(kept, made / kept.name)
            shutil.copyfile(wheel, made / wheel.name)
        else:
            _pip("download", *words, *_target(machine, python), "--dest", str(made), str(wheel), "pip")
        if folder.exists():
            folder.rename(temporary / "earlier")
        made.rename(folder)
        note.write_text(asked, encoding="utf-8")
    return opened(place, machine, python)


def _requires(wheel: Path) -> str:
    """What a wheel requires, as its metadata say."""
    with zipfile.ZipFile(wheel) as packed:
        (name,) = (name for name in packed.namelist() if name.endswith(".dist-info/METADATA"))
        lines = packed.read(name).decode().splitlines()
    return "".join(f"{line}\n" for line in lines if line.startswith("Requires-") and "extra ==" not in line)


def opened(place: Path, machine: Machine, python: Python) -> Wheelhouse:
    """The wheelhouse that is there.

    Raises:
        ConfigurationError: None is.
    """
    folder = place / f"{machine}-{python}"
    names = sorted(path.name for path in folder.glob("*.whl"))
    if not any(name.startswith("spikeleak-") for name in names):
        raise ConfigurationError(
            f"{folder}: no wheelhouse for {machine}, Python {python}; --wheelhouse {machine} makes one"
        )
    return Wheelhouse(
        folder=folder, machine=machine, python=python, sha256={name: _digest(folder / name) for name in names}
    )


def _target(machine: Machine, python: Python) -> list[str]:
    digits = python.replace(".", "")
    platforms = [f"manylinux_{version}_{machine}" for version in GLIBC] + [f"manylinux2014_{machine}"]
    words = ["--only-binary=:all:", "--python-version", python, "--implementation", "cp"]
    words += [word for platform in platforms for word in ("--platform", platform)]
    return words + [word for abi in (f"cp{digits}", "abi3", "none") for word in ("--abi", abi)]


def _built(temporary: Path, words: list[str]) -> Path:
    """This project's wheel, of a copy of the sources: a build leaves folders behind that the next one would pack."""
    if not (PROJECT / "pyproject.toml").is_file():
        raise ConfigurationError(
            f"{PROJECT}: holds no pyproject.toml, so this spikeleak was not installed from its source tree and its "
            "wheel cannot be built; name one with --wheel spikeleak-….whl"
        )
    source = temporary / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(PROJECT / name, source)
    for room in _ROOMS:
        shutil.copytree(PROJECT / room, source / room, ignore=shutil.ignore_patterns("__pycache__"))
    if _setuptools() >= 77:  # what pyproject.toml asks for: nothing is fetched for the build then
        words = [*words, "--no-build-isolation"]
    _pip("wheel", *words, "--no-deps", "--wheel-dir", str(temporary / "own"), str(source), SOURCE_DATE_EPOCH=_EPOCH)
    (wheel,) = (temporary / "own").glob("*.whl")
    return wheel


def _setuptools() -> int:
    try:
        return int(importlib.metadata.version("setuptools").split(".")[0])
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return 0


def _given(wheel: Path) -> Path:
    named = wheel.name.startswith("spikeleak-") and wheel.suffix == ".whl"
    if not (named and zipfile.is_zipfile(wheel)):
        raise ConfigurationError(f"--wheel {wheel}: not a wheel of this project (spikeleak-….whl)")
    return wheel.absolute()


def _pip(command: str, *words: str, **environment: str) -> None:
    line = [sys.executable, "-m", "pip", command, "--quiet", "--disable-pip-version-check", *words]
    done = subprocess.run(line, check=False, capture_output=True, text=True, env={**os.environ, **environment})
    if done.returncode:
        said = [text for text in done.stderr.splitlines() if text.startswith("ERROR")] or done.stderr.splitlines()
        raise EnvironmentFaultError(
            f"pip {command}: {' '.join(said[:1]) or f'exit status {done.returncode}'}; is an index reached? "
            "Another one: PIP_ARGS='--index-url URL' or --find-links FOLDER, or pip's own configuration"
        )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
