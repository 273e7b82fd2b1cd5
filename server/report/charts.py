"""The report's charts: joules per phase and device, accuracy per round, worst-case PSNR per round."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from markupsafe import Markup
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hardware.energy import Provenance
from server.report.data import KIND_TITLES, KINDS, Family, RoundKind
from server.report.energy import FIGURED, by_device_and_phase, phase_order
from server.report.quantities import prefix_of
from server.report.svg import INK, MUTED, SERIES, chart
from server.report.trials import attack_names, finite, gives_images, median, select

MARKERS = "osD^vPX*"


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
            joules=devices,
        )
        for provenance in FIGURED
        for family in families
        for group, devices in by_device_and_phase(family.energy, provenance).items()
    ]


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
    nodes = sorted(panel.joules, reverse=True)
    left = [0.0] * len(nodes)
    for phase in phases:
        widths = [panel.joules[node].get(phase, 0.0) / factor for node in nodes]
        ax.barh(nodes, widths, left=left, height=0.62, color=SERIES[phase_order(phase) % len(SERIES)], label=phase)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    ax.set_title(panel.title)
    ax.set_xlabel(f"energy over the run ({prefix}J)")
    ax.set_xlim(0, 1.05 * largest_j / factor if largest_j else 1.0)
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False, axis="y")


def accuracy_chart(families: Sequence[Family]) -> Markup | None:
    """Held-out accuracy after each round, one line per network; `None` when no round was evaluated."""
    lines = [
        (
            f.title,
            [(r, a) for r, a in ((0, f.initial_accuracy), *((r.round, r.accuracy) for r in f.rounds)) if a is not None],
        )
        for f in families
    ]
    lines = [(title, points) for title, points in lines if points]
    if not lines:
        return None

    def draw(figure: Figure, narrow: bool) -> None:  # noqa: ARG001, FBT001 - the form that svg.Draw has
        ax = figure.subplots()
        for index, (title, points) in enumerate(lines):
            rounds = [r for r, _ in points]
            heights = [100 * a for _, a in points]
            ax.plot(rounds, heights, color=SERIES[index], marker=MARKERS[index], label=title, clip_on=False)
        ax.set_xlabel("round")
        ax.set_ylabel("held-out accuracy (%)")
        ax.set_ylim(0, 100)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.legend(loc="lower right")

    label = "Accuracy on held-out images after each round"
    return chart("accuracy", label, draw, wide_height=300, narrow_height=260)


def leakage_chart(families: Sequence[Family]) -> Markup | None:
    """Worst-case PSNR per round, networks side by side, training and audit apart; `None` when nothing was scored."""
    attacks = tuple(a for a in attack_names(families) if any(_peaks(f, kind, a) for f in families for kind in KINDS))
    if not attacks:
        return None
    kinds = [kind for kind in reversed(KINDS) if any(select(family, kind) for family in families)]

    def draw(figure: Figure, narrow: bool) -> None:  # noqa: FBT001 - the form that svg.Draw has
        columns = 1 if narrow else len(families)
        grid = figure.subplots(len(kinds) * len(families) // columns, columns, squeeze=False)
        axes = grid.reshape(len(kinds), len(families))
        for kind, row in zip(kinds, axes, strict=True):
            for family, ax in zip(families, row, strict=True):
                _trace(ax, family, kind, attacks)
            top = max(ax.get_ylim()[1] for ax in row)
            for ax in row:
                ax.set_ylim(0, top)
        handles: dict[str, Artist] = {}
        for ax in axes.flat:
            drawn, names = ax.get_legend_handles_labels()
            handles |= dict(zip(names, drawn, strict=True))
        figure.legend(list(handles.values()), list(handles), loc="outside upper left", ncols=2 if narrow else 6)

    label = "Highest PSNR per round for each attack; the table below has the figures over all updates"
    rows = len(kinds) * len(families)
    return chart("leakage", label, draw, wide_height=50 + 250 * len(kinds), narrow_height=110 + 220 * rows)


def _trace(ax: Axes, family: Family, kind: RoundKind, attacks: Sequence[str]) -> None:
    worst: dict[int, float] = {}
    for index, attack in enumerate(attacks):
        peaks = _peaks(family, kind, attack)
        color, marker = SERIES[index % len(SERIES)], MARKERS[index % len(MARKERS)]
        ax.plot(list(peaks), list(peaks.values()), label=attack, color=color, marker=marker, zorder=3)
        worst |= {round_: max(worst.get(round_, 0.0), peak) for round_, peak in peaks.items()}
    rounds = sorted(worst)
    ax.plot(rounds, [worst[r] for r in rounds], color=INK, linewidth=5, alpha=0.16, label="worst case", zorder=2)
    for name, level, dashes in _levels(family, kind):
        ax.axhline(level, color=MUTED, linestyle=dashes, linewidth=1.2, label=name, zorder=1)
    ax.set_title(f"{family.title} · {KIND_TITLES[kind]}")
    ax.set_xlabel("round")
    ax.set_ylabel("PSNR (dB)")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def _peaks(family: Family, kind: RoundKind, attack: str) -> dict[int, float]:
    """Highest PSNR of one attack in each round."""
    rows = select(family, kind, attack)
    found: dict[int, float] = {}
    if gives_images(rows):
        for row in rows:
            if row.score.psnr_db is not None:
                found[row.round] = max(found.get(row.round, 0.0), row.score.psnr_db)
    return dict(sorted(found.items()))


def _levels(family: Family, kind: RoundKind) -> list[tuple[str, float, str]]:
    scores = [row.score for row in select(family, kind)]
    drawn = (
        ("mean image (control)", [s.mean_image_db for s in scores if s.mean_image_db is not None], "--"),
        ("wrong sample (control)", [s.wrong_sample_db for s in scores if s.wrong_sample_db is not None], ":"),
    )
    return [(name, level, dashes) for name, found, dashes in drawn if (level := finite(median(found))) is not None]
