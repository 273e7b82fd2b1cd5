"""CIFAR-10 in the binary version, which holds what the Python version pickles; 5,000 images also as PNG pages."""

from __future__ import annotations

import json
import tarfile

import msgspec
import numpy as np
import numpy.typing as npt

from contract.datasets.archives import DAMAGED, damage, there, wanted
from contract.datasets.cache import Arrays, data_dir
from contract.datasets.info import Archive, DatasetInfo, Source
from contract.datasets.intensities import of_levels

SHAPE = (3, 32, 32)
RECORD_BYTES = 1 + 3072
_ARCHIVES = (
    Archive(
        path="cifar10/cifar-10-binary.tar.gz",
        url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        md5="c32a1d4ab5d03f1284b67883e8d87530",
    ),
)
_BATCHES = (*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin")
_TRAIN, _TEST, _FIRST_TEST = 4000, 1000, 50000
_PAGES = (*range(4), 50)
_LABELS = "cifar10/labels.json"
_INSTEAD = (*(f"cifar10/cifar10_batch_{page}.png" for page in _PAGES), _LABELS)


def _records() -> npt.NDArray[np.uint8]:
    """All 60,000 records `[60000, 3073]`: label, then 1,024 bytes each of red, green and blue, row by row."""
    (path,) = wanted("cifar10", _ARCHIVES)
    found: dict[str, npt.NDArray[np.uint8]] = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                name = member.name.rpartition("/")[2]
                file = archive.extractfile(member) if name in _BATCHES else None
                if file is not None:
                    found[name] = np.frombuffer(file.read(), dtype=np.uint8).reshape(-1, RECORD_BYTES)
        return np.concatenate([found[name] for name in _BATCHES])
    except DAMAGED as error:
        raise damage(path, error, _ARCHIVES[0]) from error


def _arrays(records: npt.NDArray[np.uint8]) -> Arrays:
    return Arrays(of_levels(records[:, 1:]).reshape(-1, *SHAPE), records[:, 0].astype(np.int64))


def decode() -> Arrays:
    """All images, the 50,000 for training first."""
    return _arrays(_records())


def decode_small() -> Arrays:
    """The first 4,000 training and the first 1,000 test images."""
    if there(_INSTEAD):
        return _pages()
    return _arrays(np.concatenate([(all_ := _records())[:_TRAIN], all_[_FIRST_TEST : _FIRST_TEST + _TEST]]))


def _pages() -> Arrays:
    """The same from PNG pages of 1,000 rows, each a whole image of 1,024 RGB pixels, and their labels."""
    from PIL import Image  # noqa: PLC0415 - not on a board

    folder, path = data_dir(), data_dir() / _LABELS
    try:
        labels = json.loads(path.read_text(encoding="utf-8"))["labels"]
        x = np.empty((1000 * len(_PAGES), *SHAPE), dtype=np.float32)
        for at, name in enumerate(_INSTEAD[:-1]):
            path = folder / name
            with Image.open(path) as page:
                pixels = np.asarray(page.convert("RGB"), dtype=np.uint8)
            x[1000 * at : 1000 * (at + 1)] = of_levels(pixels.reshape(1000, 32, 32, 3).transpose(0, 3, 1, 2))
        y = np.concatenate([np.asarray(labels[str(page)], dtype=np.int64) for page in _PAGES])
    except DAMAGED as error:
        raise damage(path, error) from error
    return Arrays(x, y)


SOURCE = Source(
    info=DatasetInfo(
        name="cifar10",
        title="CIFAR-10, all 60,000 pictures",
        shape=SHAPE,
        classes=10,
        samples=60000,
        licence="none stated; cite Krizhevsky 2009",
        source="Krizhevsky 2009, Learning multiple layers of features from tiny images",
        cited=("krizhevsky2009learning",),
        levels=True,
    ),
    decode=decode,
    archives=_ARCHIVES,
)
SMALL = Source(
    info=msgspec.structs.replace(
        SOURCE.info,
        name="cifar10_5k",
        title="CIFAR-10, the first 4,000 training and the first 1,000 test pictures",
        samples=5000,
        sha256="0e8aa93d978ee37dfa0fdb448180c7ae456d5b973cc2195c3ce17b230c9fbee1",
    ),
    decode=decode_small,
    archives=_ARCHIVES,
    instead=_INSTEAD,
)
