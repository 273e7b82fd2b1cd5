"""Leakage by what was seen and from where: a masked update, the opened sum, the difference of two models."""

from __future__ import annotations

import msgspec

from contract.messages import Seen
from server.report.controls import mean_image_level
from server.report.data import KIND_TITLES, KINDS, Family, ReportData, ScoreRow
from server.report.noise_level import noise_level
from server.report.quantities import MISSING, decibel
from server.report.sights import kinds, of_kind
from server.report.trials import finite, median, worst_by_update, worst_case
from server.vantages import VANTAGES

WORDS: dict[Seen, str] = {
    "update": "each device's update, as sent",
    "aggregate": "the opened mean of a round",
    "models": "the difference of two models",
}
MASKED = "each device's update, under its masks"


class SightLine(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of sight in one kind of round."""

    who: str
    seen: str
    vantages: str
    of: str
    n: str
    worst: str
    attack: str
    middle: str
    mean_image: str
    noise: str


def sight_lines(data: ReportData) -> tuple[SightLine, ...]:
    """The table, audit rounds first."""
    return tuple(
        _line(family, rows, seen, f"{family.title}, {KIND_TITLES[kind]}")
        for kind in reversed(KINDS)
        for family in data.families
        for seen in kinds([row for row in family.seen if row.kind == kind])
        if (rows := [row for row in of_kind(family.seen, seen) if row.kind == kind])
    )


def _line(family: Family, rows: list[ScoreRow], seen: Seen, who: str) -> SightLine:
    worst, best = worst_case(rows), worst_by_update(rows)
    masked = {row.round for row in family.rounds if row.plan.secure is not None}
    ran = [row for row in family.noise if row.seen == seen and row.verdict != "refused"]
    mine = {row.update for row in rows}
    noise = [row for row in ran if row.update in mine]
    certified = sum(row.verdict == "exact" for row in noise)
    return SightLine(
        who=who,
        seen=MASKED if seen == "update" and {row.round for row in rows} <= masked else WORDS[seen],
        vantages=", ".join(VANTAGES[seen]),
        of=_of(family, rows, seen),
        n=str(len(best)),
        worst=MISSING if worst is None else decibel(worst.psnr_db),
        attack=MISSING if worst is None else worst.attack,
        middle=decibel(finite(median(list(best.values())))),
        mean_image=decibel(mean_image_level(rows)),
        noise=f"{certified} of {len(noise)} certified; {noise_level(noise, rows).text}" if noise else MISSING,
    )


def _of(family: Family, rows: list[ScoreRow], seen: Seen) -> str:
    """What one attacked thing holds, e.g. `4 devices, 64 samples`."""
    if seen == "update":
        samples = sorted({row.samples for row in rows})
        return f"1 device, {_range(samples)}"
    rounds = {row.round for row in rows}
    held = [view for view in family.views if view.seen == seen and view.round in rounds]
    return (
        f"{_range(sorted({len(v.samples) for v in held}), 'device')}, {_range(sorted({sum(v.samples) for v in held}))}"
    )


def _range(numbers: list[int], noun: str = "sample") -> str:
    if not numbers:
        return MISSING
    said = str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
    return f"{said} {noun}{'' if numbers[-1] == 1 else 's'}"


def sight_notes(data: ReportData) -> tuple[str, ...]:
    """Why something could not be seen, and what else must be known."""
    return tuple(
        dict.fromkeys(
            f"{f.title}, round {v.round}, {WORDS[v.seen]}: {v.note}." for f in data.families for v in f.views if v.note
        )
    )
