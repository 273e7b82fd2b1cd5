"""Joules per device as bars, stacked by phase."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hardware.energy import PHASES, Provenance
from server.report.data import Family
from server.report.energy import FIGURED, by_device_and_phase, phase_order
from server.report.quantities import energy, prefix_of
from server.report.svg import SERIES, chart, short

PHASE_COLOURS: dict[str, str] = dict(zip(PHASES, (SERIES[i] for i in (6, 4, 2, 0, 3, 1, 7)), strict=True))
MOST_BARS = 24
"""Devices with a bar of their own in each panel."""


class EnergyPanel(msgspec.Struct, frozen=True, kw_only=True):
    """One set of stacked bars: joules by device and phase, all of one provenance and one origin."""

    title: str
    provenance: Provenance
    joules: dict[str, dict[str, float]]


def energy_panels(families: Sequence[Family]) -> list[EnergyPanel]:
    """What is stacked together: each network, each provenance, each meter."""
    return [
        EnergyPanel(
            title=" · ".join(part for part in (family.title, provenance, group) if part),
            provenance=provenance,
            joules=_largest(devices),
        )
        for provenance in FIGURED
        for family in families
        for group, devices in by_device_and_phase(family.energy, provenance).items()
    ]


def _largest(devices: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """The devices that get a bar, by name: all, or those with the most joules."""
    names = sorted(devices, key=lambda node: -sum(devices[node].values()))[:MOST_BARS]
    return {node: devices[node] for node in sorted(names)}


def energy_chart(families: Sequence[Family]) -> Markup | None:
    """Stacked bars of joules per device, one panel per network and provenance; `None` without a figure."""
    panels = energy_panels(families)
    if not panels:
        return None
    phases = sorted({p for panel in panels for d in panel.joules.values() for p in d}, key=phase_order)
    bars = sum(len(panel.joules) for panel in panels)

    def draw(figure: Figure, narrow: bool) -> None:  # noqa: FBT001 - the form that svg.Draw has
        heights = [len(panel.joules) + 1.2 for panel in panels]
        axes = figure.subplots(len(panels), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
        for panel, ax in zip(panels, axes, strict=True):
            same = [p for p in panels if p.provenance == panel.provenance]
            _stack(ax, panel, phases, largest_j=max(sum(d.values()) for p in same for d in p.joules.values()))
        handles, labels = axes[0].get_legend_handles_labels()
        columns = 3 if narrow else len(phases)
        figure.legend(handles, labels, loc="outside upper left", ncols=columns, handlelength=1, handleheight=1)

    height = 40 + 76 * len(panels) + 26 * bars
    label = "Joules per device, stacked by phase; the table below has the same figures"
    return chart("energy", label, draw, wide_height=height, narrow_height=height + 40)


def _stack(ax: Axes, panel: EnergyPanel, phases: Sequence[str], *, largest_j: float) -> None:
    factor, prefix = prefix_of(largest_j)
    nodes = list(panel.joules)
    places = range(len(nodes))
    left = [0.0] * len(nodes)
    for phase in phases:
        widths = [panel.joules[node].get(phase, 0.0) / factor for node in nodes]
        ax.barh(places, widths, left=left, height=0.62, color=PHASE_COLOURS.get(phase, SERIES[5]), label=phase)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    for place, total in zip(places, left, strict=True):
        ax.annotate(energy(total * factor), (total, place), (6, 0), textcoords="offset points", va="center")
    ax.set_yticks(places, [short(node) for node in nodes])
    ax.invert_yaxis()
    ax.set_title(short(panel.title, 44))
    ax.set_xlabel(f"energy over the run ({prefix}J)")
    ax.set_xlim(0, 1.16 * largest_j / factor if largest_j else 1.0)
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False, axis="y")
