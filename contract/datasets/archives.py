"""Data sets that come as archives from their official sources: where they lie, and how they are read."""

from __future__ import annotations

import gzip
import math
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from contract.datasets.cache import data_dir
from contract.errors import ConfigurationError, EnvironmentFaultError
from contract.task import EVENT_BINS

Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
Masks = npt.NDArray[np.uint64]

BLOCK = 512
"""Images of an archive that are decoded at a time."""
EVENT_BYTES = 5
_RECORDING = re.compile(r"(?:^|/)(Train|Test)/(\d)/(\d{5})\.bin$")
_KEPT = {"Train": 1000, "Test": 100}
_DAMAGED = (OSError, EOFError, ValueError, zlib.error, zipfile.BadZipFile)


class Archive(msgspec.Struct, frozen=True, kw_only=True):
    """One file of an official source.

    Attributes:
        path: Where it is looked for, below the data folder.
        url: Where it comes from.
        md5: Of the file, as its publisher or its readers state it.
    """

    path: str
    url: str
    md5: str


def _mnist(file: str, md5: str) -> Archive:
    return Archive(path=f"mnist/{file}", url=f"https://ossci-datasets.s3.amazonaws.com/mnist/{file}", md5=md5)


def _nmnist(file: str, key: str, md5: str) -> Archive:
    host = "https://data.mendeley.com/public-files/datasets/468j46mzdv/files"
    return Archive(path=f"nmnist/{file}", url=f"{host}/{key}/file_downloaded", md5=md5)


ARCHIVES: dict[str, tuple[Archive, ...]] = {
    "mnist": (
        _mnist("train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
        _mnist("train-labels-idx1-ubyte.gz", "d53e105ee54ea40749a09fcbcd1e9432"),
        _mnist("t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3"),
        _mnist("t10k-labels-idx1-ubyte.gz", "ec29112dd5afa0611ce80d1b7f02629c"),
    ),
    "nmnist": (
        _nmnist("Train.zip", "39c25547-014b-4137-a934-9d29fa53c7a0", "20959b8e626244a1b502305a9e6e2031"),
        _nmnist("Test.zip", "05a4d654-7e03-4c15-bdfa-9bb2bcbea494", "69ca8762b2fe404d9b9bad1103e97832"),
    ),
}
"""Official files of each data set. N-MNIST is also read from `nmnist/nmnist_small.zip`, the same recordings alone."""
SMALL_NMNIST = "nmnist/nmnist_small.zip"


def present(name: str) -> bool:
    """Whether all archives of a data set lie in the data folder."""
    folder = data_dir()
    small = name == "nmnist" and (folder / SMALL_NMNIST).is_file()
    return name in ARCHIVES and (small or all((folder / a.path).is_file() for a in ARCHIVES[name]))


def mnist() -> tuple[Images, Labels]:
    """All 70,000 images, the 60,000 for training first.

    Raises:
        ConfigurationError: An archive is not there.
        EnvironmentFaultError: One is damaged.
    """
    y = mnist_labels()
    x = np.empty((len(y), 1, 28, 28), dtype=np.float32)
    at = 0
    for block in mnist_blocks():
        if at + len(block) > len(y):
            raise _damage(data_dir() / "mnist", ValueError(f"more images than the {len(y)} labels"), None)
        x[at : at + len(block)] = block
        at += len(block)
    return x[:at], y


def mnist_labels() -> Labels:
    """The labels alone, in the order of `mnist`; raises as it does."""
    _, train, _, test = _wanted("mnist")
    return np.concatenate([b for archive in (train, test) for b in _idx_blocks(archive)]).astype(np.int64)


def mnist_blocks() -> Iterator[Images]:
    """The images in the order of `mnist`, `BLOCK` at a time: never all in memory; raises as it does."""
    train, _, test, _ = _wanted("mnist")
    levels = (np.arange(256) / 255).astype(np.float32)
    for archive in (train, test):
        for block in _idx_blocks(archive):
            yield levels[block].reshape(-1, 1, 28, 28)


def _idx_blocks(archive: Archive) -> Iterator[npt.NDArray[np.uint8]]:
    """An idx file of bytes, some rows at a time: ``u16 0 | u8 type 8 | u8 axes | axes × u32 big-endian | data``."""
    try:
        with gzip.open(data_dir() / archive.path) as file:
            head = file.read(4)
            if head[:3] != b"\x00\x00\x08" or len(head) < 4:
                raise ValueError(f"begins with {head[:3].hex()}, an idx file of bytes with 000008")
            rows, *shape = (int(n) for n in np.frombuffer(file.read(4 * head[3]), dtype=">u4", count=head[3]))
            for at in range(0, rows, BLOCK):
                count = min(BLOCK, rows - at)
                block = np.frombuffer(file.read(count * math.prod(shape)), dtype=np.uint8)
                yield block.reshape(count, *shape)
    except _DAMAGED as error:
        raise _damage(data_dir() / archive.path, error, archive) from error


def nmnist() -> tuple[Masks, Labels]:
    """The first 1,000 training and the first 100 test recordings as event masks `[1100, 2, 34, 34]`.

    Raises:
        ConfigurationError: The archives are not there.
        EnvironmentFaultError: One is damaged.
    """
    small = data_dir() / SMALL_NMNIST
    paths = [small] if small.is_file() else [data_dir() / archive.path for archive in _wanted("nmnist")]
    found: dict[tuple[bool, int], tuple[int, Masks]] = {}
    for path in paths:
        try:
            for key, label, blob in _recordings(path):
                found[key] = (label, event_mask(blob))
        except _DAMAGED as error:
            raise _damage(path, error, None) from error
    ordered = [found[key] for key in sorted(found)]
    masks = np.array([mask for _, mask in ordered], dtype=np.uint64)
    return masks, np.array([label for label, _ in ordered], dtype=np.int64)


def _recordings(path: Path) -> Iterator[tuple[tuple[bool, int], int, bytes]]:
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            match = _RECORDING.search(name)
            if match and int(match[3]) <= _KEPT[match[1]]:
                yield (match[1] == "Test", int(match[3])), int(match[2]), archive.read(name)


def event_mask(blob: bytes, shape: tuple[int, int, int] = (2, 34, 34)) -> Masks:
    """Event mask `[polarity, y, x]` of a recording in the N-MNIST format (Orchard et al. 2015, arXiv 1507.07629).

    Five bytes an event: x, y, then big-endian one bit of polarity and 23 bits of microseconds. The recording's own
    span, first to last event, is cut into `EVENT_BINS` equal parts.

    Raises:
        ValueError: A broken event, or one outside the shape.
    """
    if not blob or len(blob) % EVENT_BYTES:
        raise ValueError(f"recording of {len(blob)} bytes: expected {EVENT_BYTES} an event, and at least one")
    raw = np.frombuffer(blob, dtype=np.uint8).reshape(-1, EVENT_BYTES).astype(np.int64)
    x, y, on = raw[:, 0], raw[:, 1], raw[:, 2] >> 7
    time_us = ((raw[:, 2] & 0x7F) << 16) | (raw[:, 3] << 8) | raw[:, 4]
    if x.max() >= shape[2] or y.max() >= shape[1]:
        raise ValueError(f"event at ({x.max()}, {y.max()}), the sensor has {shape[2]}×{shape[1]} pixels")
    start, end = time_us.min(), time_us.max()
    spans = ((time_us - start) * EVENT_BINS // (end - start + 1)).astype(np.uint64)
    mask = np.zeros(shape, dtype=np.uint64)
    np.bitwise_or.at(mask, (on, y, x), np.uint64(1) << spans)
    return mask


def _wanted(name: str) -> tuple[Archive, ...]:
    """The official archives of a data set, all of which are there.

    Raises:
        ConfigurationError: Some are not; names the official source of each.
    """
    absent = [archive for archive in ARCHIVES[name] if not (data_dir() / archive.path).is_file()]
    if absent:
        sources = "; ".join(f"{a.path} from {a.url} (md5 {a.md5})" for a in absent)
        raise ConfigurationError(
            f"dataset = {name!r}: not in {data_dir()} (SPIKELEAK_DATA names that folder): {sources}"
        )
    return ARCHIVES[name]


def _damage(path: Path, error: Exception, archive: Archive | None) -> EnvironmentFaultError:
    remedy = "" if archive is None else f": its md5 must be {archive.md5}, it comes from {archive.url}"
    return EnvironmentFaultError(f"{path} is damaged ({error}){remedy}; fetch it again")
