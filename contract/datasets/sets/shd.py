"""Spiking Heidelberg Digits: spoken digits as spikes of a cochlea model (Cramer et al. 2020, arXiv 1910.07407)."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from contract.datasets.archives import DAMAGED, damage, wanted
from contract.datasets.cache import Arrays
from contract.datasets.events import Masks, event_masks
from contract.datasets.info import Archive, DatasetInfo, Source
from contract.datasets.intensities import numbered

CHANNELS = 700
_MICROSECONDS = 1e6


def _archive(file: str, md5: str) -> Archive:
    return Archive(path=f"shd/{file}", url=f"https://zenkelab.org/datasets/{file}", md5=md5)


_ARCHIVES = (
    _archive("shd_train.h5.zip", "f3252aeb598ac776c1b526422d90eecb"),
    _archive("shd_test.h5.zip", "1503a5064faa34311c398fb0a1ed0a6f"),
)


def decode() -> Arrays:
    """All recordings, those for training first, as event masks `[10420, 700]`.

    HDF5 with `spikes/times` (seconds) and `spikes/units` (channels), a row a recording, `labels` and `extra/speaker`.
    """
    parts = []
    for path, archive in zip(wanted("shd", _ARCHIVES), _ARCHIVES, strict=True):
        try:
            parts.append(_part(path))
        except DAMAGED as error:
            raise damage(path, error, archive) from error
    masks, labels, people = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Arrays(masks, labels, numbered(people))


def _part(path: Path) -> tuple[Masks, Any, Any]:
    import h5py  # noqa: PLC0415 - not on a board

    with zipfile.ZipFile(path) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".h5"))
        blob = io.BytesIO(archive.read(name))
    with h5py.File(blob, "r") as file:
        rows = zip(file["spikes/times"], file["spikes/units"], strict=True)
        masks = np.array([spike_mask(times, units) for times, units in rows], dtype=np.uint64)
        return masks, file["labels"][:].astype(np.int64), file["extra/speaker"][:].astype(np.int64)


def spike_mask(times_s: Any, units: Any) -> Masks:
    """Event mask `[700]` of one recording.

    Raises:
        ValueError: Not as many times as channels, none at all, or a channel outside the cochlea.
    """
    if len(times_s) != len(units) or not len(units) or max(units) >= CHANNELS:
        raise ValueError(f"{len(times_s)} times and {len(units)} channels, expected as many, below {CHANNELS}")
    times = np.rint(np.asarray(times_s, dtype=np.float64) * _MICROSECONDS).astype(np.int64)
    return event_masks(times, (np.asarray(units, dtype=np.int64),), (CHANNELS,))


SOURCE = Source(
    info=DatasetInfo(
        name="shd",
        title="Spiking Heidelberg Digits, 10,420 spoken digits, English and German, as spikes of 700 channels",
        shape=(CHANNELS,),
        classes=20,
        samples=10420,
        licence="CC BY 4.0",
        source="Cramer et al. 2020, arXiv 1910.07407",
        cited=("cramer2022heidelberg",),
        package="h5py",
        extra="data",
        events=True,
        users=12,
    ),
    decode=decode,
    archives=_ARCHIVES,
)
