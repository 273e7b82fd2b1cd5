"""Data sets by name: decoded once, cached, checked against a pinned checksum, and dealt to devices.

Needs numpy only once a set is cached; the library that brings a set is imported lazily.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from contract.datasets import archives
from contract.datasets.cache import (
    Arrays,
    ContentDigest,
    Indices,
    Samples,
    blocks,
    content_sha256,
    data_dir,
    first_seen,
    keep_to,
    people,
    read,
    write,
)
from contract.datasets.info import Dataset, DatasetInfo, Source
from contract.datasets.partition import held_out_split, partition, share
from contract.datasets.sources import DATASETS, SOURCES
from contract.encodings import SERIES
from contract.errors import ConfigurationError, EnvironmentFaultError
from contract.task import OWN, EncodingSpec, PartitionSpec, TaskSpec

__all__ = [
    "DATASETS",
    "SOURCES",
    "Dataset",
    "DatasetInfo",
    "check_encoding",
    "check_partition",
    "data_dir",
    "dataset_info",
    "held_out_split",
    "load",
    "load_part",
    "on_disk",
    "partition",
    "share",
    "task_info",
]

BLOCK = 512
"""Samples of a cached set that are read at a time."""
Choice = Callable[[Indices, Indices | None], Indices]


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


def task_info(task: TaskSpec) -> DatasetInfo:
    """What is known of a task's data: of a data set, or of what its devices read themselves.

    Raises:
        ConfigurationError: No such data set; names the nearest.
    """
    if task.own_data is None:
        return dataset_info(task.dataset)
    return DatasetInfo(
        name=OWN,
        title="data of the devices' own",
        shape=task.own_data.shape,
        classes=task.own_data.classes,
        samples=0,
        licence="the devices' owners know",
        source="the devices' sensors",
        cited=(),  # nobody has published it
        series=task.own_data.series,
    )


def check_partition(spec: PartitionSpec, info: DatasetInfo) -> None:
    """Whether a data set can be dealt so.

    Raises:
        ConfigurationError: By users, of a data set that does not know them; names those that do.
    """
    for key, value in (("kind", spec.kind), ("held_out_by", spec.held_out_by)):
        if value == "user" and not info.users:
            known = ", ".join(name for name, other in DATASETS.items() if other.users)
            raise ConfigurationError(
                f"partition.{key} = 'user': {info.name!r} does not say who made its samples; data sets that do: {known}"
            )


def check_encoding(spec: EncodingSpec, info: DatasetInfo) -> None:
    """Whether a data set can be encoded so.

    Raises:
        ConfigurationError: `events` of what are no recordings, `delta` or `integrate` of what are no series, or more
            steps than a series has readings; names data sets that fit.
    """
    if spec.kind in SERIES:
        if not info.series:
            fit = ", ".join(name for name, known in DATASETS.items() if known.series)
            raise ConfigurationError(
                f"encoding.kind = {spec.kind!r}: {info.name!r} holds no series; such data sets: {fit}"
            )
        if spec.steps > info.shape[-1]:
            raise ConfigurationError(
                f"encoding.steps = {spec.steps} with kind {spec.kind!r}: a sample of {info.name!r} has "
                f"{info.shape[-1]} readings; a step takes at least one"
            )
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
    known = info.sha256 or first_seen(name)
    cached = read(name)
    if cached is not None and known and content_sha256(*cached) == known:
        return Dataset(info=info, x=cached.x, y=cached.y, users=cached.users)
    arrays = _decode(info)
    found = content_sha256(*arrays)
    if info.sha256 and found != info.sha256:
        raise EnvironmentFaultError(
            f"data set {name!r}: {info.package or data_dir()} gives content with SHA-256 {found}, known is "
            f"{info.sha256}; {_remedy(info)}"
        )
    if write(name, arrays) and not info.sha256:
        keep_to(name, found)
    for array in arrays:
        if array is not None:
            array.flags.writeable = False
    return Dataset(info=info, x=arrays.x, y=arrays.y, users=arrays.users)


def load_part(name: str, choose: Choice) -> Dataset:
    """Some samples of a data set, without ever holding all of them where it lies on the disk.

    The whole set is read and its checksum compared all the same. Nothing is cached: a board's card is small and wears.

    Args:
        name: The data set.
        choose: Takes labels and users of all samples and names those wanted, ascending.

    Returns:
        The samples wanted; as levels (`contract.encodings`) where the set's intensities are such.

    Raises:
        ConfigurationError: As `load`, or what `choose` raises.
        EnvironmentFaultError: As `load`.
    """
    info = dataset_info(name)
    known = info.sha256 or first_seen(name)
    for y, users, parts, official in _streams(name):
        rows = choose(y, users)
        x, found = _picked(info, parts, (y, users), rows)
        if found == known or (official and not known):
            return Dataset(info=info, x=x, y=y[rows], users=None if users is None else users[rows])
    whole = load(name)
    rows = choose(whole.y, whole.users)
    of_users = None if whole.users is None else whole.users[rows]
    return Dataset(info=info, x=_kept(info, whole.x[rows]), y=whole.y[rows], users=of_users)


def _streams(name: str) -> Iterator[tuple[Indices, Indices | None, Iterable[Samples], bool]]:
    """Labels, users and blocks of samples of each copy that can be read in pieces, the quickest first.

    With each whether it comes from official files whose own checksums are right.
    """
    cached, source = people(name), SOURCES[name]
    if cached is not None:
        yield *cached, blocks(name, BLOCK), False
    elif source.pieces is not None and archives.present(source):
        _check_archives(source)
        y, parts = source.pieces()
        yield y, None, parts, True


def _check_archives(source: Source) -> None:
    """Files of a set whose content this project does not pin, against their publisher's checksums."""
    if not source.info.sha256 and not archives.there(source.instead):
        for archive in source.archives:
            archives.check(archive)


def _picked(
    info: DatasetInfo, parts: Iterable[Samples], of: tuple[Indices, Indices | None], rows: Indices
) -> tuple[Samples, str]:
    """The samples at `rows`, and the SHA-256 of the whole content."""
    digest = ContentDigest((len(of[0]), *info.shape), of[0].shape)
    x: npt.NDArray[Any] = np.empty((len(rows), *info.shape), dtype=info.kept_as)
    at = 0
    for part in parts:
        digest.samples(part)
        first, last = np.searchsorted(rows, (at, at + len(part)))
        x[first:last] = _kept(info, part[rows[first:last] - at])
        at += len(part)
    return x, digest.finish(*of)


def _kept(info: DatasetInfo, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Samples as they are kept: as levels where that loses nothing."""
    return np.rint(255 * x).astype(np.uint8) if info.levels else x


def on_disk(name: str) -> bool:
    """Whether a data set can be loaded from the data folder alone: decoded, or as files."""
    return read(name) is not None or archives.present(SOURCES[name])


def _remedy(info: DatasetInfo) -> str:
    files = SOURCES[info.name].archives
    if files:
        return "fetch it again: " + ", ".join(archive.url for archive in files)
    return f"install the version that this project was tested with: pip install --upgrade 'spikeleak[{info.extra}]'"


def _decode(info: DatasetInfo) -> Arrays:
    source = SOURCES[info.name]
    if archives.present(source):
        _check_archives(source)
    try:
        return source.decode()
    except ImportError as error:
        raise ConfigurationError(
            f"dataset = {info.name!r} needs {info.package or 'a package'} ({error}) and {data_dir()} holds no sound "
            f"copy: pip install 'spikeleak[{info.extra or 'server'}]', or copy {info.name}.x.npy, {info.name}.y.npy "
            f"{f'and {info.name}.u.npy ' if info.users else ''}there from a machine that has loaded it"
        ) from error
