"""Numbers as text: units, prefixes, and an em dash for what is not there."""

from __future__ import annotations

import math

MISSING = "—"
_SI = ((1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n"), (1e-12, "p"))
_LARGE = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB")
_NARROW_SPACE = "\u202f"


def decibel(value: float | None) -> str:
    """A PSNR with one decimal, without its unit."""
    return MISSING if value is None else f"{value:.1f}"


def percent(fraction: float | None) -> str:
    """A fraction as a percentage with one decimal."""
    return MISSING if fraction is None else f"{100 * fraction:.1f}{_NARROW_SPACE}%"


def prefix_of(value: float) -> tuple[float, str]:
    """Factor and letter of the SI prefix in which a value has one to three digits before the point."""
    size = abs(value)
    for factor, letter in _SI:
        if size >= factor:
            return factor, letter
    return (1.0, "") if size == 0 else _SI[-1]


def energy(value_j: float | None) -> str:
    """Joules with three significant digits and an SI prefix."""
    if value_j is None:
        return MISSING
    factor, letter = prefix_of(value_j)
    return f"{significant(value_j / factor)}{_NARROW_SPACE}{letter}J"


def energy_between(value_j: float, uncertainty_j: float | None) -> str:
    """Joules with what they may be off, both in the same unit; the first alone where the second is not known."""
    if uncertainty_j is None:
        return energy(value_j)
    factor, letter = prefix_of(value_j)
    off = significant(uncertainty_j / factor, 2)
    return f"{significant(value_j / factor)} ± {off}{_NARROW_SPACE}{letter}J"


def significant(value: float, digits: int = 3) -> str:
    """A number with so many significant digits, without an exponent where that stays readable."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    exponent = math.floor(math.log10(abs(value)))
    if -4 <= exponent < 6:
        return f"{value:,.{max(0, digits - 1 - exponent)}f}".replace(",", _NARROW_SPACE)
    return f"{value:.{digits - 1}e}"


def large(value: float) -> str:
    """A count with three significant digits and k, M, G or T for thousands."""
    for factor, letter in _LARGE:
        if abs(value) >= factor:
            return f"{significant(value / factor)}{_NARROW_SPACE}{letter}"
    return f"{value:.0f}" if value == round(value) else significant(value)


def data_size(value: int | None) -> str:
    """Bytes with a binary prefix."""
    if value is None:
        return MISSING
    size, step = float(value), 0
    while size >= 1024 and step < len(_BINARY) - 1:
        size, step = size / 1024, step + 1
    return f"{size:.0f}{_NARROW_SPACE}B" if step == 0 else f"{significant(size)}{_NARROW_SPACE}{_BINARY[step]}"


def count(value: int | None) -> str:
    """A whole number with thin spaces between thousands."""
    return MISSING if value is None else f"{value:,}".replace(",", _NARROW_SPACE)


def weight_grid(bits: int | None) -> str:
    """What a network's weights are trained as."""
    return {None: "float weights", 2: "ternary weights"}.get(bits, f"int{bits} weights")


def duration(seconds: float | None) -> str:
    """Milliseconds below 0.1 s, seconds, or minutes from 100 s on."""
    if seconds is None:
        return MISSING
    if 0 < seconds < 0.1:
        return f"{significant(1000 * seconds, 2)}{_NARROW_SPACE}ms"
    if seconds < 100:
        return f"{significant(seconds, 2 if seconds < 10 else 3)}{_NARROW_SPACE}s"
    return f"{int(seconds // 60)}{_NARROW_SPACE}min {int(seconds % 60):02d}{_NARROW_SPACE}s"
