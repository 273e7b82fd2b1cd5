"""Joules per operation of one board, fitted on what its meter said of known work.

The mean power of window i is ``P_i = P_0 + sum_k e_k c_ik / t_i + noise``, with the operations ``c_ik`` of kind k that
were counted in its ``t_i`` seconds. The baseline ``P_0`` and all ``e_k`` are least squares under the condition that
none is negative (Lawson and Hanson 1974, chapter 23): with six unknowns the best of the feasible solutions over all
subsets, found by trying them. An operation that comes out at 0 is not told apart from what occurred with it.

The intervals are ``±t sigma sqrt((X^T X)^-1_kk)`` of ordinary least squares over the unknowns that are above 0, with
Student's t for as many degrees of freedom as windows are left over; they hold for noise that is independent from window
to window and equally large in all.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from hardware.errors import MeterError
from hardware.profile import OPERATIONS, Constant, Fit, Interval, Profile

LARGEST_RESIDUAL = 0.25
"""Of the standard deviation of the measured power: R² of at least 0.94."""
SMALLEST_DIRECTION = 1e-3
"""Smallest singular value of the scaled counts over the largest: below it two constants cannot be told apart."""
SPARE_WINDOWS = 3
"""Windows beyond the number of unknowns."""


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """One measured stretch of work.

    Attributes:
        energy_j: What the meter said.
        duration_s: Above 0.
        counts: Operations in it, in the order of `OPERATIONS`; all 0 for rest.
    """

    energy_j: float
    duration_s: float
    counts: tuple[int, ...]


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """A fit.

    Attributes:
        baseline_w: ``P_0``.
        joules: Of one operation of each kind that occurred in the windows; 0 where none could be told.
        half_width_j: Half of the 95 % interval of those above 0; for the others the most that they may be.
        residual_w: Root mean square of what is left over.
        r2: Share of the power's variance that is explained.
        windows: Number of windows.
        never: Operations that did not occur.
    """

    baseline_w: float
    joules: dict[str, float]
    half_width_j: dict[str, float]
    residual_w: float
    r2: float
    windows: int
    never: tuple[str, ...]


def fit(windows: Sequence[Window]) -> Estimate:
    """Fits baseline and joules per operation.

    Raises:
        MeterError: Too few windows, a design in which constants cannot be told apart, or a residual above
            `LARGEST_RESIDUAL`; says what to do.
    """
    rates = np.array([[count / w.duration_s for count in w.counts] for w in windows]).reshape(-1, len(OPERATIONS))
    power_w = np.array([w.energy_j / w.duration_s for w in windows])
    occurring = [k for k in range(len(OPERATIONS)) if np.any(rates[:, k] > 0)] if len(windows) else []
    names = [OPERATIONS[k] for k in occurring]
    if not names or len(windows) < 1 + len(names) + SPARE_WINDOWS:
        raise MeterError(
            f"{len(windows)} measured windows with operations {names}: at least {1 + len(names) + SPARE_WINDOWS} are "
            "needed, with several shapes of work and some rest among them"
        )
    design = np.column_stack([np.ones(len(windows)), rates[:, occurring]])
    scale = np.linalg.norm(design, axis=0)
    _check_rank(design / scale, ["baseline", *names])
    solution = _non_negative(design / scale, power_w) / scale
    left = power_w - design @ solution
    spread_w = float(power_w.std())
    residual_w = float(np.sqrt(np.mean(left**2)))
    if residual_w > LARGEST_RESIDUAL * spread_w or not solution[1:].any():
        raise MeterError(
            f"the fit leaves {residual_w:.3g} W of a power that varies by {spread_w:.3g} W, more than the "
            f"{LARGEST_RESIDUAL:g} of it that are allowed: the meter does not follow the work. Use one that covers the "
            "processor, stop other programs, or take longer windows"
        )
    half = _half_widths(design, left, solution) if spread_w else np.zeros(len(solution))
    return Estimate(
        baseline_w=float(solution[0]),
        joules=dict(zip(names, solution[1:].tolist(), strict=True)),
        half_width_j=dict(zip(names, half[1:].tolist(), strict=True)),
        residual_w=residual_w,
        r2=1.0 - (residual_w / spread_w) ** 2,
        windows=len(windows),
        never=tuple(name for name in OPERATIONS if name not in names),
    )


def _check_rank(scaled: NDArray[np.float64], names: list[str]) -> None:
    _, singular, directions = np.linalg.svd(scaled, full_matrices=False)
    if singular[-1] < SMALLEST_DIRECTION * singular[0]:
        mixed = [name for name, part in zip(names, np.abs(directions[-1]), strict=True) if part > 0.1]
        raise MeterError(
            f"{' and '.join(mixed)} always occurred in the same proportion (singular values {singular[-1]:.2g} and "
            f"{singular[0]:.2g}, limit 1 in {1 / SMALLEST_DIRECTION:g}): they cannot be told apart. Measure work of "
            "other shapes: other batch sizes, networks, spike rates, and rest"
        )


def _non_negative(design: NDArray[np.float64], power_w: NDArray[np.float64]) -> NDArray[np.float64]:
    """Least squares without a negative unknown, over all subsets of unknowns that may be above 0."""
    unknowns = design.shape[1]
    best, least = np.zeros(unknowns), math.inf
    for size in range(1, unknowns + 1):
        for chosen in itertools.combinations(range(unknowns), size):
            part = list(chosen)
            found = np.linalg.lstsq(design[:, part], power_w, rcond=None)[0]
            left = float(np.sum((power_w - design[:, part] @ found) ** 2))
            if (found >= 0).all() and left < least:
                least, best = left, np.zeros(unknowns)
                best[part] = found
    return best


def _half_widths(
    design: NDArray[np.float64], left: NDArray[np.float64], solution: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Of the 95 % intervals; of an unknown at 0, that of the fit in which it is free as well."""
    above = solution > 0
    widths = np.zeros(len(solution))
    for k in range(len(solution)):
        free = above | (np.arange(len(solution)) == k)
        part = design[:, free] / np.linalg.norm(design[:, free], axis=0)
        freedom = len(left) - int(free.sum())
        variance = float(left @ left) / freedom
        own = int(free[:k].sum())
        inverse = np.linalg.inv(part.T @ part)[own, own]
        widths[k] = student_t(freedom) * math.sqrt(variance * inverse) / np.linalg.norm(design[:, k])
    return widths


def student_t(freedom: int) -> float:
    """The 97.5 % quantile of Student's t, to 0.01 from 3 degrees of freedom on (Abramowitz and Stegun 26.7.5)."""
    z: float = 1.959963985
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + math.fsum(term / freedom ** (power + 1) for power, term in enumerate(terms))


def calibrated_profile(
    estimate: Estimate, *, name: str, title: str, meter: str, date: str, radio: str = "", no_radio: str = ""
) -> Profile:
    """The fit as a profile, its constants in picojoules.

    Args:
        estimate: The fit.
        name: Of the profile: its file's name without the ending.
        title: The board in words.
        meter: Source and scope of the measured power.
        date: Day of the fit.
        radio: Radio model, see `Profile`.
        no_radio: Why there is none.
    """
    told = {op: joules for op, joules in estimate.joules.items() if joules > 0}
    source = f"fitted on {date} by least squares to {estimate.windows} windows of {meter}"
    notes = {
        "checked": "see fit: intervals hold for this board, this software and this load; they are no published figures",
        "baseline": f"{estimate.baseline_w:.4g} W flowed without work and are charged to no operation",
    }
    for op in estimate.joules:
        if op not in told:
            most = 1e12 * estimate.half_width_j[op]
            notes[op] = (
                f"not told apart from 0 beside the other operations (at most {most:.3g} pJ): inside their figures"
            )
    intervals = {
        f"fitted_{op}": Interval(
            low=1e12 * (e - estimate.half_width_j[op]), high=1e12 * (e + estimate.half_width_j[op])
        )
        for op, e in told.items()
    }
    return Profile(
        name=name,
        title=title,
        radio=radio,
        no_radio=no_radio,
        constants=tuple(
            Constant(name=f"fitted_{op}", value=1e12 * joules, unit="pJ", node=title, source=source)
            for op, joules in told.items()
        ),
        operations={op: {f"fitted_{op}": 1.0} if op in told else {} for op in estimate.joules},
        absent=dict.fromkeys(estimate.never, "did not occur in the measured work"),
        notes=notes,
        fit=Fit(
            date=date,
            meter=meter,
            windows=estimate.windows,
            baseline_w=estimate.baseline_w,
            residual_w=estimate.residual_w,
            r2=estimate.r2,
            intervals=intervals,
        ),
    )
