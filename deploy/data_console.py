"""`spikeleak data …`."""

from __future__ import annotations

import math

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from contract.datasets import DATASETS, SOURCES, data_dir, dataset_info, load
from contract.datasets.archives import check, present, there
from contract.datasets.cache import content_sha256, first_seen, read
from contract.datasets.info import DatasetInfo, Source
from contract.errors import ConfigurationError, EnvironmentFaultError
from deploy.download import download

_PLAIN_EVERY = 0.25
"""Share of a file after which a terminal that cannot redraw is told again."""


def list_datasets(console: Console) -> None:
    """A table of all data sets, and where each comes from."""
    table = Table(box=None, pad_edge=False)
    for title in ("name", "samples", "shape", "classes", "users", "MB", "licence", "on disk"):
        table.add_column(title, justify="right" if title in {"samples", "classes", "users", "MB"} else "left")
    for source in SOURCES.values():
        info = source.info
        shape = "×".join(str(n) for n in info.shape)
        counts = (str(info.samples), shape, str(info.classes), str(info.users or "—"))
        table.add_row(info.name, *counts, f"{_megabytes(info):.1f}", info.licence, _held(source))
    console.print(table)
    console.print(f"MB: decoded, as it is kept in {data_dir()}", highlight=False, soft_wrap=True)
    for source in SOURCES.values():
        hosts = ", ".join(archive.url for archive in source.archives) or f"package {source.info.package}"
        console.print(f"{source.info.name}: {source.info.title}; {source.info.source}; {hosts}", highlight=False)


def _megabytes(info: DatasetInfo) -> float:
    size = np.dtype(np.uint64 if info.events else np.float32).itemsize
    return info.samples * math.prod(info.shape) * size / 1e6


def _held(source: Source) -> str:
    """What lies on the disk."""
    found = ["decoded"] if read(source.info.name) is not None else []
    if present(source):
        found.append("files" if there(tuple(a.path for a in source.archives)) else "the same samples")
    return ", ".join(found) or ("in a package" if not source.archives else "no")


def _names(name: str) -> list[str]:
    return list(DATASETS) if name == "all" else [dataset_info(name).name]


def fetch_dataset(console: Console, name: str, source: str | None = None) -> None:
    """Brings a data set's official files into the data folder where they are missing, decodes them and checks both.

    Args:
        console: Told how far it is.
        name: The data set, or `all`.
        source: Address or folder of a copy of the files; `None` for the official source.

    Raises:
        ConfigurationError: The name is unknown, or a package that is needed is not installed.
        EnvironmentFaultError: The files are not to be had, or are not what their publisher describes.
    """
    for item in _names(name):
        known = SOURCES[item]
        if source is not None and not known.archives:
            raise ConfigurationError(f"--source {source}: {item!r} comes in package {known.info.package}, not in files")
        if read(item) is None and not present(known):
            console.print(f"{item}: {known.info.licence}; {known.info.source}", highlight=False, soft_wrap=True)
            _fetch_files(console, known, source)
        dataset = load(item)
        console.print(f"{item}: {len(dataset.y)} samples in {data_dir()}", highlight=False, soft_wrap=True)


def _fetch_files(console: Console, known: Source, source: str | None) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as shown:
        for archive in known.archives:
            target = data_dir() / archive.path
            if target.is_file():
                continue
            task, told = shown.add_task(target.name, total=None), [0.0]

            def tell(
                at: int, whole: int | None, task: object = task, told: list[float] = told, name: str = target.name
            ) -> None:
                shown.update(task, completed=at, total=whole)  # type: ignore[arg-type]
                if not console.is_terminal and whole and at / whole >= told[0] + _PLAIN_EVERY:
                    told[0] = at / whole
                    console.print(f"{name}: {at / 1e6:.1f} of {whole / 1e6:.1f} MB", highlight=False, soft_wrap=True)

            download(archive, target, source=source, progress=tell)


def verify_dataset(console: Console, name: str) -> None:
    """Holds what lies on disk of a data set against its checksums.

    Raises:
        ConfigurationError: The name is unknown.
        EnvironmentFaultError: The copy on disk is damaged, or there is none.
    """
    for item in _names(name):
        console.print(f"{item}: {_verified(SOURCES[item])}", highlight=False, soft_wrap=True)


def _verified(source: Source) -> str:
    """What was found right."""
    name, held, right = source.info.name, read(source.info.name), []
    if there(tuple(archive.path for archive in source.archives)):
        for archive in source.archives:
            check(archive)
        summed = sum(bool(archive.md5 or archive.sha256) for archive in source.archives)
        right.append(f"{summed} of {len(source.archives)} files by their publisher's checksum")
    if held is not None:
        known = source.info.sha256 or first_seen(name)
        if (found := content_sha256(*held)) != known:
            raise EnvironmentFaultError(
                f"{name!r} in {data_dir()} is damaged: SHA-256 {found}, known is {known or 'none'}; "
                f"mend it with: spikeleak data fetch {name}"
            )
        right.append("content's checksum right" if source.info.sha256 else "content as it was first decoded here")
    if not right:
        raise EnvironmentFaultError(f"{data_dir()} holds no copy of {name!r}: spikeleak data fetch {name}")
    return "; ".join(right)
