"""Which configurations dominate, and the figure of joules against leakage."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import msgspec
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deploy.sweep.estimates import Estimate, middle
from deploy.sweep.report.configurations import Configuration
from deploy.sweep.report.lane import Lane, lane
from deploy.sweep.report.scales import log_x
from server.report import quantities
from server.report.svg import INK, MUTED, SERIES, chart

CLOSE_POINTS = 0.03
"""How much below the best accuracy a configuration may lie and still be on the front of joules a round."""

_LEAST_J = 1e-30
"""In place of 0, which a logarithmic axis has not."""


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """What a front weighs against leakage.

    Attributes:
        name: Of its chart.
        axis: Under the chart.
        of: The joules of a configuration.
        compared: Those that are compared: to be cheap by being useless is no merit.
    """

    name: str
    axis: str
    of: Callable[[Configuration], Estimate]
    compared: Callable[[Sequence[Configuration]], list[Configuration]]

    def known(self, found: Sequence[Configuration]) -> list[Configuration]:
        """Those with such joules, and something attacked."""
        return [one for one in found if self.of(one).value is not None and one.leakage.n > 0]

    def joules(self, one: Configuration) -> float:
        """Of one that is known."""
        return self.of(one).value or 0.0


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


PER_ROUND = Cost(
    name="front", axis="joules a training round, all devices", of=lambda one: one.joules, compared=accurate
)


def to_target(accuracy: float) -> Cost:
    """Joules until this accuracy was reached: by those that reached it in every run."""
    axis = f"joules until {100 * accuracy:g} % accuracy, all devices"
    return Cost(name="front-target", axis=axis, of=lambda one: one.joules_to_target, compared=list)


def front(found: Sequence[Configuration], cost: Cost = PER_ROUND) -> list[Configuration]:
    """Of those compared the ones that no other of their data set beats in joules and in leakage at once.

    Cheapest first.

    A configuration without joules, or of which nothing was attacked, can neither be on it nor beat another.
    """
    known = cost.known(cost.compared(found))
    kept = [one for one in known if not any(_beats(other, one, cost) for other in known)]
    return sorted(kept, key=lambda one: (cost.joules(one), rank(one)))


def _beats(a: Configuration, b: Configuration, cost: Cost) -> bool:
    if a.dataset != b.dataset:
        return False
    ours, theirs = (cost.joules(a), rank(a)), (cost.joules(b), rank(b))
    return ours != theirs and ours[0] <= theirs[0] and ours[1] <= theirs[1]


def front_chart(found: Sequence[Configuration], cards: Mapping[int, Markup], cost: Cost = PER_ROUND) -> Markup | None:
    """Joules against worst-case leakage, a point a configuration; `None` when there is none with both.

    Args:
        found: All configurations.
        cards: What a point shows under the pointer, by index in `found`.
        cost: Which joules.
    """
    known = {id(one) for one in cost.known(found)}
    shown = [(i, one) for i, one in enumerate(found) if id(one) in known]
    if not shown:
        return None
    places: dict[bool, list[tuple[int, float, float]]] = {}
    bottom = lane([one for _, one in shown])

    def draw(figure: Figure, narrow: bool) -> None:  # noqa: FBT001 - the form that svg.Draw has
        ax = figure.subplots()
        _points(ax, found, bottom, cost)
        joules = [edge for _, one in shown for edge in (cost.of(one).value, cost.of(one).low, cost.of(one).high)]
        log_x(
            ax, [edge for edge in joules if edge is not None and edge > 0], quantities.energy, most=4 if narrow else 12
        )
        ax.set_xlabel(cost.axis)
        ax.set_ylabel("worst case over all attacks, median PSNR (dB)")
        bottom.dress(ax)
        figure.legend(loc="outside upper left", ncols=1 if narrow else 3)
        figure.canvas.draw()  # lays the figure out: only now is known where a point is
        inverse = figure.transFigure.inverted()
        points = [ax.transData.transform((cost.joules(one), bottom.height(one))) for _, one in shown]
        places[narrow] = [(i, *inverse.transform(at)) for (i, _), at in zip(shown, points, strict=True)]

    def overlay(narrow: bool) -> Markup:  # noqa: FBT001 - as above
        return Markup("").join(_spot(found[i], x, y, cards.get(i, Markup(""))) for i, x, y in places[narrow])

    label = f"Worst case over all attacks against {cost.axis}, one point a configuration"
    return chart(cost.name, label, draw, wide_height=460, narrow_height=420, overlay=overlay)


def _points(ax: Axes, found: Sequence[Configuration], bottom: Lane, cost: Cost) -> None:
    shown = cost.known(found)
    near = {id(one) for one in accurate(found)}
    for (family, color), solid in itertools.product((("snn", SERIES[0]), ("ann", SERIES[1])), (True, False)):
        group = [one for one in shown if one.family == family and (id(one) in near) == solid]
        xs, ys = [cost.joules(one) for one in group], [bottom.height(one) for one in group]
        label = f"{family.upper()}, {'accurate' if solid else 'less accurate'}" if group else None
        ax.plot(xs, ys, "o", color=color, markerfacecolor=color if solid else "none", label=label, zorder=4)
        for one in group:
            _bars(ax, one, color, bottom, cost)
    best, datasets = front(found, cost), {one.dataset for one in shown}
    for dataset in datasets:  # joules of one say nothing of another
        steps = [one for one in best if one.dataset == dataset]
        heights = [bottom.height(one) for one in steps]
        ax.step([cost.joules(one) for one in steps], heights, where="post", color=INK, zorder=3)
    if len(datasets) == 1:
        _levels(ax, shown)


def _levels(ax: Axes, shown: Sequence[Configuration]) -> None:
    """What needs no update, and what is found where there is nothing to find."""
    level = max((one.mean_image for one in shown if one.mean_image is not None), default=None)
    if level is not None:
        ax.axhline(level, color=MUTED, linestyle="--", linewidth=1.4, label="mean image (needs no update)")
    floor = middle([figure for one in shown for figure in one.floors])
    if floor.value is not None:
        ax.axhline(floor.value, color=MUTED, linestyle=":", linewidth=1.4, label="on noise, median (nothing to find)")


def _bars(ax: Axes, one: Configuration, color: str, bottom: Lane, cost: Cost) -> None:
    """Both intervals; an end at no image reaches into its lane, one at 0 J to the edge of the axis."""
    joules, leak = cost.of(one), one.leakage
    if leak.n > 1 and not (leak.low is None and leak.high is None):
        ends = [bottom.at_db if end is None else end for end in (leak.low, leak.high)]
        ax.plot([cost.joules(one)] * 2, ends, color=color, linewidth=1.0, zorder=3)
    if joules.low is not None and joules.high is not None:
        ax.plot(
            [max(joules.low, _LEAST_J), joules.high], [bottom.height(one)] * 2, color=color, linewidth=1.0, zorder=3
        )


def _spot(one: Configuration, x: float, y: float, card: Markup) -> Markup:
    side = " right" if x > 0.55 else ""
    place = Markup('<div class="spot{}" style="left:{:.2f}%;top:{:.2f}%" tabindex="0" aria-label="{}">')
    return place.format(side, 100 * x, 100 * (1 - y), one.title) + card + Markup("</div>")
