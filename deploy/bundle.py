"""What one party is handed: its certificate and key, the authority's certificate, where the broker is, checksums.

A device's may hold all that a board installs as well (`deploy.boards.payload`).
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from deploy.authority import Identity
from deploy.boards.payload import Content, Payload, checksums, place


class Bundle(msgspec.Struct, frozen=True, kw_only=True):
    """A party's folder.

    Attributes:
        stem: Of the files of its certificate and key.
        toml: Name of its settings file.
        head: What stands in that file before `[link]`.
        identity: Its certificate and key.
        authority: The authority's certificate, PEM.
        host: Where the broker is.
        port: Its port.
        place: Where the folder will lie on the party's machine: settings name their files by absolute paths.
        payload: What a board installs; its settings stand in place of the others.
        further: More files by name, which no checksum covers.
    """

    stem: str
    toml: str
    head: str
    identity: Identity
    authority: bytes
    host: str
    port: int
    place: Path
    payload: Payload | None = None
    further: dict[str, bytes] = {}

    def files(self) -> dict[str, Content]:
        """Content by file name, checksums after all that they cover (`sha256sum --check SHA256SUMS`)."""
        certificate, key = f"{self.stem}.pem", f"{self.stem}.key"
        tls = {"ca": "ca.pem", "certificate": certificate, "key": key}
        text = self.head + table("link", {"host": self.host, "port": self.port})
        text += table("link.tls", {name: str(self.place / file) for name, file in tls.items()})
        own = {"ca.pem": self.authority, certificate: self.identity.certificate, key: self.identity.key}
        if self.payload is not None:
            return {**self.payload.files(own), **self.further}
        files: dict[str, Content] = {**own, self.toml: text.encode()}
        return {**files, "SHA256SUMS": checksums(files).encode(), **self.further}


def table(name: str, content: Mapping[str, Any]) -> str:
    """One TOML table of strings, numbers and lists of strings; `None` is left out."""
    lines = [f"[{name}]"] if name else []
    lines += [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in content.items() if value is not None]
    return "\n".join(lines) + "\n"


def write_bundle(folder: Path, bundle: Bundle) -> None:
    """Writes a bundle in place of an earlier one; only its owner may look into it.

    Raises:
        OSError: It cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        made = Path(temporary) / "made"
        made.mkdir(mode=0o700)
        write_files(made, bundle.files())
        if folder.exists():
            folder.rename(Path(temporary) / "earlier")
        made.rename(folder)


def write_files(folder: Path, files: Mapping[str, Content]) -> None:
    """Writes bytes, and other names of files, below a folder.

    Raises:
        OSError: It cannot be written.
    """
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        if isinstance(content, bytes):
            write_file(folder / name, content, private=name.endswith(".key"))
        else:
            place(content, folder / name)


def write_file(path: Path, content: bytes, *, private: bool = False) -> None:
    """Replaces a file in one step, on disk before it is there; it gets its folder's owner.

    Args:
        path: The file.
        content: What it will hold.
        private: Mode 0600 from its first byte on, otherwise 0644.

    Raises:
        OSError: It cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fchmod(descriptor, 0o600 if private else 0o644)
        owner = path.parent.stat()
        if os.geteuid() == 0:
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
        os.fsync(descriptor)
    temporary.replace(path)
