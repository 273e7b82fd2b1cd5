"""Charts over rounds: held-out accuracy, and worst-case PSNR."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from server.report.data import KIND_TITLES, KINDS, Family, RoundKind
from server.report.svg import INK, MUTED, SERIES, chart, short
from server.report.trials import attack_names, finite, median, select

MARKERS = "osD^vPX*"


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
    last = max(row.round for family in families for row in family.scores)

    def draw(figure: Figure, narrow: bool) -> None:  # noqa: FBT001 - the form that svg.Draw has
        columns = 1 if narrow else len(families)
        grid = figure.subplots(len(kinds) * len(families) // columns, columns, squeeze=False)
        axes = grid.reshape(len(kinds), len(families))
        for kind, row in zip(kinds, axes, strict=True):
            for family, ax in zip(families, row, strict=True):
                _trace(ax, family, kind, attacks)
            top = max(ax.get_ylim()[1] for ax in row)
            for ax in row:
                ax.set_ylim(0, 1.04 * top)
                ax.set_xlim(0.5, last + 0.5)
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
        figures = [math.nan if peak is None else peak for peak in peaks.values()]
        failed = [round_ for round_, peak in peaks.items() if peak is None]
        color, marker = SERIES[index % len(SERIES)], MARKERS[index % len(MARKERS)]
        ax.plot(list(peaks), figures, label=short(attack), color=color, marker=marker, zorder=3)
        if failed:
            ax.plot(failed, [0.0] * len(failed), color=color, marker="x", linestyle="none", clip_on=False, zorder=4)
        worst |= {round_: max(worst.get(round_, 0.0), peak) for round_, peak in peaks.items() if peak is not None}
    rounds = sorted({row.round for row in select(family, kind)})
    (band,) = ax.plot(
        rounds, [worst.get(r, math.nan) for r in rounds], color=INK, label="worst case", linewidth=11, zorder=2
    )
    band.set(alpha=0.18, solid_capstyle="round")
    for name, level, dashes in _levels(family, kind):
        ax.axhline(level, color=MUTED, linestyle=dashes, linewidth=1.5, label=name, zorder=1)
    ax.set_title(f"{family.title} · {KIND_TITLES[kind]}")
    ax.set_xlabel("round")
    ax.set_ylabel("PSNR (dB)")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def _peaks(family: Family, kind: RoundKind, attack: str) -> dict[int, float | None]:
    """Highest PSNR of one attack in each round in which it ran, `None` where no update gave an image.

    Empty for an attack that never gave an image in this kind of round.
    """
    rows = [row for row in select(family, kind, attack) if row.score.verdict != "refused"]
    found: dict[int, float | None] = {}
    for row in rows:
        held, figure = found.get(row.round), row.score.psnr_db
        found[row.round] = held if figure is None else figure if held is None else max(held, figure)
    return dict(sorted(found.items())) if any(peak is not None for peak in found.values()) else {}


def _levels(family: Family, kind: RoundKind) -> list[tuple[str, float, str]]:
    scores = [row.score for row in select(family, kind)]
    drawn = (
        ("mean image (control)", [s.mean_image_db for s in scores if s.mean_image_db is not None], "--"),
        ("wrong sample (control)", [s.wrong_sample_db for s in scores if s.wrong_sample_db is not None], ":"),
    )
    return [(name, level, dashes) for name, found, dashes in drawn if (level := finite(median(found))) is not None]
