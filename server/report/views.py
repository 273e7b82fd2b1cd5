"""The page's parts as plain records of text: what the template prints, and nothing it would have to compute."""

from __future__ import annotations

import re

import msgspec
from markupsafe import Markup

from contract.messages import AttackScore
from server.report.conclusion import last_accuracy, unscored_updates
from server.report.controls import mean_image_level
from server.report.data import KIND_TITLES, KINDS, Family, Picture, ReportData, RoundKind, ScoreRow
from server.report.energy import FIGURED, gaps, phase_order, totals
from server.report.images import data_uri
from server.report.quantities import MISSING, count, data_size, decibel, duration, energy, percent
from server.report.strips import strip
from server.report.trials import Spread, attack_names, gives_images, select, spread, worst_case

REASONS = 16
_NUMBER = re.compile(r"\d[\d.,]*(?:e[+-]?\d+)?")


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One figure of a tile: whose it is, the figure, how it came about, and what it rests on."""

    who: str
    value: str
    badge: str
    note: str = ""


class Tile(msgspec.Struct, frozen=True, kw_only=True):
    """One headline: the main run's figure large, others below."""

    title: str
    lines: tuple[Line, ...]


def tiles(data: ReportData) -> tuple[Tile, ...]:
    """The headline numbers, each with its provenance."""
    families = data.families
    return (
        Tile(title="Accuracy, held-out data", lines=tuple(map(_accuracy, families))),
        Tile(title="Worst leak, audit rounds", lines=tuple(_leak(f, "audit") for f in families)),
        Tile(title="Worst leak, training rounds", lines=tuple(_leak(f, "train") for f in families)),
        Tile(title="Energy of all updates", lines=tuple(line for f in families for line in _joules(f))),
        Tile(title="Bytes sent by the devices", lines=tuple(map(_bytes, families))),
        Tile(title="Updates admitted", lines=tuple(map(_updates, families))),
    )


def _accuracy(family: Family) -> Line:
    accuracy = last_accuracy(family)
    if accuracy is None:
        return Line(who=family.title, value=MISSING, badge="unavailable", note="no round was evaluated")
    samples = "" if family.evaluated_on is None else f"n = {count(family.evaluated_on)} samples, "
    last = next(row.round for row in reversed(family.rounds) if row.accuracy is not None)
    return Line(who=family.title, value=percent(accuracy), badge="evaluated", note=f"{samples}after round {last}")


def _leak(family: Family, kind: RoundKind) -> Line:
    rows = select(family, kind)
    worst = worst_case(rows)
    if worst is None:
        note = "no attack gave an image" if rows else "nothing was attacked and scored"
        return Line(who=family.title, value=MISSING, badge="unavailable", note=note)
    updates = len({row.update for row in rows})
    note = f"by {worst.attack}, round {worst.round}, {worst.node}; n = {updates} updates"
    return Line(who=family.title, value=f"{decibel(worst.psnr_db)} dB", badge="scored", note=note)


def _joules(family: Family) -> tuple[Line, ...]:
    found = totals(family.energy)
    lines = []
    for provenance in FIGURED:
        mine = [total for total in found if total.provenance == provenance]
        groups = [mine] if provenance == "modelled" and mine else [[total] for total in mine]
        for group in groups:
            note = ", ".join(f"{total.scope} {energy(total.energy_j)}" for total in group)
            note = note if provenance == "modelled" else f"{group[0].source}, {group[0].scope}"
            value = energy(sum(total.energy_j for total in group))
            lines.append(Line(who=family.title, value=value, badge=provenance, note=note))
    if not lines:
        why = next((gap.reason for gap in gaps(family.energy)), "no device sent an energy report")
        lines.append(Line(who=family.title, value=MISSING, badge="unavailable", note=why))
    return tuple(lines)


def _bytes(family: Family) -> Line:
    if family.bytes_up is None:
        return Line(who=family.title, value=MISSING, badge="unavailable", note="not in the ledger")
    return Line(
        who=family.title, value=data_size(family.bytes_up), badge="counted", note=f"{count(family.bytes_up)} bytes"
    )


def _updates(family: Family) -> Line:
    c = family.counts
    if c.admitted is None:
        return Line(who=family.title, value=MISSING, badge="unavailable", note="not in the ledger")
    fates = ((c.published, "published"), (c.refused, "refused"), (c.lost, "lost"), (c.duplicated, "duplicated"))
    note = ", ".join(f"{count(number)} {fate}" for number, fate in fates)
    return Line(who=family.title, value=count(c.admitted), badge="counted", note=note)


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
    for kind in reversed(KINDS):
        for family in data.families:
            rows = select(family, kind)
            worst = worst_case(rows)
            groups.append(
                AttackGroup(
                    title=f"{family.title}, {KIND_TITLES[kind]}",
                    updates=len({row.update for row in rows}),
                    rows=tuple(
                        _attack_row(attack, found, worst=worst is not None and worst.attack == attack)
                        for attack in attack_names([family])
                        if (found := [row for row in rows if row.score.attack == attack])
                    ),
                    mean_image=decibel(mean_image_level(rows)),
                )
            )
    return tuple(groups)


def _attack_row(attack: str, rows: list[ScoreRow], *, worst: bool) -> AttackRow:
    figures = spread(rows)
    images = gives_images([row for row in rows if row.score.verdict != "refused"])
    exact = sum(row.score.verdict == "exact" for row in rows)
    return AttackRow(
        attack=attack,
        n=str(figures.trials) + (f" (+{figures.refused} refused)" if figures.refused else ""),
        failed=str(figures.failed) if figures.trials else MISSING,
        exact=str(exact) if figures.trials else MISSING,
        median=_trial_db(figures, figures.median_db, images=images),
        interval=_interval(figures, images=images),
        best=_trial_db(figures, figures.max_db, images=images),
        labels=MISSING if figures.labels_right is None else f"{figures.labels_right}/{figures.labels_of}",
        seconds=duration(figures.seconds),
        strip=strip(rows) if images and figures.trials else "",
        worst=worst,
    )


def _trial_db(figures: Spread, value: float | None, *, images: bool) -> str:
    if not figures.trials:
        return MISSING
    return decibel(value) if value is not None else "no image" if images else "labels only"


def _interval(figures: Spread, *, images: bool) -> str:
    if figures.trials < 2 or not images:
        return MISSING
    low, high = (decibel(end) if end is not None else "no image" for end in (figures.low_db, figures.high_db))
    return f"{low} to {high}"


class Panel(msgspec.Struct, frozen=True, kw_only=True):
    """One picture: a truth or a reconstruction; `uri` is empty when there is no image."""

    title: str
    uri: str
    figure: str
    verdict: str
    note: str = ""


class PictureRow(msgspec.Struct, frozen=True, kw_only=True):
    """One true sample and all reconstructions of it."""

    title: str
    detail: str
    truth: Panel
    candidates: tuple[Panel, ...]


class Gallery(msgspec.Struct, frozen=True, kw_only=True):
    """Pictures of one network."""

    title: str
    rows: tuple[PictureRow, ...]


def galleries(data: ReportData) -> tuple[Gallery, ...]:
    """Truth beside reconstructions, as the ledger gave them."""
    return tuple(Gallery(title=f.title, rows=tuple(map(_picture_row, f.pictures))) for f in data.families)


def _picture_row(picture: Picture) -> PictureRow:
    label = "" if picture.label is None else f"label {picture.label}"
    return PictureRow(
        title=picture.node,
        detail=f"round {picture.round}, update {picture.update[:8]}",
        truth=Panel(title="truth", uri=data_uri(picture.truth), figure=label, verdict=""),
        candidates=tuple(
            Panel(
                title=c.score.attack,
                uri="" if c.image is None else data_uri(c.image),
                figure=MISSING if c.score.psnr_db is None else f"{decibel(c.score.psnr_db)} dB",
                verdict=c.score.verdict,
                note=_no_image(c.score) if c.image is None else "",
            )
            for c in picture.candidates
        ),
    )


def _no_image(score: AttackScore) -> str:
    if score.psnr_db is not None:
        return "image not kept"
    return "labels only" if score.labels_right is not None and score.verdict != "failed" else "no image"


class Reason(msgspec.Struct, frozen=True, kw_only=True):
    """Why an attack was refused or failed, with how often."""

    where: str
    attack: str
    verdict: str
    reason: str
    times: int


def attack_reasons(data: ReportData) -> tuple[Reason, ...]:
    """Refusals and failures, those that differ by a number only counted together; most frequent first."""
    found: dict[tuple[str, str, str, str], list[str]] = {}
    for family in data.families:
        for row in family.scores:
            score = row.score
            silent = score.psnr_db is None and score.labels_right is None
            if score.verdict in {"failed", "refused"} or silent:
                where = f"{family.title}, {KIND_TITLES[row.kind]}"
                key = (where, score.attack, score.verdict, _NUMBER.sub("#", score.reason))
                found.setdefault(key, []).append(score.reason or "no reason given")
    reasons = [
        Reason(where=where, attack=attack, verdict=verdict, reason=texts[0], times=len(texts))
        for (where, attack, verdict, _), texts in found.items()
    ]
    return tuple(sorted(reasons, key=lambda r: -r.times))


class EnergyLine(msgspec.Struct, frozen=True, kw_only=True):
    """Joules of one phase on one device, of one provenance, source and scope."""

    who: str
    node: str
    phase: str
    value: str
    provenance: str
    source: str
    scope: str
    readings: int


def energy_lines(data: ReportData) -> tuple[EnergyLine, ...]:
    """Every energy figure behind the bars."""
    lines = []
    for family in data.families:
        for node in sorted({row.node for row in family.energy}):
            for phase in sorted({row.phase for row in family.energy}, key=phase_order):
                rows = [row for row in family.energy if (row.node, row.phase) == (node, phase)]
                lines += [
                    EnergyLine(
                        who=family.title,
                        node=node,
                        phase=phase,
                        value=energy(total.energy_j),
                        provenance=total.provenance,
                        source=total.source,
                        scope=total.scope,
                        readings=total.readings,
                    )
                    for total in totals(rows)
                ]
    return tuple(lines)


def notes(data: ReportData) -> tuple[str, ...]:
    """What is missing from this page, in words."""
    found = list(data.problems)
    for family in data.families:
        unscored = unscored_updates(family)
        if unscored:
            found.append(
                f"{family.title}: {unscored} of {len(family.updates)} admitted updates have no score "
                "(the attacker or the device did not answer in time); no figure below includes them."
            )
        if family.status != "finished":
            found.append(f"{family.title}: the run's last state is {family.status!r}, not 'finished'.")
    if data.twin is None:
        found.append(f"No ANN twin: {data.twin_missing}.")
    return tuple(found)
