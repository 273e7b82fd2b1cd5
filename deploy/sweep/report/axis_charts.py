"""Leakage along each axis of a sweep, and against the bytes of an update."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from deploy.sweep.report.configurations import Configuration
from deploy.sweep.report.front import height
from server.report import quantities
from server.report.svg import INK, SERIES, chart, short

_COLORS = {"snn": SERIES[0], "ann": SERIES[1]}


def axis_chart(found: Sequence[Configuration], axes: Sequence[str]) -> Markup | None:
    """One panel an axis with at least two values: every configuration as a point, a line through the medians."""
    drawn = [axis for axis in axes if len({one.labels[axis] for one in found if axis in one.labels}) > 1]
    attacked = [one for one in found if one.leakage.n > 0]
    if not drawn or not attacked:
        return None

    def draw(figure: Figure, narrow: bool) -> None:  # noqa: FBT001 - the form that svg.Draw has
        columns = 1 if narrow else min(3, len(drawn))
        rows = -(-len(drawn) // columns)
        panels = figure.subplots(rows, columns, squeeze=False)
        for ax, axis in zip(panels.flat, drawn, strict=False):
            _panel(ax, attacked, axis)
        for ax in panels.flat[len(drawn) :]:
            ax.set_visible(False)
        handles, names = panels.flat[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper left", ncols=2)

    rows = -(-len(drawn) // 3)
    label = "Worst-case leakage along each axis of the sweep"
    return chart("axes", label, draw, wide_height=60 + 270 * rows, narrow_height=60 + 260 * len(drawn))


def _panel(ax: Axes, found: Sequence[Configuration], axis: str) -> None:
    values = list(dict.fromkeys(one.labels[axis] for one in found if axis in one.labels))
    for offset, family in ((-0.08, "snn"), (0.08, "ann")):
        groups = [[height(one) for one in found if one.labels.get(axis) == v and one.family == family] for v in values]
        if not any(groups):
            continue
        for at, group in enumerate(groups):
            ax.plot([at + offset] * len(group), group, ".", color=_COLORS[family], alpha=0.5, zorder=3)
        places = [at + offset for at, group in enumerate(groups) if group]
        middles = [float(np.median(group)) for group in groups if group]
        ax.plot(places, middles, "o-", color=_COLORS[family], label=f"{family.upper()}, median", zorder=4)
    ax.set_xticks(range(len(values)), [short(value, 14) for value in values])
    if max(map(len, values)) > 7 and len(values) > 2:
        ax.tick_params("x", rotation=30)
    ax.set_xlim(-0.5, len(values) - 0.5)
    ax.set_ylim(bottom=-4)
    ax.set_title(short(axis, 30))
    ax.set_ylabel("worst case (dB)")


def bytes_chart(found: Sequence[Configuration]) -> Markup | None:
    """Leakage against the bytes of one update; `None` when all updates have the same size."""
    shown = [one for one in found if one.bytes.value and one.leakage.n > 0]
    if len({round(one.bytes.value or 0.0) for one in shown}) < 2:
        return None

    def draw(figure: Figure, narrow: bool) -> None:  # noqa: ARG001, FBT001 - the form that svg.Draw has
        ax = figure.subplots()
        for family, color in _COLORS.items():
            group = [one for one in shown if one.family == family]
            if group:
                xs, ys = [(one.bytes.value or 0.0) / 1024 for one in group], [height(one) for one in group]
                ax.plot(xs, ys, "o", color=color, label=family.upper(), zorder=4)
            for one in group:
                if one.leakage.low is not None and one.leakage.high is not None:
                    at = (one.bytes.value or 0.0) / 1024
                    ax.plot([at, at], [one.leakage.low, one.leakage.high], color=color, linewidth=1.0, zorder=3)
        ax.set_xscale("log")
        for axis_formatter in (ax.xaxis.set_major_formatter, ax.xaxis.set_minor_formatter):
            axis_formatter(FuncFormatter(lambda size, _: quantities.significant(size, 2)))
        ax.set_xlabel("KiB an update, mean over all rounds")
        ax.set_ylabel("worst case (dB)")
        ax.set_ylim(bottom=-4)
        ax.legend(loc="best", labelcolor=INK)

    label = "Worst-case leakage against the size of an update"
    return chart("bytes", label, draw, wide_height=320, narrow_height=280)
