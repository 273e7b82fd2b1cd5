"""One file from its official source: with progress, taken up again where it broke off, held against its checksum."""

from __future__ import annotations

import http.client
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from contract.datasets.archives import check
from contract.datasets.info import Archive
from contract.errors import ConfigurationError, EnvironmentFaultError

PIECE_BYTES = 1 << 16
TIMEOUT_S = 60.0
TRIES = 5
"""Attempts in a row that may bring nothing new."""
PAUSE_S = 1.0
SCHEMES = ("http", "https", "file")

Progress = Callable[[int, int | None], None]
"""Told bytes that are there, and bytes of the whole file where the server says so."""


def address(archive: Archive, source: str | None) -> str:
    """Where a file is fetched from: its official address, or the file of its name below `source`.

    Args:
        archive: The file.
        source: Address or folder of a copy; `None` for the official source.

    Raises:
        ConfigurationError: An address of a kind that cannot be read.
    """
    if source is None:
        return archive.url
    name = urllib.parse.quote(Path(archive.path).name)
    if "://" not in source:
        return (Path(source).resolve() / Path(archive.path).name).as_uri()
    if urllib.parse.urlsplit(source).scheme not in SCHEMES:
        raise ConfigurationError(f"--source {source}: expected a folder, or an address with {', '.join(SCHEMES)}")
    return f"{source.rstrip('/')}/{name}"


def download(archive: Archive, target: Path, *, source: str | None = None, progress: Progress) -> None:
    """Brings a file to `target`; until it is whole and right it lies beside it as `NAME.part`.

    What an earlier call left of a file with a known checksum is not fetched again. A connection that breaks off is
    taken up by itself, `TRIES` times in a row without a byte at most.

    Args:
        archive: The file.
        target: Where it shall lie.
        source: See `address`.
        progress: Told from time to time how far it is.

    Raises:
        ConfigurationError: See `address`.
        EnvironmentFaultError: The source does not give it, gives another file than its publisher describes, or the
            folder cannot be written.
    """
    url = address(archive, source)
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if not (archive.md5 or archive.sha256):
            part.unlink(missing_ok=True)  # nothing would tell whether a later version was appended to an earlier one
        _Transfer(url, part, progress).run()
    except OSError as error:
        raise EnvironmentFaultError(
            f"{part}: {error.strerror or error}; make room there, and fetch it again"
        ) from error
    try:
        check(archive, part)
    except EnvironmentFaultError as error:
        part.unlink(missing_ok=True)
        raise EnvironmentFaultError(f"{url}: {str(error).removeprefix(str(part)).lstrip(': ')}") from error
    part.replace(target)


class _Transfer:
    """One file on its way into one file."""

    def __init__(self, url: str, part: Path, progress: Progress) -> None:
        self._url, self._part, self._progress = url, part, progress
        self._whole: int | None = None
        self._validator = ""

    def run(self) -> None:
        fruitless = 0
        while True:
            before = self._there()
            reason = self._attempt()
            if not reason:
                return
            fruitless = fruitless + 1 if self._there() <= before else 0
            if fruitless >= TRIES:
                raise EnvironmentFaultError(
                    f"{self._url}: {reason}, {TRIES} times in a row; {self._there()} bytes lie in {self._part}: fetch "
                    "it again later, it goes on from there"
                )
            time.sleep(PAUSE_S * min(fruitless, TRIES))

    def _there(self) -> int:
        return self._part.stat().st_size if self._part.exists() else 0

    def _attempt(self) -> str:
        """Fetches what is missing; why it broke off, or nothing."""
        try:
            with self._opened() as answer:
                return self._received(answer)
        except urllib.error.HTTPError as error:
            if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and self._there():
                error.close()
                return self._too_long(error.headers.get("Content-Range", ""))
            error.close()
            if error.code < http.HTTPStatus.INTERNAL_SERVER_ERROR:
                raise EnvironmentFaultError(
                    f"{self._url}: the server answers {error.code} {error.reason}; see whether the file has moved, and "
                    "name a copy by --source"
                ) from error
            return f"the server answers {error.code} {error.reason}"
        except (urllib.error.URLError, ssl.SSLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, FileNotFoundError):
                raise EnvironmentFaultError(f"{self._url}: no such file; name another --source") from error
            return f"the connection fails ({reason})"

    def _opened(self) -> Any:
        request = urllib.request.Request(self._url)  # noqa: S310 - the scheme was looked at
        if self._there():
            request.add_header("Range", f"bytes={self._there()}-")
            if self._validator:
                request.add_header("If-Range", self._validator)
        return urllib.request.urlopen(request, timeout=TIMEOUT_S)  # noqa: S310 - likewise

    def _received(self, answer: Any) -> str:
        partial = getattr(answer, "status", None) == http.HTTPStatus.PARTIAL_CONTENT
        at = self._there() if partial else 0
        length = answer.headers.get("Content-Length")
        self._whole = None if length is None else at + int(length)
        self._validator = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
        with self._part.open("ab" if partial else "wb") as file:
            while piece := self._piece(answer):
                file.write(piece)
                at += len(piece)
                self._progress(at, self._whole)
        short = self._whole is not None and at < self._whole
        return f"the connection broke off at byte {at} of {self._whole}" if short else ""

    @staticmethod
    def _piece(answer: Any) -> bytes:
        try:
            return bytes(answer.read1(PIECE_BYTES))
        except http.client.IncompleteRead as error:
            return bytes(error.partial)

    def _too_long(self, told: str) -> str:
        """What lies here is as long as the file, and so is whole; or longer, and then none of it."""
        if told == f"bytes */{self._there()}":
            return ""
        self._part.unlink()
        return "what lay here was longer than the file"
