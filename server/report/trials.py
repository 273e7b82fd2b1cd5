"""Figures over attack trials: every trial counts, failures rank below every image, and n stands beside each figure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from server.report.data import Family, RoundKind, ScoreRow

RESAMPLES = 2000
LEVEL = 0.95
_BLOCK = 1 << 20


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """PSNR of one attack over its trials, in dB.

    A trial without an image ranks below every image, so a median of `None` says that at least half gave none.

    Attributes:
        trials: Updates on which the attack ran and could have given an image.
        failed: Those of them with verdict `failed` or without an image.
        refused: Updates on which the threat model refused the attack; not trials.
        median_db, low_db, high_db: Median and its 95 % bootstrap interval.
        min_db: Worst trial.
        max_db: Best trial: what counts in a worst case.
        labels_right: Labels found right over all trials; `None` when it names none.
        labels_of: Labels there were to find.
        frames_exact, frames_placed: Mean share of the true frames found, and found in place, over all trials of an
            attack that gives frames; a trial without counts as 0 found. `None` when it gives none.
        identified: Mean share of the samples that are identified, likewise; `None` for an attack without images.
        membership_auc: Median area under the ROC curve over the trials that have one; `membership_trials` are so many.
        membership_ci: Its 95 % bootstrap interval.
        lpips: Median LPIPS over the trials with an image, `lpips_trials` of them; `None` without a weight file.
        frames_exact_ci, frames_placed_ci, identified_ci: 95 % bootstrap interval of each mean; `None` below two trials.
        seconds: Median wall time of the trials that took any.
    """

    trials: int
    failed: int
    refused: int
    median_db: float | None
    low_db: float | None
    high_db: float | None
    min_db: float | None
    max_db: float | None
    labels_right: int | None
    labels_of: int
    frames_exact: float | None
    frames_placed: float | None
    identified: float | None
    seconds: float | None
    frames_exact_ci: tuple[float, float] | None = None
    frames_placed_ci: tuple[float, float] | None = None
    identified_ci: tuple[float, float] | None = None
    membership_auc: float | None = None
    membership_ci: tuple[float, float] | None = None
    membership_trials: int = 0
    lpips: float | None = None
    lpips_trials: int = 0


def bootstrap_median(
    values: npt.NDArray[np.float64], rng: np.random.Generator, *, resamples: int = RESAMPLES, level: float = LEVEL
) -> tuple[float, float]:
    """Percentile bootstrap interval of the median (Efron 1979).

    Args:
        values: One per trial; `-inf` for a trial without a figure.
        rng: Source of the resampling.
        resamples: Number of resamples.
        level: Coverage, in (0, 1).

    Returns:
        Lower and upper end; `-inf` where the end falls on trials without a figure.

    Raises:
        ValueError: No values.
    """
    if values.size == 0:
        raise ValueError("bootstrap over no values: leave the interval out instead")
    block = max(1, _BLOCK // values.size)
    sizes = [min(block, resamples - start) for start in range(0, resamples, block)]
    medians = np.sort(np.concatenate([_resampled_medians(values, size, rng) for size in sizes]))
    tail = (1.0 - level) / 2.0
    return float(medians[math.floor(tail * (resamples - 1))]), float(medians[math.ceil((1 - tail) * (resamples - 1))])


def _resampled_medians(
    values: npt.NDArray[np.float64], resamples: int, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    drawn = np.sort(rng.choice(values, size=(resamples, values.size), replace=True), axis=1)
    middle = values.size // 2
    return np.asarray(drawn[:, middle] if values.size % 2 else drawn[:, middle - 1] / 2.0 + drawn[:, middle] / 2.0)


def median(values: Sequence[float]) -> float | None:
    """The median; `None` of nothing, `-inf` where half of the trials have no figure."""
    if not values:
        return None
    ordered, middle = sorted(values), len(values) // 2
    return ordered[middle] if len(values) % 2 else ordered[middle - 1] / 2.0 + ordered[middle] / 2.0


def gives_images(rows: Sequence[ScoreRow]) -> bool:
    """Whether an attack aims at images: it gave one, or it failed without naming labels."""
    return any(r.score.psnr_db is not None for r in rows) or not any(r.score.labels_right is not None for r in rows)


def spread(rows: Sequence[ScoreRow], *, seed: int = 0) -> Spread:
    """All trials of one attack on one kind of round.

    Args:
        rows: Scores of a single attack.
        seed: Seed of the bootstrap.
    """
    ran = [row for row in rows if row.score.verdict != "refused"]
    imaging = gives_images(ran)
    figures = [-math.inf if r.score.psnr_db is None else r.score.psnr_db for r in ran] if imaging else []
    low, high = -math.inf, -math.inf
    if len(figures) > 1:
        low, high = bootstrap_median(np.asarray(figures), np.random.default_rng(seed))
    named = [r.score.labels_right for r in ran if r.score.labels_right is not None]
    failed = sum(r.score.verdict == "failed" or (imaging and r.score.psnr_db is None) for r in ran)
    exact = [row.score.frames_exact for row in ran]
    placed = [row.score.frames_placed for row in ran]
    identified = [row.score.identified for row in ran]
    areas = [row.score.membership_auc for row in ran if row.score.membership_auc is not None]
    distances = [row.score.lpips for row in ran if row.score.lpips is not None]
    return Spread(
        trials=len(ran),
        failed=failed,
        refused=len(rows) - len(ran),
        median_db=finite(median(figures)),
        low_db=finite(low),
        high_db=finite(high),
        min_db=finite(min(figures, default=None)),
        max_db=finite(max(figures, default=None)),
        labels_right=sum(named) if named else None,
        labels_of=sum(r.samples for r in ran if r.score.labels_right is not None),
        frames_exact=mean_share(exact),
        frames_placed=mean_share(placed),
        identified=mean_share(identified),
        frames_exact_ci=share_interval(exact, seed=seed),
        frames_placed_ci=share_interval(placed, seed=seed),
        identified_ci=share_interval(identified, seed=seed),
        membership_auc=median(areas),
        membership_ci=bootstrap_median(np.asarray(areas), np.random.default_rng(seed)) if len(areas) > 1 else None,
        membership_trials=len(areas),
        lpips=median(distances),
        lpips_trials=len(distances),
        seconds=median([r.score.seconds for r in ran if r.score.seconds > 0]),
    )


def mean_share(shares: Sequence[float | None]) -> float | None:
    """Mean over all trials; one without a figure found nothing. `None` when no trial has a figure."""
    if all(share is None for share in shares):
        return None
    return sum(share or 0.0 for share in shares) / len(shares)


def share_interval(shares: Sequence[float | None], *, seed: int = 0) -> tuple[float, float] | None:
    """95 % percentile bootstrap interval of `mean_share`; `None` without a figure, or below two trials."""
    if len(shares) < 2 or all(share is None for share in shares):
        return None
    found = np.asarray([share or 0.0 for share in shares])
    means = np.random.default_rng(seed).choice(found, size=(RESAMPLES, len(found))).mean(axis=1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def finite(value: float | None) -> float | None:
    """`None` for a missing or infinite figure."""
    return value if value is not None and math.isfinite(value) else None


def attack_names(families: Iterable[Family]) -> tuple[str, ...]:
    """All attacks, cheapest first: by the median time of the trials that took any."""
    seconds: dict[str, list[float]] = {}
    for row in (row for family in families for row in family.scores):
        taken = seconds.setdefault(row.score.attack, [])
        if row.score.verdict != "refused" and row.score.seconds > 0:
            taken.append(row.score.seconds)
    middles = {name: median(taken) for name, taken in seconds.items()}
    return tuple(sorted(middles, key=lambda name: (math.inf if (m := middles[name]) is None else m, name)))


def select(family: Family, kind: RoundKind | None = None, attack: str | None = None) -> list[ScoreRow]:
    """Scores of one kind of round and one attack; `None` takes all."""
    return [r for r in family.scores if kind in {None, r.kind} and attack in {None, r.score.attack}]


class Worst(msgspec.Struct, frozen=True, kw_only=True):
    """The trial that leaked most; of several that leaked as much the first by round, device and name of the attack.

    Attributes:
        ties: Other attacks that reached the same figure, on this or another update.
    """

    psnr_db: float
    attack: str
    node: str
    round: int
    verdict: str
    ties: tuple[str, ...] = ()


def worst_case(rows: Iterable[ScoreRow]) -> Worst | None:
    """The highest PSNR over all attacks and updates; `None` when nothing gave an image."""
    held = [(row.score.psnr_db, row) for row in rows if row.score.psnr_db is not None]
    if not held:
        return None
    psnr_db = max(figure for figure, _ in held)
    highest = [row for figure, row in held if figure == psnr_db]
    # Not the quickest of them, which is another one each time that the same run is made.
    row = min(highest, key=lambda one: (one.round, one.node, one.update, one.score.attack))
    as_high = {one.score.attack for one in highest}
    return Worst(
        psnr_db=psnr_db,
        attack=row.score.attack,
        node=row.node,
        round=row.round,
        verdict=row.score.verdict,
        ties=tuple(sorted(as_high - {row.score.attack})),
    )


def worst_by_update(rows: Iterable[ScoreRow]) -> dict[str, float]:
    """Highest PSNR of each update over the given attacks; `-inf` where none gave an image."""
    best: dict[str, float] = {}
    for row in rows:
        figure = -math.inf if row.score.psnr_db is None else row.score.psnr_db
        best[row.update] = max(best.get(row.update, -math.inf), figure)
    return best
