"""What is known of a data set: its content, its official files, and how they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec
import numpy as np
import numpy.typing as npt

from contract.datasets.cache import Arrays, Indices, Samples


class DatasetInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a data set without opening it.

    Attributes:
        name: Its name in a task.
        title: For people.
        shape: Of one sample.
        classes: Number of classes.
        samples: Number of samples; 0 where only those who own them know.
        licence: Terms of use.
        source: Where it comes from.
        cited: Keys of its publications, and of what its samples were made by (`contract.citations`).
        package: Distribution that brings it; empty for a set that comes as files.
        extra: Extra of this project that installs the package.
        levels: Whether every intensity is k / 255 for a whole k: a part of the set is then kept as levels.
        events: Whether the samples are recordings of events, kept as masks; otherwise they are intensities.
        series: Whether the last axis of a sample is time.
        users: People who made the samples; 0 where that is not known.
        sha256: Of the decoded content, see `contract.datasets.cache.content_sha256`; empty where this project has never
            seen it: then the official files are held against their own checksums, and the first decoding is kept to.
    """

    name: str
    title: str
    shape: tuple[int, ...]
    classes: int
    samples: int
    licence: str
    source: str
    cited: tuple[str, ...]
    package: str = ""
    extra: str = ""
    levels: bool = False
    events: bool = False
    series: bool = False
    users: int = 0
    sha256: str = ""

    @property
    def kept_as(self) -> type[np.generic]:
        """Type of the samples of a part."""
        if self.events:
            return np.uint64
        return np.uint8 if self.levels else np.float32


class Dataset(msgspec.Struct, frozen=True, kw_only=True):
    """A data set in memory, or mapped from the cache.

    Attributes:
        info: What it is.
        x: `[N, *shape]`: intensities in [0, 1], levels, or event masks (`contract.encodings`); read-only when whole.
        y: `[N]`, from 0 to `classes - 1`, read-only.
        users: `[N]`, from 0, who made each sample; `None` where that is not known.
    """

    info: DatasetInfo
    x: Samples
    y: Indices
    users: Indices | None = None


class Archive(msgspec.Struct, frozen=True, kw_only=True):
    """One file of an official source.

    Attributes:
        path: Where it is looked for, below the data folder.
        url: Where it comes from.
        md5: Of the file, as its publisher or its readers state it; empty where nobody does.
        sha256: The same.
    """

    path: str
    url: str
    md5: str = ""
    sha256: str = ""

    @property
    def checksum(self) -> str:
        """The checksum for people."""
        known = [f"{kind} {value}" for kind, value in (("md5", self.md5), ("SHA-256", self.sha256)) if value]
        return known[0] if known else "no checksum published"


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """A data set and how it is read.

    Attributes:
        info: What it is.
        decode: Reads all of it; imports what it needs only when called. Raises ConfigurationError for a file that is
            not there, EnvironmentFaultError for a damaged one, ImportError for a library that is not installed.
        archives: Its official files; empty for a set that a package brings.
        instead: Files, below the data folder, that hold the same samples and are read in their place where all are
            there.
        pieces: Labels, and the samples block by block, of files that need not be read as a whole.
    """

    info: DatasetInfo
    decode: Callable[[], Arrays]
    archives: tuple[Archive, ...] = ()
    instead: tuple[str, ...] = ()
    pieces: Callable[[], tuple[Indices, Iterator[npt.NDArray[np.float32]]]] | None = None
