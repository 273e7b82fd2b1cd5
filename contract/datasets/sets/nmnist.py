"""N-MNIST: MNIST as an event camera saw it (Orchard et al. 2015, arXiv 1507.07629)."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from contract.datasets.archives import DAMAGED, damage, there, wanted
from contract.datasets.cache import Arrays, data_dir
from contract.datasets.events import Masks, event_masks
from contract.datasets.info import Archive, DatasetInfo, Source

SHAPE = (2, 34, 34)
EVENT_BYTES = 5
_RECORDING = re.compile(r"(?:^|/)(Train|Test)/(\d)/(\d{5})\.bin$")
_KEPT = {"Train": 1000, "Test": 100}


def _archive(file: str, key: str, md5: str) -> Archive:
    host = "https://data.mendeley.com/public-files/datasets/468j46mzdv/files"
    return Archive(path=f"nmnist/{file}", url=f"{host}/{key}/file_downloaded", md5=md5)


_ARCHIVES = (
    _archive("Train.zip", "39c25547-014b-4137-a934-9d29fa53c7a0", "20959b8e626244a1b502305a9e6e2031"),
    _archive("Test.zip", "05a4d654-7e03-4c15-bdfa-9bb2bcbea494", "69ca8762b2fe404d9b9bad1103e97832"),
)
_SMALL = "nmnist/nmnist_small.zip"
"""The same recordings alone."""


def decode() -> Arrays:
    """The first 1,000 training and the first 100 test recordings as event masks `[1100, 2, 34, 34]`."""
    paths = [data_dir() / _SMALL] if there((_SMALL,)) else wanted("nmnist", _ARCHIVES)
    found: dict[tuple[bool, int], tuple[int, Masks]] = {}
    for path in paths:
        try:
            for key, label, blob in _recordings(path):
                found[key] = (label, event_mask(blob))
        except DAMAGED as error:
            raise damage(path, error) from error
    ordered = [found[key] for key in sorted(found)]
    masks = np.array([mask for _, mask in ordered], dtype=np.uint64)
    return Arrays(masks, np.array([label for label, _ in ordered], dtype=np.int64))


def _recordings(path: Path) -> Iterator[tuple[tuple[bool, int], int, bytes]]:
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            match = _RECORDING.search(name)
            if match and int(match[3]) <= _KEPT[match[1]]:
                yield (match[1] == "Test", int(match[3])), int(match[2]), archive.read(name)


def event_mask(blob: bytes) -> Masks:
    """Event mask `[polarity, y, x]` of a recording in the N-MNIST format.

    Five bytes an event: x, y, then big-endian one bit of polarity and 23 bits of microseconds.

    Raises:
        ValueError: A broken event, or one outside the sensor.
    """
    if not blob or len(blob) % EVENT_BYTES:
        raise ValueError(f"recording of {len(blob)} bytes: expected {EVENT_BYTES} an event, and at least one")
    raw = np.frombuffer(blob, dtype=np.uint8).reshape(-1, EVENT_BYTES).astype(np.int64)
    x, y, on = raw[:, 0], raw[:, 1], raw[:, 2] >> 7
    time_us = ((raw[:, 2] & 0x7F) << 16) | (raw[:, 3] << 8) | raw[:, 4]
    if x.max() >= SHAPE[2] or y.max() >= SHAPE[1]:
        raise ValueError(f"event at ({x.max()}, {y.max()}), the sensor has {SHAPE[2]}×{SHAPE[1]} pixels")
    return event_masks(time_us, (on, y, x), SHAPE)


SOURCE = Source(
    info=DatasetInfo(
        name="nmnist",
        title="N-MNIST, 1,100 event recordings: the first 1,000 to train and the first 100 to test",
        shape=SHAPE,
        classes=10,
        samples=1100,
        licence="CC BY-SA 4.0",
        source="Orchard et al. 2015, arXiv 1507.07629; doi 10.17632/468j46mzdv",
        cited=("orchard2015converting", "lecun1998gradient"),
        events=True,
        sha256="3bc1a03d3aafec6baafb001215a3da9c58bc9f0535e8e2b954d3721e278247c7",
    ),
    decode=decode,
    archives=_ARCHIVES,
    instead=(_SMALL,),
)
