"""How far a figure may be off: 95 % intervals of few samples, and of sums.

**Sums.** The half width of a sum is the sum of the half widths, never the root of their squares: what one meter does
wrong (a rounded step, a late value, a steep edge between two samples) it does again in the next window. One term whose
half width is not known makes that of the sum unknown.
"""

from __future__ import annotations

from collections.abc import Iterable

_T_95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
)  # fmt: skip
"""Two-sided 95 % quantiles of Student's t for 1 … 20 degrees of freedom (Student, Biometrika 6, 1908; any table)."""


def student_95(degrees: int) -> float:
    """Student's t that holds 95 % of all cases, for at least one degree of freedom.

    Beyond the table ``1.960 + 2.6 / degrees``, which is above the quantile by less than 0.005.

    Raises:
        ValueError: No degree of freedom: nothing is known about the spread.
    """
    if degrees < 1:
        raise ValueError(f"{degrees} degrees of freedom: the spread of one value alone is not known")
    return _T_95[degrees - 1] if degrees <= len(_T_95) else 1.960 + 2.6 / degrees


def added(half_widths: Iterable[float | None]) -> float | None:
    """Half width of a sum, as said at the top; `None` where one is not known or there is none."""
    known: list[float] = []
    for half_width in half_widths:
        if half_width is None:
            return None
        known.append(half_width)
    return sum(known) if known else None
