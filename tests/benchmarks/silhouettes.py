"""Photographs inside a silhouette: textured within, exactly 0 without, as pictures of clothes are.

They stand in for Fashion-MNIST, which is not at hand: CIFAR-10 photographs (Krizhevsky 2009) in grey, the middle 28x28
of them, each cut out by a smooth random shape that covers 30 to 60 % of the picture. They are no clothes.
"""

from __future__ import annotations

import json
from functools import lru_cache

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray
from PIL import Image

from contract.datasets import data_dir

SIDE = 28
COVER = (0.3, 0.6)
_MARGIN = 2
_GREY = np.array([0.299, 0.587, 0.114])
"""Luma of ITU-R BT.601."""


def absent() -> str:
    """Why there are no photographs; empty when they are at hand."""
    folder = data_dir() / "cifar10"
    return "" if (folder / "labels.json").exists() else f"{folder} is not there: point SPIKELEAK_DATA at the test data"


@lru_cache(maxsize=1)
def _photographs() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    folder = data_dir() / "cifar10"
    rows = np.asarray(Image.open(folder / "cifar10_batch_0.png"))
    grey = np.round(rows.reshape(-1, 32, 32, 3) @ _GREY).astype(np.uint8)
    labels = json.loads((folder / "labels.json").read_text())["labels"]["0"]
    return grey[:, _MARGIN:-_MARGIN, _MARGIN:-_MARGIN], np.array(labels)


def _shape(rng: np.random.Generator) -> NDArray[np.bool_]:
    """The upper level set of smooth noise that falls off towards the edge, at a random cover."""
    across = np.linspace(-1, 1, SIDE)
    smooth = scipy.ndimage.gaussian_filter(rng.normal(size=(SIDE, SIDE)), 3.0)
    height = smooth / smooth.std() - 3.0 * (across[:, None] ** 2 + across**2)
    return np.asarray(height > np.quantile(height, 1 - rng.uniform(*COVER)))


def silhouettes(count: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Distinct photographs in silhouettes `[count, 1, 28, 28]` on the grid k/255, and their labels."""
    rng = np.random.default_rng([seed, 28])
    photographs, labels = _photographs()
    chosen = rng.choice(len(photographs), count, replace=False)
    shapes = np.array([_shape(rng) for _ in range(count)])
    return (photographs[chosen] * shapes)[:, None].astype(np.float32) / np.float32(255), labels[chosen]
