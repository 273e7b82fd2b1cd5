"""The idx format of MNIST and its kin: four gzipped files, 60,000 images to train and 10,000 to test."""

from __future__ import annotations

import gzip
import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from contract.datasets.archives import DAMAGED, damage, wanted
from contract.datasets.cache import Arrays, Indices, data_dir
from contract.datasets.info import Archive

BLOCK = 512
"""Images of an archive that are decoded at a time."""
Images = npt.NDArray[np.float32]


class IdxSet:
    """Images and labels of one data set.

    Args:
        name: The data set.
        archives: Training images and labels, test images and labels.
    """

    def __init__(self, name: str, archives: tuple[Archive, Archive, Archive, Archive]) -> None:
        self.name, self.archives = name, archives

    def whole(self) -> Arrays:
        """All images, those for training first.

        Raises:
            ConfigurationError: An archive is not there.
            EnvironmentFaultError: One is damaged.
        """
        y, blocks = self.pieces()
        x = np.empty((len(y), 1, 28, 28), dtype=np.float32)
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
        levels = (np.arange(256) / 255).astype(np.float32)
        for archive in self.archives[::2]:
            for block in _blocks(archive):
                yield levels[block].reshape(-1, 1, 28, 28)


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
