"""ECG5000: heart beats of one patient with heart failure, one lead (UCR archive, after the BIDMC database)."""

from __future__ import annotations

import gzip
import io
import re
import zipfile

import msgspec
import numpy as np

from contract.datasets.archives import DAMAGED, damage, there, wanted
from contract.datasets.cache import Arrays, data_dir
from contract.datasets.info import Archive, DatasetInfo, Source
from contract.datasets.intensities import centred

READINGS = 140
SPAN = 8.0
"""Standard deviations, of each beat's own, at which intensities end."""
_ARCHIVES = (
    Archive(
        path="ecg/ECG5000.zip",
        url="https://www.timeseriesclassification.com/aeon-toolkit/ECG5000.zip",
    ),
)
_TRAIN = "ecg/ECG5000_TRAIN.txt.gz"
"""The training split alone."""


def decode() -> Arrays:
    """All 5,000 beats `[N, 1, 140]`, the 500 for training first."""
    return _arrays([_member("TRAIN"), _member("TEST")])


def decode_train() -> Arrays:
    """The 500 beats of the training split."""
    if not there((_TRAIN,)):
        return _arrays([_member("TRAIN")])
    path = data_dir() / _TRAIN
    try:
        with gzip.open(path) as file:
            return _arrays([file.read()])
    except DAMAGED as error:
        raise damage(path, error) from error


def _member(split: str) -> bytes:
    (path,) = wanted("ecg5000", _ARCHIVES)
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(n for n in archive.namelist() if re.search(rf"(?:^|/)ECG5000_{split}\.txt$", n))
            return archive.read(name)
    except StopIteration:
        raise damage(path, ValueError(f"it holds no ECG5000_{split}.txt")) from None
    except DAMAGED as error:
        raise damage(path, error) from error


def _arrays(texts: list[bytes]) -> Arrays:
    """Rows of a class from 1 and 140 readings, separated by blanks."""
    try:
        table = np.concatenate([np.loadtxt(io.BytesIO(text), ndmin=2) for text in texts])
    except ValueError as error:
        raise damage(data_dir() / "ecg", error) from error
    if table.shape[1] != 1 + READINGS:
        wrong = ValueError(f"rows of {table.shape[1]} numbers, expected a class and {READINGS} readings")
        raise damage(data_dir() / "ecg", wrong)
    return Arrays(centred(table[:, 1:], SPAN)[:, None], table[:, 0].astype(np.int64) - 1)


SOURCE = Source(
    info=DatasetInfo(
        name="ecg5000",
        title="ECG5000, 5,000 heart beats in five classes, 58 % of them normal",
        shape=(1, READINGS),
        classes=5,
        samples=5000,
        licence="ODC-By, as the BIDMC Congestive Heart Failure Database of PhysioNet",
        source="Chen and Keogh 2015, UCR Time Series Classification Archive; Goldberger et al. 2000, PhysioNet",
        cited=("chen2015ucr", "goldberger2000physiobank"),
        series=True,
    ),
    decode=decode,
    archives=_ARCHIVES,
)
TRAIN = Source(
    info=msgspec.structs.replace(
        SOURCE.info,
        name="ecg5000_train",
        title="ECG5000, the 500 beats of the training split",
        samples=500,
        sha256="ba2ef485329d9dc11e7b274782d26314d3bcfb0b29a7c4ef879cdc37eb7d809f",
    ),
    decode=decode_train,
    archives=_ARCHIVES,
    instead=(_TRAIN,),
)
