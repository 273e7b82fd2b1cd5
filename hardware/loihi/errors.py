"""The errors of this folder.

ValueError
└── ChipError             a network or an input that the chip cannot take
RuntimeError
└── NoLavaError           lava's environment is not there, or its process failed
"""

from __future__ import annotations


class ChipError(ValueError):
    """A network or an input that does not fit the chip. The message names value, limit and remedy."""


class NoLavaError(RuntimeError):
    """Lava cannot be run here. The message says why, and how its environment is made."""
