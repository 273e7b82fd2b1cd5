"""`spikeleak data …`."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from contract.datasets import DATASETS, data_dir, dataset_info, load, on_disk
from contract.datasets.cache import content_sha256, read
from contract.errors import EnvironmentFaultError


def list_datasets(console: Console) -> None:
    """A table of all data sets."""
    table = Table(box=None, pad_edge=False)
    for title in ("name", "samples", "shape", "classes", "licence", "source", "on disk"):
        table.add_column(title, justify="right" if title in {"samples", "classes"} else "left")
    for info in DATASETS.values():
        shape = "×".join(str(n) for n in info.shape)
        held = "yes" if on_disk(info.name) else "no"
        table.add_row(info.name, str(info.samples), shape, str(info.classes), info.licence, info.source, held)
    console.print(table)
    console.print(f"folder: {data_dir()}", highlight=False, soft_wrap=True)


def _names(name: str) -> list[str]:
    return list(DATASETS) if name == "all" else [dataset_info(name).name]


def fetch_dataset(console: Console, name: str) -> None:
    """Loads a data set, which decodes it into the data folder and checks it.

    Raises:
        ConfigurationError: The name is unknown, or the package that holds the data is not installed.
    """
    for item in _names(name):
        with console.status(f"{item} …"):
            dataset = load(item)
        console.print(f"{item}: {len(dataset.y)} samples in {data_dir()}", highlight=False, soft_wrap=True)


def verify_dataset(console: Console, name: str) -> None:
    """Holds a data set on disk against its checksum.

    Raises:
        ConfigurationError: The name is unknown.
        EnvironmentFaultError: The copy on disk is damaged, or there is none.
    """
    for item in _names(name):
        _verify(item)
        console.print(f"{item}: checksum right", highlight=False)


def _verify(name: str) -> None:
    held = read(name)
    if held is None:
        raise EnvironmentFaultError(f"{data_dir()} holds no copy of {name!r}: spikeleak data fetch {name}")
    found, known = content_sha256(*held), dataset_info(name).sha256
    if found != known:
        raise EnvironmentFaultError(
            f"{name!r} in {data_dir()} is damaged: SHA-256 {found}, known is {known}; "
            f"mend it with: spikeleak data fetch {name}"
        )
