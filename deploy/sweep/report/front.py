"""Which configurations dominate, and the figure of joules against leakage."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deploy.sweep.estimates import middle
from deploy.sweep.report.configurations import Configuration
from deploy.sweep.report.lane import Lane, lane
from deploy.sweep.report.scales import log_x
from server.report import quantities
from server.report.svg import INK, MUTED, SERIES, chart

CLOSE_POINTS = 0.03
"""How much below the best accuracy a configuration may lie and still be on the front."""


def rank(one: Configuration) -> float:
    """Its leakage in dB for comparisons: without an image in at least half of the updates it ranks below all others."""
    return -math.inf if one.leakage.value is None else one.leakage.value


def accurate(found: Sequence[Configuration]) -> list[Configuration]:
    """Those with an accuracy not more than `CLOSE_POINTS` below the best one of the same data set."""
    best: dict[str, float] = {}
    for one in found:
        best[one.dataset] = max(best.get(one.dataset, 0.0), one.accuracy.value or 0.0)
    return [
        one
        for one in found
        if one.accuracy.value is not None and one.accuracy.value >= best[one.dataset] - CLOSE_POINTS
    ]


def front(found: Sequence[Configuration]) -> list[Configuration]:
    """The accurate ones that no other accurate one of their data set beats in joules and in leakage at once.

    Cheapest first.

    A configuration without joules, or of which nothing was attacked, can neither be on it nor beat another.
    """
    known = [one for one in accurate(found) if one.joules.value is not None and one.leakage.n > 0]
    kept = [one for one in known if not any(_beats(other, one) for other in known)]
    return sorted(kept, key=lambda one: (one.joules.value or 0.0, rank(one)))


def _beats(a: Configuration, b: Configuration) -> bool:
    if a.dataset != b.dataset:
        return False
    ours, theirs = (a.joules.value or 0.0, rank(a)), (b.joules.value or 0.0, rank(b))
    return ours != theirs and ours[0] <= theirs[0] and ours[1] <= theirs[1]


def front_chart(found: Sequence[Configuration], cards: Mapping[int, Markup]) -> Markup | None:
    """Joules a round against worst-case leakage, a point a configuration; `None` when there is none with both.

    Args:
        found: All configurations.
        cards: What a point shows under the pointer, by index in `found`.
    """
    shown = [(i, one) for i, one in enumerate(found) if one.joules.value is not None and one.leakage.n > 0]
    if not shown:
        return None
    places: dict[bool, list[tuple[int, float, float]]] = {}
    bottom = lane([one for _, one in shown])

    def draw(figure: Figure, narrow: bool) -> None:  # noqa: FBT001 - the form that svg.Draw has
        ax = figure.subplots()
        _points(ax, found, bottom)
        joules = [edge for _, one in shown for edge in (one.joules.value, one.joules.low, one.joules.high)]
        log_x(
            ax, [edge for edge in joules if edge is not None and edge > 0], quantities.energy, most=4 if narrow else 12
        )
        ax.set_xlabel("joules a training round, all devices")
        ax.set_ylabel("worst case over all attacks, median PSNR (dB)")
        bottom.dress(ax)
        figure.legend(loc="outside upper left", ncols=1 if narrow else 5)
        figure.canvas.draw()  # lays the figure out: only now is known where a point is
        inverse = figure.transFigure.inverted()
        points = [ax.transData.transform((one.joules.value or 0.0, bottom.height(one))) for _, one in shown]
        places[narrow] = [(i, *inverse.transform(at)) for (i, _), at in zip(shown, points, strict=True)]

    def overlay(narrow: bool) -> Markup:  # noqa: FBT001 - as above
        return Markup("").join(_spot(found[i], x, y, cards.get(i, Markup(""))) for i, x, y in places[narrow])

    label = "Joules of a training round against the worst case over all attacks, one point a configuration"
    return chart("front", label, draw, wide_height=460, narrow_height=420, overlay=overlay)


def _points(ax: Axes, found: Sequence[Configuration], bottom: Lane) -> None:
    shown = [one for one in found if one.joules.value is not None and one.leakage.n > 0]
    near = {id(one) for one in accurate(found)}
    for (family, color), solid in itertools.product((("snn", SERIES[0]), ("ann", SERIES[1])), (True, False)):
        group = [one for one in shown if one.family == family and (id(one) in near) == solid]
        xs, ys = [one.joules.value or 0.0 for one in group], [bottom.height(one) for one in group]
        label = f"{family.upper()}, {'accurate' if solid else 'less accurate'}" if group else None
        ax.plot(xs, ys, "o", color=color, markerfacecolor=color if solid else "none", label=label, zorder=4)
        for one in group:
            _bars(ax, one, color, bottom)
    best, datasets = front(found), {one.dataset for one in shown}
    for dataset in datasets:  # joules of one say nothing of another
        steps = [one for one in best if one.dataset == dataset]
        heights = [bottom.height(one) for one in steps]
        ax.step([one.joules.value or 0.0 for one in steps], heights, where="post", color=INK, zorder=3)
    level = max((one.mean_image for one in shown if one.mean_image is not None), default=None)
    if level is not None and len(datasets) == 1:
        ax.axhline(level, color=MUTED, linestyle="--", linewidth=1.4, label="mean image (needs no update)")
    floor = middle([figure for one in shown for figure in one.floors])
    if floor.value is not None and len(datasets) == 1:
        ax.axhline(floor.value, color=MUTED, linestyle=":", linewidth=1.4, label="on noise, median (nothing to find)")


def _bars(ax: Axes, one: Configuration, color: str, bottom: Lane) -> None:
    if one.leakage.low is not None and one.leakage.high is not None and one.joules.value is not None:
        ax.plot([one.joules.value] * 2, [one.leakage.low, one.leakage.high], color=color, linewidth=1.0, zorder=3)
    if one.joules.low is not None and one.joules.high is not None and one.joules.low > 0:
        ax.plot([one.joules.low, one.joules.high], [bottom.height(one)] * 2, color=color, linewidth=1.0, zorder=3)


def _spot(one: Configuration, x: float, y: float, card: Markup) -> Markup:
    side = " right" if x > 0.55 else ""
    place = Markup('<div class="spot{}" style="left:{:.2f}%;top:{:.2f}%" tabindex="0" aria-label="{}">')
    return place.format(side, 100 * x, 100 * (1 - y), one.title) + card + Markup("</div>")
