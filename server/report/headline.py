"""The headline numbers, each with its provenance, and what the page lacks."""

from __future__ import annotations

import msgspec

from server.report.conclusion import last_accuracy, unscored_updates
from server.report.data import EnergyRow, Family, ReportData, RoundKind
from server.report.energy import FIGURED, Total, gaps, spent, totals
from server.report.quantities import MISSING, count, data_size, decibel, energy, percent
from server.report.trials import select, worst_case


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
        return Line(
            who=family.title, value=MISSING, badge="unavailable", note=family.unevaluated or "no round was evaluated"
        )
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
    ties = f" ({', '.join(worst.ties)} as high)" if worst.ties else ""
    note = f"by {worst.attack}{ties}, round {worst.round}, {worst.node}; n = {updates} updates"
    return Line(who=family.title, value=f"{decibel(worst.psnr_db)} dB", badge="scored", note=note)


def _joules(family: Family) -> tuple[Line, ...]:
    """One line per provenance (per meter, where measured), those that cover the most updates first."""
    rows = spent(family.energy)
    lines: list[tuple[int, Line]] = []
    for provenance in FIGURED:
        mine = [total for total in totals(rows) if total.provenance == provenance]
        for group in [mine] if provenance == "modelled" and mine else [[total] for total in mine]:
            covered = len({(row.node, row.round, row.update) for row in rows if _is_of(row, group)})
            whole = len(family.updates)
            parts = ", ".join(f"{total.scope} {energy(total.energy_j)}" for total in group)
            origin = parts if provenance == "modelled" else f"{group[0].source}, {group[0].scope}"
            note = f"{origin}; {count(covered)} of {count(whole)} updates, idle time apart"
            value = energy(sum(total.energy_j for total in group))
            lines.append((covered, Line(who=family.title, value=value, badge=provenance, note=note)))
    if not lines:
        why = next((gap.reason for gap in gaps(family.energy)), "no device sent an energy report")
        return (Line(who=family.title, value=MISSING, badge="unavailable", note=why),)
    return tuple(line for _, line in sorted(lines, key=lambda pair: -pair[0]))


def _is_of(row: EnergyRow, group: list[Total]) -> bool:
    reading = row.reading
    return (reading.provenance, reading.source, reading.scope) in {(t.provenance, t.source, t.scope) for t in group}


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
        found += _missed(family)
        if family.status != "finished":
            found.append(f"{family.title}: the run's last state is {family.status!r}, not 'finished'.")
    if data.twin is None:
        found.append(f"No ANN twin: {data.twin_missing}.")
    return tuple(found)


def _missed(family: Family) -> list[str]:
    """What the attacker did not get to see, or had no time for."""
    reach, found = family.reach, list[str]()
    if reach is not None and reach.never_attacked:
        found.append(
            f"{family.title}: {reach.never_attacked} of {len(family.updates)} admitted updates were never attacked "
            "(the attacker was away, stopped or too slow for them); that says nothing about their privacy."
        )
    if reach is not None and reach.dropped:
        found.append(f"{family.title}: the mirror could not hand on an update {reach.dropped} times (server offline).")
    return found
