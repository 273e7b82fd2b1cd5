"""Numbers as text and samples as pictures."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from server.report.images import data_uri, png, raster
from server.report.quantities import count, data_size, decibel, duration, energy, large, percent, significant

NARROW = "\u202f"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (energy(0.0123), "12.3 mJ"),
        (energy(2.5), "2.50 J"),
        (energy(1234.5), "1 234 J"),
        (energy(4.6e-12), "4.60 pJ"),
        (energy(0.0), "0 J"),
        (energy(None), "—"),
        (percent(0.9123), "91.2 %"),
        (percent(None), "—"),
        (decibel(200.0), "200.0"),
        (decibel(None), "—"),
        (count(1234567), "1 234 567"),
        (count(0), "0"),
        (count(None), "—"),
        (data_size(0), "0 B"),
        (data_size(1536), "1.50 KiB"),
        (data_size(16_315_030), "15.6 MiB"),
        (data_size(None), "—"),
        (duration(0.0004), "0.40 ms"),
        (duration(0.5), "0.50 s"),
        (duration(42.0), "42.0 s"),
        (duration(125.4), "2 min 05 s"),
        (duration(None), "—"),
        (large(128_000_000), "128 M"),
        (large(1080), "1.08 k"),
        (large(7), "7"),
        (large(0), "0"),
        (significant(0.004813), "0.00481"),
        (significant(1.5e9), "1.50e+09"),
    ],
)
def test_text_of_a_quantity(text: str, expected: str) -> None:
    assert text.replace(NARROW, " ") == expected


@given(st.floats(1e-12, 1e5))
def test_energy_keeps_three_digits(value_j: float) -> None:
    number, unit = energy(value_j).rsplit(NARROW, 1)
    factor = {"J": 1.0, "mJ": 1e-3, "µJ": 1e-6, "nJ": 1e-9, "pJ": 1e-12}[unit]
    assert float(number.replace(NARROW, "")) * factor == pytest.approx(value_j, rel=6e-3)


@pytest.mark.parametrize("shape", [(1, 5, 7), (3, 5, 7), (5, 7)])
def test_png_is_what_another_program_reads(shape: tuple[int, ...]) -> None:
    pixels = raster(np.random.default_rng(0).random(shape, dtype=np.float32))
    with Image.open(io.BytesIO(png(pixels))) as image:
        assert image.mode == ("RGB" if shape[0] == 3 else "L")
        np.testing.assert_array_equal(np.asarray(image).reshape(pixels.shape), pixels)


def test_pixels_are_enlarged_without_smoothing() -> None:
    uri = data_uri(np.array([[0.0, 1.0], [0.5, 0.25]], dtype=np.float32))
    with Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,")))) as image:
        pixels = np.asarray(image)
    assert pixels.shape == (112, 112)
    assert sorted(np.unique(pixels)) == [0, 64, 128, 255]


def test_values_out_of_range_are_clipped_and_others_black() -> None:
    pixels = raster(np.array([[-3.0, 7.0], [np.nan, np.inf]], dtype=np.float32))
    assert pixels[..., 0].tolist() == [[0, 255], [0, 255]]


def test_a_vector_becomes_a_strip() -> None:
    assert raster(np.zeros(12, dtype=np.float32)).shape == (3, 12, 1)


def test_a_long_series_of_few_channels_is_drawn_as_curves() -> None:
    series = np.stack([np.linspace(0, 1, 128), np.full(128, 0.5)]).astype(np.float32)
    pixels = raster(series)[..., 0]
    rising, level = pixels[:56], pixels[56:]
    assert pixels.shape == (112, 128)
    assert rising[:, 0].argmin() == 55  # the smallest value lowest
    assert rising[:, -1].argmin() == 0
    assert (rising == 0).sum(axis=0).min() >= 1
    assert np.ptp(level.argmin(axis=0)) == 0
    assert raster(np.zeros((32, 64), dtype=np.float32)).shape == (32, 64, 1)
