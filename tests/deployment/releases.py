"""Wheels of this project with another version: one that runs, and one whose device does not."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

from tests.conftest import ROOT


def changed(folder: Path, version: str = "9.9.8", **sources: str) -> Path:
    """This project's wheel with another version and these files' text replaced (`room/file.py` with `/` as `__`)."""
    made, place = folder / version, folder / f"{version}-built"
    line = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", str(place), str(_source(folder))]
    subprocess.run(line, check=True, capture_output=True)
    (original,) = place.glob("*.whl")
    old = original.name.split("-")[1]
    made.mkdir()
    path = made / original.name.replace(old, version, 1)
    records = []
    with zipfile.ZipFile(original) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            content, renamed = source.read(name), name.replace(f"-{old}.dist-info", f"-{version}.dist-info")
            if name.endswith("/METADATA"):
                content = content.replace(f"\nVersion: {old}\n".encode(), f"\nVersion: {version}\n".encode())
            content += sources.get(name.removesuffix(".py").replace("/", "__"), "").encode()
            if not name.endswith("/RECORD"):
                digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
                records.append(f"{renamed},sha256={digest},{len(content)}\n")
                target.writestr(renamed, content)
            else:
                record = renamed
        target.writestr(record, "".join(records) + f"{record},,\n")
    return path


def broken(folder: Path) -> Path:
    """A release that installs and passes its check, and ends with an error once it is started."""
    text = "\n\ndef run_client(*_arguments, **_options):\n    raise EnvironmentFaultError('made to fail')\n"
    return changed(folder, "9.9.9", edge_client__app=text)


def _source(folder: Path) -> Path:
    """A copy of the source tree: building in it would leave folders behind."""
    place = folder / "source"
    if not place.exists():
        place.mkdir()
        for name in (
            "pyproject.toml",
            "README.md",
            "contract",
            "hardware",
            "edge_client",
            "server",
            "attack",
            "deploy",
        ):
            subprocess.run(["cp", "-a", str(ROOT / name), str(place)], check=True)
    return place
