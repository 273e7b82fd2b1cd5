"""Samples as PNG data URIs, enlarged without smoothing."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np

from server.report.data import Image

_SIDE_PX = 112
_BAND_PX = 16
_CURVES = 16
"""Channels up to which a series is drawn as curves."""
_LONG = 4
"""Moments a channel from which an array is a series and no image."""


def data_uri(image: Image) -> str:
    """A sample as a PNG inside a `data:` address.

    Args:
        image: `[C, H, W]` with C = 1 or 3, `[H, W]`, a long series `[channels, moments]` of few channels,
            shown as curves, or a vector `[N]`, shown as a strip; values are clipped to [0, 1],
            whatever is not finite becomes 0.
    """
    return "data:image/png;base64," + base64.b64encode(png(enlarge(raster(image)))).decode("ascii")


def raster(image: Image) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Pixels `[H, W, C]` as bytes; C is 1 or 3, further channels are averaged into one."""
    array = np.nan_to_num(np.asarray(image, dtype=np.float64), nan=0.0, posinf=1.0, neginf=0.0)
    if array.ndim == 2 and len(array) <= _CURVES and array.shape[1] >= _LONG * len(array):
        array = curves(array)
    if array.ndim == 1:
        array = np.tile(array, (max(1, array.size // 4), 1))
    if array.ndim == 3:
        array = np.moveaxis(array, 0, -1) if array.shape[0] in {1, 3} else array.mean(axis=0)
    if array.ndim == 2:
        array = array[:, :, None]
    return np.rint(np.clip(array, 0.0, 1.0) * 255.0).astype(np.uint8)


def curves(
    series: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """A series `[channels, moments]` as dark curves on white, one band of rows a channel, first channel on top."""
    height = max(_BAND_PX, _SIDE_PX // len(series))
    rows = np.rint((1 - np.clip(series, 0.0, 1.0)) * (height - 1)).astype(np.intp)
    before = np.concatenate([rows[:, :1], rows[:, :-1]], axis=1)
    low, high = np.minimum(rows, before)[:, None], np.maximum(rows, before)[:, None]
    places = np.arange(height)[None, :, None]
    drawn = (places >= low) & (places <= high)
    return np.asarray(1.0 - drawn.reshape(len(series) * height, -1), dtype=np.float64)


def enlarge(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Each pixel as a square block, so that the larger side has at least 112 pixels."""
    factor = max(1, -(-_SIDE_PX // max(pixels.shape[:2])))
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)


def png(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    """A PNG file (W3C PNG, third edition) of 8-bit grey `[H, W, 1]` or RGB `[H, W, 3]` pixels."""
    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    rows = np.zeros((height, 1 + width * channels), dtype=np.uint8)
    rows[:, 1:] = pixels.reshape(height, width * channels)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        (_chunk(b"IHDR", header), _chunk(b"IDAT", zlib.compress(rows.tobytes(), 9)), _chunk(b"IEND", b""))
    )


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
