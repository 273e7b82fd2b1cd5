"""The errors of this room.

ValueError
└── MeterError   a specification, trace, profile or count that cannot be used

A meter that is there but cannot be read is no error: it gives an `unavailable` reading with the reason.
"""

from __future__ import annotations


class MeterError(ValueError):
    """What the user or the caller gave cannot be used. The message names value, limit and remedy."""
