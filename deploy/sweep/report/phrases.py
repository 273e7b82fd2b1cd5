"""What a summary says of one configuration."""

from __future__ import annotations

from collections.abc import Sequence

from deploy.sweep.report import figures
from deploy.sweep.report.configurations import Configuration
from deploy.sweep.report.matrix import interval
from server.report import quantities

SAFE_DB = 15.0
"""Below this a digit's class can mostly not be told from the picture; the figure behind "below 15 dB"."""
MOST_NAMES = 6
"""Configurations that a sentence names."""


def several(count: int) -> str:
    """How many."""
    return f"{count} configuration{'' if count == 1 else 's'}"


def quoted(one: Configuration) -> str:
    """Its labels, set apart from the sentence."""
    return f"“{one.title}”"


def listed(found: Sequence[Configuration]) -> str:
    """The first few of them."""
    more = f"; and {len(found) - MOST_NAMES} more" if len(found) > MOST_NAMES else ""
    return "; ".join(quoted(one) for one in found[:MOST_NAMES]) + more


def spending(one: Configuration) -> str:
    """Of a training round, with provenance, n and interval."""
    return f"{quantities.energy(one.joules.value)} ({figures.joules(one.joules, one.provenance)})"


def size(one: Configuration) -> str:
    """Of an update, likewise."""
    return f"{bytes_text(one.bytes.value)} ({figures.sent(one.bytes)})"


def bytes_text(value: float | None) -> str:
    """Bytes with a binary prefix."""
    return quantities.data_size(None if value is None else round(value))


def level(one: Configuration) -> str:
    """Its median worst case, with n and interval."""
    value = "no image" if one.leakage.value is None else f"{one.leakage.value:.1f} dB"
    return f"{value} ({interval(one.leakage)})"
