"""Joules of a run, grouped so that nothing of different origin is ever added up."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from hardware.energy import PHASES, WAITING, EnergyReading, Provenance
from server.report.data import EnergyRow, Family

OTHER = "other"
FIGURED: tuple[Provenance, ...] = ("measured", "modelled", "emulated")


class Total(msgspec.Struct, frozen=True, kw_only=True):
    """Joules of one provenance, source and scope over a run; sums of like with like only.

    Attributes:
        uncertainty_j: Half of the 95 % interval: the readings' own, added up, since errors of one meter need not be
            independent; `None` where a reading has none.
    """

    provenance: Provenance
    source: str
    scope: str
    energy_j: float
    readings: int
    uncertainty_j: float | None = None


class Gap(msgspec.Struct, frozen=True, kw_only=True):
    """Readings without a figure, and why."""

    phases: tuple[str, ...]
    source: str
    scope: str
    reason: str
    readings: int
    devices: int


def totals(rows: Iterable[EnergyRow]) -> tuple[Total, ...]:
    """One total per provenance, source and scope, measured first."""
    groups: dict[tuple[Provenance, str, str], list[EnergyReading]] = {}
    for row in rows:
        reading = row.reading
        if reading.energy_j is not None:
            groups.setdefault((reading.provenance, reading.source, reading.scope), []).append(reading)
    found = [
        Total(
            provenance=provenance,
            source=source,
            scope=scope,
            energy_j=sum(reading.energy_j or 0.0 for reading in readings),
            readings=len(readings),
            uncertainty_j=_added([reading.uncertainty_j for reading in readings]),
        )
        for (provenance, source, scope), readings in groups.items()
    ]
    return tuple(sorted(found, key=lambda t: (FIGURED.index(t.provenance), t.source, t.scope)))


def _added(parts: list[float | None]) -> float | None:
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None


def gaps(rows: Iterable[EnergyRow]) -> tuple[Gap, ...]:
    """Readings without a figure, by source, scope and reason."""
    found: dict[tuple[str, str, str], list[EnergyRow]] = {}
    for row in rows:
        reading = row.reading
        if reading.energy_j is None:
            reason = reading.reason.replace(f"phase {row.phase!r}", "this phase")
            found.setdefault((reading.source, reading.scope, reason), []).append(row)
    return tuple(
        Gap(
            phases=tuple(sorted({row.phase for row in missing}, key=phase_order)),
            source=source,
            scope=scope,
            reason=reason,
            readings=len(missing),
            devices=len({row.node for row in missing}),
        )
        for (source, scope, reason), missing in sorted(found.items())
    )


def phase_order(phase: str) -> int:
    """Place of a phase in a device's day; unknown ones last."""
    return PHASES.index(phase) if phase in PHASES else len(PHASES)


def spent(rows: Iterable[EnergyRow]) -> list[EnergyRow]:
    """Readings of making and sending updates: time spent idle or asleep between them is no cost of theirs."""
    return [row for row in rows if row.phase not in WAITING]


def modelled_j(family: Family) -> float | None:
    """Modelled joules of all updates: a model's scopes (operations, radio) do not overlap. `None` without any."""
    figures = [t.energy_j for t in totals(spent(family.energy)) if t.provenance == "modelled"]
    return sum(figures) if figures else None


def by_device_and_phase(rows: Iterable[EnergyRow], provenance: Provenance) -> dict[str, dict[str, dict[str, float]]]:
    """Joules by group, device and phase.

    Groups are the sources and scopes whose figures may be stacked: all modelled ones together, every meter for itself.
    """
    grouped: dict[str, dict[str, dict[str, float]]] = {}
    for row in rows:
        reading = row.reading
        if reading.energy_j is None or reading.provenance != provenance:
            continue
        group = "" if provenance == "modelled" else f"{reading.source}, {reading.scope}"
        phases = grouped.setdefault(group, {}).setdefault(row.node, {})
        phase = row.phase if row.phase in PHASES else OTHER
        phases[phase] = phases.get(phase, 0.0) + reading.energy_j
    return grouped
