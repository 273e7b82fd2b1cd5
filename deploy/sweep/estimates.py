"""Figures over several runs or updates, each with n and a 95 % interval."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from server.report.trials import LEVEL, RESAMPLES, bootstrap_median, finite, median


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """A figure over several runs or updates.

    Attributes:
        value: Mean or median; `None` when nothing gave a figure, or half of the trials (of a mean: one) gave none.
        low, high: 95 % interval; `None` below two values, and an end is `None` where it falls on trials without figure.
        n: How many values.
        equal: All of them are the same: several, and no interval to speak of.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    equal: bool = False

    def within(self, low: float, high: float) -> Estimate:
        """The same with an interval that ends where the figure itself does."""
        clipped = [None if end is None else min(max(end, low), high) for end in (self.low, self.high)]
        return msgspec.structs.replace(self, low=clipped[0], high=clipped[1])

    def scaled(self, factor: float) -> Estimate:
        """The same in another unit."""
        value, low, high = (None if x is None else factor * x for x in (self.value, self.low, self.high))
        return msgspec.structs.replace(self, value=value, low=low, high=high)


def mean(values: Sequence[float], *, of: int) -> Estimate:
    """Mean and t interval; without a value when some of the runs have none: nothing is averaged over the survivors."""
    if not values or len(values) < of:
        return Estimate(value=None, low=None, high=None, n=len(values))
    middle_ = float(np.mean(values))
    if len(values) < 2:
        return Estimate(value=middle_, low=None, high=None, n=1)
    if len(set(values)) == 1:
        return Estimate(value=values[0], low=values[0], high=values[0], n=len(values), equal=True)
    from scipy.stats import t  # noqa: PLC0415 - takes a second

    half = float(t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))
    return Estimate(value=middle_, low=middle_ - half, high=middle_ + half, n=len(values))


def middle(values: Sequence[float]) -> Estimate:
    """Median and bootstrap interval; trials without a figure rank below all others."""
    if not values:
        return Estimate(value=None, low=None, high=None, n=0)
    low, high = None, None
    if len(values) > 1:
        ends = bootstrap_median(np.asarray(values), np.random.default_rng(0))
        low, high = finite(ends[0]), finite(ends[1])
    return Estimate(value=finite(median(values)), low=low, high=high, n=len(values))


def share(count: int, of: int) -> Estimate:
    """A share and its Wilson interval (Wilson 1927)."""
    if of == 0:
        return Estimate(value=None, low=None, high=None, n=0)
    z, p = 1.959964, count / of
    centre, half = p + z * z / (2 * of), z * math.sqrt(p * (1 - p) / of + z * z / (4 * of * of))
    scale = 1 + z * z / of
    return Estimate(value=p, low=max(0.0, (centre - half) / scale), high=min(1.0, (centre + half) / scale), n=of)


def mean_by_seed(trials: Sequence[tuple[int, float | None]]) -> Estimate:
    """Mean over updates, with a percentile bootstrap interval in two stages: seeds are drawn, then updates of each.

    Updates of one seed share a split and a training history and are no independent trials (Davison and Hinkley 1997,
    section 3.8). With few seeds the interval is a hint of what another seed would change, no more.

    Args:
        trials: Seed and figure of each update.

    Returns:
        Without a value where an update has no figure; `n` counts those that have one.
    """
    known = [(seed, value) for seed, value in trials if value is not None]
    if not known or len(known) < len(trials):
        return Estimate(value=None, low=None, high=None, n=len(known))
    groups = [np.array([value for of, value in known if of == seed]) for seed in dict.fromkeys(s for s, _ in known)]
    value = float(np.mean([value for _, value in known]))
    if len(known) < 2:
        return Estimate(value=value, low=None, high=None, n=1)
    low, high = np.quantile(_resampled_means(groups, np.random.default_rng(0)), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value=value, low=float(low), high=float(high), n=len(known))


def _resampled_means(groups: Sequence[npt.NDArray[np.float64]], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Means `[RESAMPLES]` of draws of as many groups, and from each of as many values as it has."""
    chosen = rng.integers(len(groups), size=(len(groups), RESAMPLES))
    sums, counts = np.zeros(RESAMPLES), np.zeros(RESAMPLES)
    for draw in chosen:
        drawn = np.stack([rng.choice(group, size=(RESAMPLES, len(group))).sum(axis=1) for group in groups])
        sums += drawn[draw, np.arange(RESAMPLES)]
        counts += np.array([len(group) for group in groups])[draw]
    return sums / counts
