"""Free Spoken Digits: 3,000 recordings of six people, as cochleagrams."""

from __future__ import annotations

import re
import zipfile

import numpy as np

from contract.cochlea import BANDS, FRAMES, cochleagram, read_wav
from contract.cochlea import CITED as COCHLEA
from contract.datasets.archives import DAMAGED, damage, there, wanted
from contract.datasets.cache import Arrays, data_dir
from contract.datasets.info import Archive, DatasetInfo, Source
from contract.datasets.intensities import numbered

_RECORDING = re.compile(r"recordings/(\d)_([a-z]+)_(\d+)\.wav$")
_ARCHIVES = (
    Archive(
        path="fsdd/free-spoken-digit-dataset.zip",
        url="https://github.com/Jakobovski/free-spoken-digit-dataset/archive/refs/heads/master.zip",
    ),
)
_RECORDINGS = "fsdd/fsdd_recordings.zip"
"""The recordings alone."""


def decode() -> Arrays:
    """All recordings by speaker, digit and number, as cochleagrams `[3000, 32, 64]` in whole 255ths."""
    path = data_dir() / _RECORDINGS if there((_RECORDINGS,)) else wanted("fsdd", _ARCHIVES)[0]
    try:
        with zipfile.ZipFile(path) as archive:
            names = {(m[2], int(m[1]), int(m[3])): m.string for m in map(_RECORDING.search, archive.namelist()) if m}
            x = np.stack([cochleagram(*read_wav(archive.read(names[key]))) for key in sorted(names)])
    except DAMAGED as error:
        raise damage(path, error) from error
    labels = np.array([digit for _, digit, _ in sorted(names)], dtype=np.int64)
    users = numbered([speaker for speaker, _, _ in sorted(names)])
    return Arrays(x, labels, users)


SOURCE = Source(
    info=DatasetInfo(
        name="fsdd",
        title="Free Spoken Digits, 3,000 recordings as cochleagrams: 32 bands over 64 moments",
        shape=(BANDS, FRAMES),
        classes=10,
        samples=3000,
        licence="CC BY-SA 4.0",
        source="Jackson et al., Free Spoken Digit Dataset, doi 10.5281/zenodo.1342401",
        cited=("jackson2018free", *COCHLEA),
        levels=True,
        series=True,
        users=6,
        sha256="dd4b4e9785b0dcb666c6d4e2578c84bc9cfc55e84a4730e10ec858393b0d1dca",
    ),
    decode=decode,
    archives=_ARCHIVES,
    instead=(_RECORDINGS,),
)
