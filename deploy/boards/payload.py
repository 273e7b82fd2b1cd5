"""What goes onto one board: certificates, settings, wheels, data and the scripts that install them, with checksums.

The same files whether a person copies the folder, a Pi's first boot finds it beside its user data, or Ansible pushes
it.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import tomli_w

from contract.configuration import decode_tables
from contract.datasets import data_dir, load
from contract.errors import EnvironmentFaultError
from deploy.boards.wheelhouse import Wheelhouse
from edge_client.settings import ClientSettings

CONFIGURATION = "/etc/spikeleak"
"""Where certificate, key and the authority's certificate lie on a board."""
CREDENTIALS = "/run/credentials/spikeleak-client.service"
"""Where systemd hands the key to the device (`LoadCredential=`)."""
STATE = "/var/lib/spikeleak"
CERTIFICATES = ("ca.pem", "device.pem", "device.key")
"""Belong to the board and not to a release: a roll-back brings no old ones back."""
UNIT = "spikeleak-client.service"

_HERE = Path(__file__).resolve().parent
_SCRIPTS = {
    "install.sh": _HERE / "install.sh",
    "release.sh": _HERE / "release.sh",
    UNIT: _HERE.parent / "systemd" / UNIT,
}
_README = """The device {node} of a spikeleak run. As root, on the board: sh install.sh
It installs from wheels/ alone, starts {unit} and goes back when that does not start.
  journalctl -u spikeleak-client              what it says
  /opt/spikeleak/release.sh list | rollback   its releases
device.key is this device's identity: keep it from others; install.sh puts a copy of it into {configuration}.
"""
_UNPACKED, _SPOOL_KIB = 5, 64 * 1024
"""Bytes that a wheel takes on its way and installed, over its own; and what is left for the device's spool."""

Content = bytes | Path


class Payload(msgspec.Struct, frozen=True, kw_only=True):
    """What one board is given beside its certificates.

    Attributes:
        node: The device.
        settings: Tables of its TOML.
        wheelhouse: What it installs.
        datasets: Data sets that it gets as files.
    """

    node: str
    settings: dict[str, Any]
    wheelhouse: Wheelhouse
    datasets: tuple[str, ...] = ()

    def files(self, certificates: Mapping[str, bytes]) -> dict[str, Content]:
        """Bytes, or the file to copy, by path in the folder; `SHA256SUMS` is the last.

        Args:
            certificates: `ca.pem`, `device.pem` and `device.key`.
        """
        files: dict[str, Content] = {**certificates, "device.toml": tomli_w.dumps(self.settings).encode()}
        files |= {name: path.read_bytes() for name, path in _SCRIPTS.items()}
        readme = _README.format(node=self.node, unit=UNIT, configuration=CONFIGURATION)
        files["README.txt"] = readme.encode()
        files["requirements.txt"] = self.wheelhouse.requirements().encode()
        files |= {f"wheels/{name}": self.wheelhouse.folder / name for name in self.wheelhouse.sha256}
        files |= {f"data/{path.name}": path for name in self.datasets for path in data_files(name)}
        files["release"] = self._release(files)
        return {**files, "SHA256SUMS": checksums(files).encode()}

    def _release(self, files: Mapping[str, Content]) -> bytes:
        house = self.wheelhouse
        kept = {name: content for name, content in files.items() if name not in CERTIFICATES}
        mark = hashlib.sha256(checksums(kept).encode()).hexdigest()[:8]
        told = {
            "node": self.node,
            "release": f"{house.version}-{mark}",
            "wheels": house.name,
            "machine": house.machine,
            "python": house.python,
            "need_kib": _UNPACKED * house.nbytes // 1024 + _SPOOL_KIB,
            "made": int(time.time()),
        }
        return "".join(f"{key}={value}\n" for key, value in told.items()).encode()


def device_tables(
    node: str, *, host: str, port: int, run: str, shard: int, shards: int, own: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """A device's settings as tables, with the places that its unit knows.

    Args:
        node: The device.
        host: The broker.
        port: Its port.
        run: The run to take part in.
        shard: Which part of the training samples is its own.
        shards: Of how many.
        own: Further keys of `ClientSettings`, or others in place of these.

    Raises:
        ConfigurationError: Not what `ClientSettings` takes; names the device.
    """
    tls = {
        "ca": f"{CONFIGURATION}/ca.pem",
        "certificate": f"{CONFIGURATION}/device.pem",
        "key": f"{CREDENTIALS}/device.key",
    }
    tables: dict[str, Any] = {"run": run, "node": node, "directory": f"{STATE}/{run}", "shard": shard, "shards": shards}
    link = {"host": host, "port": port, "tls": tls}
    further = dict(own or {})
    link |= further.pop("link", {})
    made = {**tables, **further, "link": link}
    decode_tables(made, ClientSettings, origin=f"device {node}")
    return made


def data_files(name: str) -> list[Path]:
    """The files of a data set in this machine's data folder; decoded into it first if they are not there.

    Raises:
        ConfigurationError: No such data set, or the library that brings it is not installed.
        EnvironmentFaultError: The data folder cannot be written.
    """
    load(name)
    found = [data_dir() / f"{name}.{part}.npy" for part in ("x", "y")]
    if not all(path.is_file() for path in found):
        raise EnvironmentFaultError(
            f"data set {name}: {data_dir()} cannot be written: set SPIKELEAK_DATA to a folder that can"
        )
    return found


class Archive(msgspec.Struct, frozen=True, kw_only=True):
    """Files on their way to a board.

    Attributes:
        archive: Its name, a tar file.
        mark: Name of a file in it that stands for its content; empty where it is to be sent each time.
    """

    archive: str
    mark: str = ""


def archives(node: str, files: Mapping[str, Content], folder: Path) -> list[Archive]:
    """Packs a board's files: what is large apart, by its content, so that many boards share one archive."""
    parts = {name: [it for it in files if it.startswith(f"{name}/")] for name in ("wheels", "data")}
    packed = []
    for name, members in parts.items():
        if members:
            mark = hashlib.sha256(checksums({it: files[it] for it in members}).encode()).hexdigest()[:16]
            packed.append(Archive(archive=f"{name}-{mark}.tar", mark=f"{name}-{mark}.there"))
            _pack(folder / packed[-1].archive, {it: files[it] for it in members} | {packed[-1].mark: b""})
    small = {it: content for it, content in files.items() if "/" not in it}
    packed.append(Archive(archive=f"{node}.tar"))
    _pack(folder / packed[-1].archive, small)
    return packed


def _pack(path: Path, files: Mapping[str, Content]) -> None:
    if path.exists():
        return
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.mode = 0o600 if name.endswith(".key") else 0o644
            if isinstance(content, bytes):
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
            else:
                member.size = content.stat().st_size
                with content.open("rb") as file:
                    archive.addfile(member, file)


def checksums(files: Mapping[str, Content]) -> str:
    """Lines for `sha256sum --check`."""
    return "".join(f"{_digest(content)}  {name}\n" for name, content in files.items())


def _digest(content: Content) -> str:
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    with content.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def place(source: Path, target: Path) -> None:
    """A file as another name of itself where the file system can, so that a hundred bundles hold their wheels once."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
