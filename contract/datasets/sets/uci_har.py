"""UCI HAR: six activities of 30 people, a phone's accelerometer and gyroscope at the waist (Anguita et al. 2013)."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Mapping

import msgspec
import numpy as np

from contract.datasets.archives import DAMAGED, damage, there, wanted
from contract.datasets.cache import Arrays, Indices, data_dir
from contract.datasets.info import Archive, DatasetInfo, Source
from contract.datasets.intensities import centred, numbered

SPANS = {"body_acc": 1.5, "body_gyro": 4.0, "total_acc": 2.5}
"""Readings at which intensities end: g, rad/s, g."""
CHANNELS = tuple((sensor, axis) for sensor in SPANS for axis in "xyz")
READINGS = 128
_FILE = re.compile(r"(?:^|/)((?:body_acc|body_gyro|total_acc)_[xyz]|y|subject)_(train|test)\.(?:txt|csv)$")
_ARCHIVES = (
    Archive(
        path="uci-har/UCI HAR Dataset.zip",
        url="https://archive.ics.uci.edu/ml/machine-learning-databases/00240/UCI%20HAR%20Dataset.zip",
    ),
)
_TEST = "uci-har/uci_har_test_inertial.zip"
"""The test split alone, comma-separated."""
Table = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def decode() -> Arrays:
    """All 10,299 windows `[N, 9, 128]`, those for training first; users as the set numbers them, less 1."""
    (path,) = wanted("uci_har", _ARCHIVES)
    tables = _tables(path.name)
    train, test = (_part(tables, split) for split in ("train", "test"))
    subjects = np.concatenate([_subjects(train), _subjects(test)])
    return Arrays(np.concatenate([train.x, test.x]), np.concatenate([train.y, test.y]), subjects - 1)


def decode_test() -> Arrays:
    """The 2,947 windows of the nine people of the test split, numbered from 0."""
    path = data_dir() / _TEST if there((_TEST,)) else wanted("uci_har_test", _ARCHIVES)[0]
    part = _part(_tables(path.name), "test")
    return Arrays(part.x, part.y, numbered(_subjects(part)))


def _subjects(part: Arrays) -> Indices:
    assert part.users is not None
    return part.users


def _tables(file: str) -> Mapping[tuple[str, str], Table]:
    """The tables of an archive by what they hold and of which split."""
    path = data_dir() / "uci-har" / file
    found: dict[tuple[str, str], Table] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                match = _FILE.search(name)
                if match and "__MACOSX" not in name:
                    text = archive.read(name).replace(b",", b" ")
                    found[match[1], match[2]] = np.loadtxt(io.BytesIO(text), ndmin=2)
    except DAMAGED as error:
        raise damage(path, error) from error
    return found


def _part(tables: Mapping[tuple[str, str], Table], split: str) -> Arrays:
    """The windows of one split, their activities from 0, and their subjects as the set numbers them."""
    try:
        channels = [centred(tables[f"{sensor}_{axis}", split], SPANS[sensor]) for sensor, axis in CHANNELS]
        y, subjects = (tables[name, split][:, 0].astype(np.int64) for name in ("y", "subject"))
        return Arrays(np.stack(channels, axis=1), y - 1, subjects)
    except DAMAGED as error:
        raise damage(data_dir() / "uci-har", error) from error


SOURCE = Source(
    info=DatasetInfo(
        name="uci_har",
        title="UCI HAR, 10,299 windows of 2.56 s (half of each in the next), six activities of 30 people",
        shape=(9, READINGS),
        classes=6,
        samples=10299,
        licence="as is, no commercial use; cite Anguita et al. 2013",
        source="Anguita et al. 2013, ESANN; UCI Machine Learning Repository, doi 10.24432/C54S4K",
        cited=("anguita2013public",),
        series=True,
        users=30,
    ),
    decode=decode,
    archives=_ARCHIVES,
)
TEST = Source(
    info=msgspec.structs.replace(
        SOURCE.info,
        name="uci_har_test",
        title="UCI HAR, the 2,947 windows of the nine people of the test split",
        samples=2947,
        users=9,
        sha256="dfea773ed7eea0e748fd3c305a3b2b459dccc5b1e894a3ae9a589ef4cc3e90bd",
    ),
    decode=decode_test,
    archives=_ARCHIVES,
    instead=(_TEST,),
)
