"""What stands under a figure: how it came about, its n, and its interval or why it has none."""

from __future__ import annotations

from collections.abc import Callable

from deploy.sweep.estimates import Estimate
from server.report.quantities import MISSING, count, data_size, decibel, energy, percent


def note(one: Estimate, how: str, text: Callable[[float], str], of: str = "run") -> str:
    """E.g. `modelled, n = 3 runs, 95 % CI 0.41 to 0.45 J`.

    Args:
        one: The figure.
        how: Its provenance.
        text: A value as it is shown.
        of: What n counts.
    """
    counted = f"n = {count(one.n)} {of}{'' if one.n == 1 else 's'}"
    if one.n == 0:
        return f"no {of} has it"
    if one.equal:
        return f"{how}, equal in all {counted}"
    if one.low is None and one.high is None:
        return f"{how}, {counted}" if one.value is not None else f"{how}, known of {counted} alone"
    return f"{how}, {counted}, 95 % CI {ends(one, text)}"


def ends(one: Estimate, text: Callable[[float], str] = decibel) -> str:
    """The 95 % interval alone; nothing without one, a dash for an end that falls on trials without a figure."""
    if one.low is None and one.high is None:
        return ""
    low, high = (MISSING if end is None else text(end) for end in (one.low, one.high))
    return f"{low} to {high}"


def joules(one: Estimate, how: str) -> str:
    """Of joules."""
    return note(one, how, energy)


def accuracy(one: Estimate, held_out: int | None) -> str:
    """Of accuracies, with the samples that each was evaluated on."""
    on = "" if held_out is None else f" on {count(held_out)} samples each"
    return note(one, f"evaluated{on}", percent)


def sent(one: Estimate) -> str:
    """Of bytes."""
    return note(one, "counted", lambda value: data_size(round(value)))


def leak(one: Estimate, how: str = "scored", of: str = "update") -> str:
    """Of PSNRs in dB."""
    return note(one, how, decibel, of)


def certified(one: Estimate) -> str:
    """Of shares of updates."""
    return note(one, "counted", percent, "update")
