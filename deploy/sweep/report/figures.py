"""What stands under a figure: how it came about, its n, and its interval or why it has none."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from deploy.sweep.estimates import Estimate, share
from server.report.quantities import MISSING, count, data_size, decibel, energy, percent


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """What stands under a figure.

    Attributes:
        lines: For a table: provenance and n, then the bare interval.
        text: For a sentence.
    """

    lines: tuple[str, ...]
    text: str

    def __str__(self) -> str:
        return self.text


def note(one: Estimate, how: str, text: Callable[[float], str], of: str = "run", without: str = "not in all") -> Note:
    """E.g. `modelled, n = 3 runs, 95 % CI 0.41 to 0.45 J`.

    Args:
        one: The figure.
        how: Its provenance.
        text: A value as it is shown.
        of: What n counts.
        without: Why there is no value although there is an n.
    """
    number, what = f"n = {count(one.n)}", f"{of}{'' if one.n == 1 else 's'}"
    if one.n == 0:
        return Note(lines=(f"no {of} has it",), text=f"no {of} has it")
    if one.equal:
        return Note(lines=(f"{how}, {number}", "equal in all"), text=f"{how}, equal in all {number} {what}")
    said: tuple[str, ...] = () if one.value is not None else (without,)
    if one.low is not None or one.high is not None:
        said += (ends(one, text),)
    interval = f"95 % CI {ends(one, text)}" if ends(one, text) else ""
    if one.low is not None and one.high is not None and one.low < one.high and text(one.low) == text(one.high):
        said, interval = ("CI within rounding",), "95 % CI within rounding"
    parts = [f"{how}, {number} {what}", without if one.value is None else "", interval]
    return Note(lines=(f"{how}, {number}", *said), text=", ".join(part for part in parts if part))


def ends(one: Estimate, text: Callable[[float], str] = decibel) -> str:
    """The 95 % interval alone; nothing without one, a dash for an end that falls on trials without a figure."""
    if one.low is None and one.high is None:
        return ""
    low, high = (MISSING if end is None else text(end) for end in (one.low, one.high))
    return f"{low} to {high}"


def joules(one: Estimate, how: str) -> Note:
    """Of joules."""
    return note(one, how, energy)


def accuracy(one: Estimate) -> Note:
    """Of accuracies."""
    return note(one, "evaluated", percent)


def sent(one: Estimate) -> Note:
    """Of bytes."""
    return note(one, "counted", lambda value: data_size(round(value)))


def leak(one: Estimate, how: str = "scored", of: str = "update") -> Note:
    """Of PSNRs in dB."""
    return note(one, how, decibel, of, without="half without an image")


def certified(one: Estimate) -> Note:
    """Of shares of updates."""
    return note(one, "counted", percent, "update")


def held_out(share_right: float | None, samples: int) -> str:
    """Of an accuracy on held-out samples: n, and the interval of another draw of these samples."""
    if share_right is None or not samples:
        return ""
    right = share(round(share_right * samples), samples)
    return f"n = {count(samples)} held out; {ends(right, lambda value: f'{100 * value:.1f}')}"
