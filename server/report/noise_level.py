"""What the attacks reach on noise in an update's place, held against that update's truth: the floor of a worst case."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import msgspec
import numpy as np

from contract.messages import Seen
from server.report.data import NoiseRow, ScoreRow
from server.report.quantities import decibel
from server.report.trials import bootstrap_median, finite, median, worst_by_update


class NoiseLevel(msgspec.Struct, frozen=True, kw_only=True):
    """The best of all attacks on each noise update, in dB; one that gave no attack an image ranks below all others.

    Attributes:
        updates: Noise updates that were scored.
        median_db, low_db, high_db: Median over them and its 95 % bootstrap interval; no interval below two.
        max_db: The highest.
        beside_db: Median of the best on the same updates as they were sent.
    """

    updates: int
    median_db: float | None
    low_db: float | None
    high_db: float | None
    max_db: float | None
    beside_db: float | None

    @property
    def text(self) -> str:
        """E.g. `median 9.1 dB, largest 9.8, over n = 2 noise updates`."""
        if not self.updates:
            return "not scored"
        middle = "no image" if self.median_db is None else f"{decibel(self.median_db)} dB"
        updates = "update" if self.updates == 1 else "updates"
        ends = [finite(end) for end in (self.low_db, self.high_db)]
        interval = "" if None in ends else f", 95 % interval {decibel(ends[0])} to {decibel(ends[1])}"
        return f"median {middle}{interval}, largest {decibel(self.max_db)}, over n = {self.updates} noise {updates}"


def best_on_noise(rows: Iterable[NoiseRow]) -> dict[tuple[str, Seen], float]:
    """Highest PSNR by update and sight; `-inf` without an image. One that was not scored is left out, not 0."""
    best: dict[tuple[str, Seen], float] = {}
    unknown: set[tuple[str, Seen]] = set()
    for row in rows:
        key = (row.update, row.seen)
        if not row.scored:
            unknown.add(key)
        elif row.verdict != "refused":
            figure = -math.inf if row.psnr_db is None else row.psnr_db
            best[key] = max(best.get(key, -math.inf), figure)
    return {key: value for key, value in best.items() if key not in unknown}


def noise_level(noise: Iterable[NoiseRow], scores: Sequence[ScoreRow]) -> NoiseLevel:
    """The level of some noise updates.

    Args:
        noise: What the attacks did on them.
        scores: What they did on updates, these among them.
    """
    best = best_on_noise(noise)
    figures, ends = list(best.values()), (-math.inf, -math.inf)
    if len(figures) > 1:
        ends = bootstrap_median(np.asarray(figures), np.random.default_rng(0))
    beside = worst_by_update([r for r in scores if (r.update, r.seen) in best and r.score.verdict != "refused"])
    return NoiseLevel(
        updates=len(figures),
        median_db=finite(median(figures)),
        low_db=finite(ends[0]),
        high_db=finite(ends[1]),
        max_db=finite(max(figures, default=None)),
        beside_db=finite(median(list(beside.values()))),
    )
