"""Files of data sets in the data folder: whether they are there, whether they are what their publisher says."""

from __future__ import annotations

import hashlib
import tarfile
import zipfile
import zlib
from pathlib import Path

from contract.datasets.cache import data_dir
from contract.datasets.info import Archive, Source
from contract.errors import ConfigurationError, EnvironmentFaultError

DAMAGED = (OSError, EOFError, ValueError, KeyError, zlib.error, zipfile.BadZipFile, tarfile.TarError)
"""What reading a damaged file raises."""
_PIECE_BYTES = 1 << 20


def there(paths: tuple[str, ...]) -> bool:
    """Whether all of these files lie in the data folder, and there are any."""
    return bool(paths) and all((data_dir() / path).is_file() for path in paths)


def present(source: Source) -> bool:
    """Whether a data set's files lie in the data folder."""
    return there(source.instead) or there(tuple(archive.path for archive in source.archives))


def wanted(name: str, archives: tuple[Archive, ...]) -> list[Path]:
    """Where the official files of a data set lie.

    Raises:
        ConfigurationError: Some are not there; names the official source of each.
    """
    absent = [archive for archive in archives if not (data_dir() / archive.path).is_file()]
    if absent:
        sources = "; ".join(f"{a.path} from {a.url} ({a.checksum})" for a in absent)
        raise ConfigurationError(
            f"dataset = {name!r}: not in {data_dir()} (SPIKELEAK_DATA names that folder): {sources}; "
            f"`spikeleak data fetch {name}` brings it there"
        )
    return [data_dir() / archive.path for archive in archives]


def damage(path: Path, error: Exception, archive: Archive | None = None) -> EnvironmentFaultError:
    """A file that cannot be read, as an error of ours."""
    remedy = "" if archive is None else f": its {_must(archive)}, it comes from {archive.url}"
    return EnvironmentFaultError(f"{path} is damaged ({error}){remedy}; fetch it again")


def _must(archive: Archive) -> str:
    kind, _, value = archive.checksum.partition(" ")
    return f"{kind} must be {value}" if archive.md5 or archive.sha256 else "checksum is published nowhere"


def check(archive: Archive, path: Path | None = None) -> None:
    """Holds a file against its publisher's checksum, where there is one.

    Raises:
        EnvironmentFaultError: It is another file, or cannot be read.
    """
    path = path or data_dir() / archive.path
    for kind, known in (("md5", archive.md5), ("sha256", archive.sha256)):
        if known and (found := file_digest(path, kind)) != known:
            raise EnvironmentFaultError(
                f"{path}: {kind} is {found}, the publisher's is {known}: it is damaged or another version; delete it "
                f"and fetch it again from {archive.url}"
            )


def file_digest(path: Path, kind: str) -> str:
    """Checksum of a file, `md5` or `sha256`, as hex digits.

    Raises:
        EnvironmentFaultError: It cannot be read.
    """
    digest = hashlib.new(kind, usedforsecurity=False)
    try:
        with path.open("rb") as file:
            while piece := file.read(_PIECE_BYTES):
                digest.update(piece)
    except OSError as error:
        raise EnvironmentFaultError(f"{path} cannot be read: {error.strerror}") from error
    return digest.hexdigest()
