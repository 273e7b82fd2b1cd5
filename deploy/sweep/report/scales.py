"""Logarithmic axes whose labels do not run into each other."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

_STEPS = ((1.0, 2.0, 5.0), (1.0, 3.0), (1.0,))


def log_x(ax: Axes, values: Sequence[float], text: Callable[[float], str], *, most: int) -> None:
    """A logarithmic x axis around the values, with at most so many labels.

    Args:
        ax: The axes.
        values: All above 0.
        text: A value as its label.
        most: Labels that there is room for.
    """
    low, high = min(values) / 1.25, max(values) * 1.25
    ax.set_xscale("log")
    ax.set_xlim(low, high)
    for steps in _STEPS:
        ticks = _ticks(low, high, steps)
        if len(ticks) <= most:
            break
    if len(ticks) < 2:
        ticks = [min(values), max(values)] if max(values) > 1.05 * min(values) else [values[0]]
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))


def _ticks(low: float, high: float, steps: Sequence[float]) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [tick for decade in decades for step in steps if low <= (tick := step * 10.0**decade) <= high]
