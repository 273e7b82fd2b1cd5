"""What a look for a meter found."""

from __future__ import annotations

import msgspec


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One known meter on this machine: there, or not there and why.

    Attributes:
        meter: Name as in `hardware.meter.METERS`.
        available: Whether it gave a figure when asked.
        detail: What it covers where it is available; otherwise the reason and the remedy.
    """

    meter: str
    available: bool
    detail: str
