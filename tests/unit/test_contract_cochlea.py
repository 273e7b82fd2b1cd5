"""Sound as bands over time."""

from __future__ import annotations

import io
import wave

import numpy as np
import pytest

from contract.cochlea import BANDS, FLOOR_DB, FRAMES, LOWEST_HZ, cochleagram, read_wav

RATE = 8000


def wav(values: np.ndarray, *, width: int = 2, channels: int = 1, rate: int = RATE) -> bytes:
    whole = np.rint(values * (2 ** (8 * width - 1) - 1))
    raw = (whole + 128).astype(np.uint8) if width == 1 else whole.astype(f"<i{width}")
    blob = io.BytesIO()
    with wave.open(blob, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(raw.tobytes())
    return blob.getvalue()


def tone(hertz: float, seconds: float = 0.5) -> np.ndarray:
    return 0.8 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE)


@pytest.mark.parametrize("hertz", [300.0, 1000.0, 2500.0])
def test_a_tone_is_loudest_in_its_band(hertz):
    heard = cochleagram(tone(hertz).astype(np.float32), RATE)
    assert heard.shape == (BANDS, FRAMES)
    low, high, here = (2595 * np.log10(1 + f / 700) for f in (LOWEST_HZ, RATE / 2, hertz))
    expected = (here - low) / (high - low) * (BANDS + 1) - 1
    assert abs(heard[:, 5:-5].mean(1).argmax() - expected) <= 1
    assert heard.max() == 1.0


def test_time_is_the_sound_s_own():
    half = np.concatenate([np.zeros(2000), tone(800.0, 0.25)]).astype(np.float32)
    heard = cochleagram(half, RATE).max(axis=0)
    assert heard[: FRAMES // 2 - 3].max() == 0.0
    assert heard[FRAMES // 2 + 3 : -3].min() > 0.9


def test_half_the_amplitude_is_six_decibels_less():
    sound = np.concatenate([tone(800.0), 0.5 * tone(800.0)]).astype(np.float32)
    heard = cochleagram(sound, RATE)
    band = heard.mean(1).argmax()
    difference = heard[band, 5 : FRAMES // 2 - 5].mean() - heard[band, FRAMES // 2 + 5 : -5].mean()
    assert FLOOR_DB * difference == pytest.approx(6.02, abs=0.3)


def test_levels_are_whole():
    heard = cochleagram(RWN, RATE)
    np.testing.assert_array_equal(
        np.rint(heard * 255) / 255 - heard, np.float32(np.rint(heard * 255) / 255) - heard * 1.0
    )
    assert cochleagram(np.zeros(100, np.float32), RATE).max() == 0.0
    assert cochleagram(np.ones(1, np.float32), RATE, bands=4, frames=3).shape == (4, 3)


RWN = np.random.default_rng(1).standard_normal(4000).astype(np.float32)


@pytest.mark.parametrize("width", [1, 2, 4])
def test_wav_of_each_width(width):
    sound, rate = read_wav(wav(tone(500.0), width=width))
    assert rate == RATE
    np.testing.assert_allclose(sound, tone(500.0), atol=2 / 2 ** (8 * width - 1) + 1e-6)


def test_channels_are_averaged():
    both = np.stack([tone(500.0), -tone(500.0)], axis=1).ravel()
    assert np.abs(read_wav(wav(both, channels=2))[0]).max() < 1e-4


@pytest.mark.parametrize("blob", [b"", b"RIFF", wav(np.zeros(0)), wav(tone(1.0), width=2)[:30], b"\0" * 100])
def test_broken_wav_is_refused(blob):
    with pytest.raises(ValueError, match="WAV"):
        read_wav(blob)


def test_sound_that_is_none_is_refused():
    for sound in (np.zeros(0, np.float32), np.array([np.nan], np.float32)):
        with pytest.raises(ValueError, match="expected finite ones"):
            cochleagram(sound, RATE)
