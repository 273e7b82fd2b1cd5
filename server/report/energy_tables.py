"""The tables of joules and of counted operations."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from contract.messages import Operations
from hardware.energy import Provenance
from server.report.data import KIND_TITLES, KINDS, EnergyRow, Family, OperationsRow, ReportData
from server.report.energy import FIGURED, Total, phase_order, spent, totals
from server.report.quantities import MISSING, energy, energy_between, large, percent

MOST_LINES = 400


class PhaseLine(msgspec.Struct, frozen=True, kw_only=True):
    """Joules of one phase over all devices of a network, of one provenance, source and scope.

    Attributes:
        share: Of the network's joules with the same provenance, where they may be added up (modelled only).
    """

    who: str
    phase: str
    value: str
    per_update: str
    share: str
    provenance: Provenance
    source: str
    scope: str
    readings: int


def phase_lines(data: ReportData) -> tuple[PhaseLine, ...]:
    """Every network's joules by phase."""
    return tuple(line for family in data.families for line in _phases(family))


def _phases(family: Family) -> list[PhaseLine]:
    modelled_j = sum(t.energy_j for t in totals(spent(family.energy)) if t.provenance == "modelled")
    lines = []
    for provenance in FIGURED:
        for phase in sorted({row.phase for row in family.energy}, key=phase_order):
            rows = [row for row in family.energy if row.phase == phase and row.reading.provenance == provenance]
            lines += [
                PhaseLine(
                    who=family.title,
                    phase=phase,
                    value=energy_between(total.energy_j, total.uncertainty_j),
                    per_update=energy(total.energy_j / total.readings),
                    share=_share(total, phase, modelled_j),
                    provenance=provenance,
                    source=total.source,
                    scope=total.scope,
                    readings=total.readings,
                )
                for total in totals(rows)
            ]
    return lines


def _share(total: Total, phase: str, modelled_j: float) -> str:
    comparable = total.provenance == "modelled" and phase != "idle" and modelled_j > 0
    return percent(total.energy_j / modelled_j) if comparable else MISSING


class DeviceLine(msgspec.Struct, frozen=True, kw_only=True):
    """Joules of one phase on one device, of one provenance, source and scope."""

    who: str
    node: str
    phase: str
    value: str
    provenance: Provenance
    source: str
    scope: str
    readings: int


def device_lines(data: ReportData) -> tuple[DeviceLine, ...]:
    """Every energy figure behind the bars."""
    return tuple(line for family in data.families for line in _devices(family))


def _devices(family: Family) -> list[DeviceLine]:
    grouped: dict[tuple[str, str], list[EnergyRow]] = {}
    for row in family.energy:
        grouped.setdefault((row.node, row.phase), []).append(row)
    return [
        DeviceLine(
            who=family.title,
            node=node,
            phase=phase,
            value=energy_between(total.energy_j, total.uncertainty_j),
            provenance=total.provenance,
            source=total.source,
            scope=total.scope,
            readings=total.readings,
        )
        for (node, phase), rows in sorted(grouped.items(), key=lambda item: (item[0][0], phase_order(item[0][1])))
        for total in totals(rows)
    ]


class OperationsLine(msgspec.Struct, frozen=True, kw_only=True):
    """Mean counts of one network's updates in one kind of round."""

    who: str
    n: int
    macs: str
    effective_macs: str
    acs: str
    dense_macs: str
    membrane_updates: str
    backward_macs: str
    memory_bytes: str
    backward_bytes: str
    spike_rate: str


class ActivityLine(msgspec.Struct, frozen=True, kw_only=True):
    """How much of what entered one layer was not 0, over all updates of one kind of round."""

    who: str
    layer: str
    active: str
    sites: str
    share: str
    sparsity: str


def operations_lines(data: ReportData) -> tuple[OperationsLine, ...]:
    """What the modelled joules of the phase `train` were counted from, per update."""
    return tuple(
        _operations(f"{family.title}, {KIND_TITLES[kind]}", rows)
        for family in data.families
        for kind in KINDS
        if (rows := [row for row in family.operations if row.kind == kind])
    )


def _operations(who: str, rows: Sequence[OperationsRow]) -> OperationsLine:
    counted = [row.operations for row in rows]
    sites = sum(one.spike_sites for one in counted)
    return OperationsLine(
        who=who,
        n=len(rows),
        macs=_mean(counted, "macs"),
        effective_macs=_mean(counted, "effective_macs"),
        acs=_mean(counted, "acs"),
        dense_macs=_mean(counted, "dense_macs"),
        membrane_updates=_mean(counted, "membrane_updates"),
        backward_macs=_mean(counted, "backward_macs"),
        memory_bytes=_mean(counted, "memory_bytes"),
        backward_bytes=_mean(counted, "backward_bytes"),
        spike_rate=percent(sum(one.spikes for one in counted) / sites) if sites else MISSING,
    )


def activity_lines(data: ReportData) -> tuple[ActivityLine, ...]:
    """Activity and sparsity of each layer's input, per network and kind of round."""
    return tuple(
        line
        for family in data.families
        for kind in KINDS
        for line in _activity(
            f"{family.title}, {KIND_TITLES[kind]}", [row.operations for row in family.operations if row.kind == kind]
        )
    )


def _activity(who: str, counted: Sequence[Operations]) -> list[ActivityLine]:
    layers = min((len(one.sites) for one in counted), default=0)
    lines = []
    for i in range(layers):
        active, sites = sum(one.active[i] for one in counted), sum(one.sites[i] for one in counted)
        if sites:
            lines.append(
                ActivityLine(
                    who=who,
                    layer="input frames" if i == 0 else f"output of hidden layer {i}",
                    active=large(active),
                    sites=large(sites),
                    share=percent(active / sites),
                    sparsity=percent(1 - active / sites),
                )
            )
    return lines


def _mean(counted: Sequence[Operations], name: str) -> str:
    return large(sum(getattr(one, name) for one in counted) / len(counted))
