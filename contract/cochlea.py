"""Sound as a cochlea hears it, roughly: energy in bands that widen with their frequency, compressed, over time.

A *cochleagram* is a series `[bands, moments]` in [0, 1]; encoding `integrate` turns it into the spikes of one nerve a
band, `delta` into onsets and offsets. numpy and the standard library only: a device does this to its own microphone's
sound. What comes out is rounded to 255ths, so that machines whose logarithms differ in the last bit agree.
"""

from __future__ import annotations

import io
import wave
from functools import lru_cache

import numpy as np
import numpy.typing as npt

BANDS, FRAMES = 32, 64
LOWEST_HZ = 100.0
WINDOW_S = 0.032
FLOOR_DB = 60.0
"""How far below its loudest place a recording is taken to be silent."""
CITED = ("stevens1937scale", "davis1980comparison")
"""Keys of the works that the bands follow (`contract.citations`)."""

Sound = npt.NDArray[np.float32]


def read_wav(blob: bytes) -> tuple[Sound, int]:
    """A WAV file of 8, 16 or 32 bit PCM, its channels averaged.

    Returns:
        Samples in [-1, 1], and how many of them a second.

    Raises:
        ValueError: It is no such file, or empty.
    """
    try:
        with wave.open(io.BytesIO(blob)) as file:
            width, channels, rate = file.getsampwidth(), file.getnchannels(), file.getframerate()
            data = file.readframes(file.getnframes())
    except (wave.Error, EOFError) as error:
        raise ValueError(f"no PCM WAV file: {error}") from error
    if width not in {1, 2, 4} or len(data) < width * channels:
        raise ValueError(f"WAV of {8 * width} bits and {len(data)} bytes: expected 8, 16 or 32 bits, and some sound")
    raw = np.frombuffer(
        data[: len(data) - len(data) % (width * channels)], dtype=f"<{'u' if width == 1 else 'i'}{width}"
    )
    values = (raw.astype(np.float64) - (128 if width == 1 else 0)) / 2.0 ** (8 * width - 1)
    return values.reshape(-1, channels).mean(axis=1).astype(np.float32), rate


def cochleagram(sound: Sound, rate_hz: int, *, bands: int = BANDS, frames: int = FRAMES) -> npt.NDArray[np.float32]:
    """Loudness in bands over the sound's own length.

    Hann windows of 32 ms stand at equal distances from the sound's begin to its end, whatever its length; their power
    spectra are summed in triangular bands, equally spaced on the mel scale ``2595 log10(1 + f / 700)`` from 100 Hz to
    half the rate (Stevens, Volkmann and Newman 1937; Davis and Mermelstein 1980). Decibels below the loudest place,
    0 to -60, become 1 to 0.

    Args:
        sound: Samples, at least one.
        rate_hz: Samples a second.
        bands: Number of bands.
        frames: Number of moments.

    Returns:
        `[bands, frames]` in [0, 1], in whole 255ths; zeros of silence.

    Raises:
        ValueError: No sample, or one that is not finite.
    """
    if not sound.size or not np.isfinite(sound).all():
        raise ValueError(f"sound of {sound.size} samples: expected finite ones, at least one")
    width = round(WINDOW_S * rate_hz)
    size = 2 * width
    wide = np.concatenate([np.zeros(width // 2), sound, np.zeros(width)])
    starts = np.arange(frames) * max(len(sound) - 1, 0) // max(frames - 1, 1)
    pieces = np.stack([wide[at : at + width] for at in starts]) * np.hanning(width)
    power = np.abs(np.fft.rfft(pieces, size)) ** 2
    # Not by BLAS: for so little its threads cost more than they do, and its sums differ between processors.
    energy = np.einsum("tf,bf->tb", power, _filters(bands, size, rate_hz))
    loudest = energy.max()
    if loudest <= 0:
        return np.zeros((bands, frames), dtype=np.float32)
    decibels = 10 * np.log10(np.maximum(energy / loudest, 10 ** (-FLOOR_DB / 10)))
    levels = np.rint(255 * (1 + decibels.T / FLOOR_DB))
    return np.asarray(levels / 255, dtype=np.float32)


@lru_cache(maxsize=4)
def _filters(bands: int, size: int, rate_hz: int) -> npt.NDArray[np.float64]:
    """Triangles `[bands, size / 2 + 1]` of height 1 over the frequencies of a spectrum."""
    low, high = (2595 * np.log10(1 + f / 700) for f in (LOWEST_HZ, rate_hz / 2))
    edges = 700 * (10 ** (np.linspace(low, high, bands + 2) / 2595) - 1)
    frequencies = np.arange(size // 2 + 1) * rate_hz / size
    rising: npt.NDArray[np.float64] = (frequencies - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - frequencies) / np.diff(edges)[1:, None]
    return np.asarray(np.maximum(np.minimum(rising, falling), 0), dtype=np.float64)
