"""Wheels of a few bytes, so that pip itself can be asked for them: this project's, one it requires, and pip."""

from __future__ import annotations

import zipfile
from pathlib import Path

import msgspec


class Index(msgspec.Struct, frozen=True, kw_only=True):
    """A folder for `--find-links`, and this project's wheel in it."""

    folder: Path
    own: Path


def wheel(folder: Path, name: str, version: str, tag: str = "py3-none-any", *requires: str) -> Path:
    """An empty package."""
    path = folder / f"{name}-{version}-{tag}.whl"
    place = f"{name}-{version}.dist-info"
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {name}",
        f"Version: {version}",
        *(f"Requires-Dist: {it}" for it in requires),
    ]
    tags = [f"Tag: {tag}"]
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr(zipfile.ZipInfo(f"{place}/METADATA"), "\n".join([*lines, ""]))
        text = "\n".join(["Wheel-Version: 1.0", "Generator: test", "Root-Is-Purelib: true", *tags, ""])
        packed.writestr(zipfile.ZipInfo(f"{place}/WHEEL"), text)
        packed.writestr(zipfile.ZipInfo(f"{place}/RECORD"), "")
    return path


def small_index(folder: Path, *, version: str = "0.1.0", machines: tuple[str, ...] = ("aarch64", "x86_64")) -> Index:
    """All that a board would install, for these machines."""
    folder.mkdir()
    for machine in machines:
        wheel(folder, "sums", "2.0", f"cp311-cp311-manylinux_2_28_{machine}")
    wheel(folder, "pip", "99.0")
    own = wheel(folder, "spikeleak", version, "py3-none-any", "sums>=1", "torch; extra == 'server'")
    return Index(folder=folder, own=own)
