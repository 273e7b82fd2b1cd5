"""LPIPS, where the user brings its weights.

LPIPS (Zhang et al. 2018, arXiv 1801.03924) is a distance between deep features; its weights come with the package
`lpips` and with torchvision, not with this project. Exported once to ONNX they need no torch to be used::

    net = lpips.LPIPS(net="alex").eval()
    pair = (torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 64, 64))
    torch.onnx.export(net, pair, "lpips.onnx", input_names=["a", "b"], dynamic_axes={n: {2: "h", 3: "w"} for n in "ab"})

Needs onnxruntime, imported when a file is opened.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from contract.errors import ConfigurationError

SMALLEST_SIDE = 64
"""Images are enlarged to this side by repeating pixels: the deep layers of the usual networks need about 64."""

Array = npt.NDArray[Any]


class Perceptual:
    """LPIPS by a graph of the user's.

    Args:
        path: ONNX file with two inputs `[1, 3, H, W]` in [-1, 1] and one output of a single value.

    Raises:
        ConfigurationError: No such file, no onnxruntime, or not such a graph.
    """

    def __init__(self, path: Path) -> None:
        try:
            import onnxruntime  # noqa: PLC0415 - only who opens a file needs it
        except ImportError as error:
            raise ConfigurationError(f"lpips = {str(path)!r} needs onnxruntime ({error}): install it") from error
        if not path.is_file():
            raise ConfigurationError(f"lpips = {str(path)!r}: there is no such file")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            self._first, self._second = (given.name for given in self._session.get_inputs())
            zero = np.zeros((1, 3, SMALLEST_SIDE, SMALLEST_SIDE), dtype=np.float32)
            self._distance(zero, zero)
        except Exception as error:  # onnxruntime has no common base of its errors
            raise ConfigurationError(f"lpips = {str(path)!r}: not a graph of two images ({error})") from error

    def __call__(self, a: Array, b: Array) -> float | None:
        """Distance of two images; 0 for equal ones.

        Args:
            a: `[1, H, W]` or `[3, H, W]` in [0, 1].
            b: The same shape.

        Returns:
            `None` for samples that are not such images.
        """
        if a.ndim != 3 or a.shape[0] not in {1, 3}:
            return None
        return self._distance(_prepared(a), _prepared(b))

    def _distance(self, a: Array, b: Array) -> float:
        (found, *_) = self._session.run(None, {self._first: a, self._second: b})
        value = np.asarray(found)
        if value.size != 1:
            raise ValueError(f"it gives {value.size} values for a pair, one is expected")
        return float(value.reshape(()))


def _prepared(image: Array) -> Array:
    colour = np.broadcast_to(np.clip(image, 0.0, 1.0), (3, *image.shape[1:]))
    times = max(1, -(-SMALLEST_SIDE // min(image.shape[1:])))
    large = colour.repeat(times, axis=1).repeat(times, axis=2)
    return np.ascontiguousarray(2 * large[None] - 1, dtype=np.float32)
