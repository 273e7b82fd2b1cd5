"""The idx format of MNIST and its kin: four gzipped files, 60,000 images to train and 10,000 to test."""

from __future__ import annotations

import gzip
import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from contract.datasets.archives import DAMAGED, damage, wanted
from contract.datasets.cache import Arrays, Indices, data_dir
from contract.datasets.info import Archive, DatasetInfo, Source
from contract.datasets.intensities import of_levels

SHAPE = (1, 28, 28)
_FILES = tuple(f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))
BLOCK = 512
"""Images of an archive that are decoded at a time."""
Images = npt.NDArray[np.float32]


class IdxSet:
    """Images and labels of one data set.

    Args:
        info: What it is.
        folder: Where its files lie, below the data folder.
        url: Where they come from, without their names.
        md5: Of training images and labels, test images and labels.
    """

    def __init__(self, info: DatasetInfo, folder: str, url: str, md5: tuple[str, str, str, str]) -> None:
        self.name, self.info = info.name, info
        self.archives = tuple(
            Archive(path=f"{folder}/{file}", url=f"{url}/{file}", md5=digest)
            for file, digest in zip(_FILES, md5, strict=True)
        )

    @property
    def source(self) -> Source:
        """The set and how it is read."""
        return Source(info=self.info, decode=self.whole, archives=self.archives, pieces=self.pieces)

    def whole(self) -> Arrays:
        """All images, those for training first.

        Raises:
            ConfigurationError: An archive is not there.
            EnvironmentFaultError: One is damaged.
        """
        y, blocks = self.pieces()
        x = np.empty((len(y), *SHAPE), dtype=np.float32)
        at = 0
        for block in blocks:
            if at + len(block) > len(y):
                raise damage(data_dir() / self.name, ValueError(f"more images than the {len(y)} labels"))
            x[at : at + len(block)] = block
            at += len(block)
        return Arrays(x[:at], y)

    def pieces(self) -> tuple[Indices, Iterator[Images]]:
        """The labels, and the images `BLOCK` at a time: never all in memory; raises as `whole`."""
        wanted(self.name, self.archives)
        _, train, _, test = self.archives
        y = np.concatenate([b for archive in (train, test) for b in _blocks(archive)]).astype(np.int64)
        return y, self._images()

    def _images(self) -> Iterator[Images]:
        for archive in self.archives[::2]:
            for block in _blocks(archive):
                yield of_levels(block).reshape(-1, *SHAPE)


def _blocks(archive: Archive) -> Iterator[npt.NDArray[np.uint8]]:
    """An idx file of bytes, some rows at a time: ``u16 0 | u8 type 8 | u8 axes | axes × u32 big-endian | data``."""
    try:
        with gzip.open(data_dir() / archive.path) as file:
            head = file.read(4)
            if head[:3] != b"\x00\x00\x08" or len(head) < 4:
                raise ValueError(f"begins with {head[:3].hex()}, an idx file of bytes with 000008")
            rows, *shape = (int(n) for n in np.frombuffer(file.read(4 * head[3]), dtype=">u4", count=head[3]))
            for at in range(0, rows, BLOCK):
                count = min(BLOCK, rows - at)
                block = np.frombuffer(file.read(count * math.prod(shape)), dtype=np.uint8)
                yield block.reshape(count, *shape)
    except DAMAGED as error:
        raise damage(data_dir() / archive.path, error, archive) from error
