"""The tables of trials: every attack with its n, and why attacks failed or were refused."""

from __future__ import annotations

import re

import msgspec
from markupsafe import Markup

from server.report.controls import mean_image_level
from server.report.data import KIND_TITLES, KINDS, ReportData, ScoreRow
from server.report.quantities import MISSING, decibel, duration
from server.report.strips import strip
from server.report.trials import Spread, attack_names, gives_images, select, spread, worst_case

MOST_REASONS = 16
_NUMBER = re.compile(r"\d[\d.,]*(?:e[+-]?\d+)?")


class AttackRow(msgspec.Struct, frozen=True, kw_only=True):
    """One attack in the table of trials."""

    attack: str
    n: str
    failed: str
    exact: str
    median: str
    interval: str
    best: str
    labels: str
    identified: str
    frames: str
    seconds: str
    strip: Markup | str
    worst: bool


class AttackGroup(msgspec.Struct, frozen=True, kw_only=True):
    """All attacks on one network in one kind of round."""

    title: str
    updates: int
    rows: tuple[AttackRow, ...]
    mean_image: str


def attack_groups(data: ReportData) -> tuple[AttackGroup, ...]:
    """The table of trials: audit before training rounds, the spiking network before its twin."""
    groups = []
    order = attack_names(data.families)
    imaging = {a: gives_images([row for f in data.families for row in select(f, attack=a)]) for a in order}
    for kind in reversed(KINDS):
        for family in data.families:
            rows = select(family, kind)
            worst = worst_case(rows)
            groups.append(
                AttackGroup(
                    title=f"{family.title}, {KIND_TITLES[kind]}",
                    updates=len({row.update for row in rows}),
                    rows=tuple(
                        _attack_row(
                            found,
                            images=imaging[attack],
                            worst=worst is not None and attack in {worst.attack, *worst.ties},
                        )
                        for attack in order
                        if (found := [row for row in rows if row.score.attack == attack])
                    ),
                    mean_image=decibel(mean_image_level(rows)),
                )
            )
    return tuple(groups)


def _attack_row(rows: list[ScoreRow], *, images: bool, worst: bool) -> AttackRow:
    figures = spread(rows)
    exact = sum(row.score.verdict == "exact" for row in rows)
    return AttackRow(
        attack=rows[0].score.attack,
        n=str(figures.trials) + (f" (+{figures.refused} refused)" if figures.refused else ""),
        failed=str(figures.failed) if figures.trials else MISSING,
        exact=str(exact) if figures.trials else MISSING,
        median=_trial_db(figures, figures.median_db, images=images),
        interval=_interval(figures, images=images),
        best=_trial_db(figures, figures.max_db, images=images),
        labels=MISSING if figures.labels_right is None else f"{figures.labels_right}/{figures.labels_of}",
        identified=_identified(figures),
        frames=_frames(figures),
        seconds=duration(figures.seconds),
        strip=strip(rows) if images and figures.trials else "",
        worst=worst,
    )


def _trial_db(figures: Spread, value: float | None, *, images: bool) -> str:
    if not figures.trials:
        return MISSING
    return decibel(value) if value is not None else "no image" if images else "labels only"


def percent(share: float | None) -> str:
    """A share in whole percent; 100 and 0 only where they are exact."""
    if share is None:
        return MISSING
    rounded = round(100 * share)
    return f"{rounded if 0 < share < 1 and 0 < rounded < 100 else 100 * share:.4g} %"


def _frames(figures: Spread) -> str:
    """Frames found, and those of them in place where they are fewer."""
    if figures.frames_exact is None:
        return MISSING
    found = _with_interval(figures.frames_exact, figures.frames_exact_ci)
    return (
        found if figures.frames_placed == figures.frames_exact else f"{found}, {percent(figures.frames_placed)} placed"
    )


def _identified(figures: Spread) -> str:
    """Identification rate; of a membership attack, its AUC; LPIPS where it was measured."""
    parts = []
    if figures.identified is not None:
        parts.append(_with_interval(figures.identified, figures.identified_ci))
    if figures.membership_auc is not None:
        interval = "" if figures.membership_ci is None else " [{:.2f}, {:.2f}]".format(*figures.membership_ci)
        parts.append(f"AUC {figures.membership_auc:.3f}{interval}, n = {figures.membership_trials}")
    if figures.lpips is not None:
        parts.append(f"LPIPS {figures.lpips:.3f}, n = {figures.lpips_trials}")
    return "; ".join(parts) or MISSING


def _with_interval(share: float | None, interval: tuple[float, float] | None) -> str:
    """A mean share and its interval; without the interval where it is a point."""
    if interval is None or interval[0] == interval[1]:
        return percent(share)
    return f"{percent(share)} [{round(100 * interval[0])}, {round(100 * interval[1])}]"


def _interval(figures: Spread, *, images: bool) -> str:
    if figures.trials < 2 or not images or figures.high_db is None:
        return MISSING
    low, high = (decibel(end) if end is not None else "no image" for end in (figures.low_db, figures.high_db))
    return f"{low} to {high}"


class Reason(msgspec.Struct, frozen=True, kw_only=True):
    """Why attacks were refused or failed: which, where, and how often."""

    verdict: str
    reason: str
    attacks: tuple[str, ...]
    where: tuple[str, ...]
    times: int


def attack_reasons(data: ReportData) -> tuple[Reason, ...]:
    """Refusals and failures; reasons that differ by a number only are counted together, the most frequent first."""
    order = attack_names(data.families)
    found: dict[tuple[str, str], list[tuple[str, ScoreRow]]] = {}
    for family in data.families:
        for row in family.scores:
            score = row.score
            silent = score.psnr_db is None and score.labels_right is None
            if score.verdict in {"failed", "refused"} or silent:
                key = (score.verdict, _NUMBER.sub("#", score.reason))
                found.setdefault(key, []).append((f"{family.title}, {KIND_TITLES[row.kind]}", row))
    reasons = [
        Reason(
            verdict=verdict,
            reason=rows[0][1].score.reason or "no reason given",
            attacks=tuple(sorted({row.score.attack for _, row in rows}, key=order.index)),
            where=tuple(dict.fromkeys(where for where, _ in rows)),
            times=len(rows),
        )
        for (verdict, _), rows in found.items()
    ]
    return tuple(sorted(reasons, key=lambda r: -r.times))
