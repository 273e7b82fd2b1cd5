"""Seeded random streams: one seed, many purposes, no purpose sees another's draws."""

from __future__ import annotations

import zlib

import numpy as np


def stream(seed: int, *purpose: str | int) -> np.random.Generator:
    """A generator for one purpose under one seed.

    Args:
        seed: The task's seed, not negative.
        purpose: Names and numbers that tell this stream from all others, for example `"parameters"`.

    Returns:
        PCG64, seeded with the seed and a CRC-32 of each name: equal on every machine.
    """
    key = [p if isinstance(p, int) else zlib.crc32(p.encode()) for p in purpose]
    return np.random.default_rng([seed, *key])
