"""Leakage along each axis of a sweep and what its choices vary, and against ε and the bytes of an update."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence

import msgspec
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deploy.sweep.estimates import Estimate, middle
from deploy.sweep.report.configurations import PARAMETERS, Configuration
from deploy.sweep.report.lane import Lane, lane
from deploy.sweep.report.scales import log_x
from server.report import quantities
from server.report.quantities import MISSING
from server.report.svg import GRID, MUTED, SERIES, chart, short

_COLORS = {"snn": SERIES[0], "ann": SERIES[1]}
_ROOM = 30
"""Characters that fit side by side under a panel."""
_MOST_VALUES = 10
"""Values of an axis beyond which its panel would hold nothing but labels."""


class Panel(msgspec.Struct, frozen=True, kw_only=True):
    """One axis or parameter, its values in order, and the configurations at each.

    Attributes:
        also: Parameters that change with it and part the configurations alike, with their values.
    """

    title: str
    values: tuple[str, ...]
    groups: tuple[tuple[Configuration, ...], ...]
    also: tuple[str, ...] = ()

    @property
    def ordered(self) -> bool:
        """Whether the values are numbers, between which a line means something."""
        try:
            return bool([float(value) for value in self.values])
        except ValueError:
            return False

    def over(self, at: int, family: str) -> Estimate:
        """Median over all audited updates of one kind of network at one value."""
        return middle([figure for one in self.groups[at] if one.family == family for figure in one.worst])

    def floor(self, at: int) -> Estimate:
        """The same of noise in an update's place, of all networks."""
        return middle([figure for one in self.groups[at] for figure in one.floors])


def panels(found: Sequence[Configuration], axes: Sequence[str]) -> list[Panel]:
    """Of each axis, then of each parameter; one that varies just as what is there already is told there."""
    attacked = [one for one in found if one.leakage.n > 0]
    drawn: list[Panel] = []
    for axis in axes:
        _add(drawn, axis, [(one.labels[axis], one) for one in attacked if axis in one.labels])
    for name, title in PARAMETERS.items():
        known = [(one.parameters[name], one) for one in attacked if name in one.parameters]
        _add(drawn, title, sorted(known, key=lambda pair: _order(pair[0])))
    return drawn


def _order(value: float | str) -> tuple[str, float]:
    return (value, 0.0) if isinstance(value, str) else ("", value)


def _add(drawn: list[Panel], title: str, known: Sequence[tuple[float | str, Configuration]]) -> None:
    groups: dict[float | str, list[Configuration]] = {}
    for value, one in known:
        groups.setdefault(value, []).append(one)
    parts = tuple(tuple(group) for group in groups.values())
    ours = {id(one) for _, one in known}
    if not 2 <= len(groups) <= _MOST_VALUES:
        return
    names = tuple(value if isinstance(value, str) else f"{value:g}" for value in groups)
    for at, panel in enumerate(drawn):
        if _parting(panel.groups, ours) == _parting(parts, ours):
            of = {id(one): name for name, part in zip(names, parts, strict=True) for one in part}
            told = [next((of[id(one)] for one in group if id(one) in of), MISSING) for group in panel.groups]
            also = (*panel.also, f"{title}: {', '.join(told)}")
            drawn[at] = msgspec.structs.replace(panel, also=also)
            return
    drawn.append(Panel(title=title, values=names, groups=parts))


def _parting(groups: Sequence[Sequence[Configuration]], among: set[int]) -> set[frozenset[int]]:
    """How groups part some of the configurations, whatever the groups are called."""
    return {part for group in groups if (part := frozenset(id(one) for one in group if id(one) in among))}


def axis_chart(found: Sequence[Configuration], axes: Sequence[str]) -> Markup | None:
    """One panel for each of `panels`; `None` without one."""
    drawn = panels(found, axes)
    if not drawn:
        return None
    bottom = lane([one for one in found if one.leakage.n > 0])

    def draw(figure: Figure, narrow: bool) -> None:  # noqa: FBT001 - the form that svg.Draw has
        columns = 1 if narrow else min(3, len(drawn))
        rows = -(-len(drawn) // columns)
        grid = figure.subplots(rows, columns, squeeze=False)
        for ax, panel in zip(grid.flat, drawn, strict=False):
            _draw(ax, panel, bottom)
        for ax in grid.flat[len(drawn) :]:
            ax.set_visible(False)
        handles = {
            name: handle for ax in grid.flat for handle, name in zip(*ax.get_legend_handles_labels(), strict=True)
        }
        figure.legend(list(handles.values()), list(handles), loc="outside upper left", ncols=1 if narrow else 3)

    rows, more = -(-len(drawn) // 3), 16 * max(len(panel.also) for panel in drawn)
    label = "Worst-case leakage along each axis of the sweep and each parameter that varies"
    return chart(
        "axes", label, draw, wide_height=60 + (280 + more) * rows, narrow_height=60 + (270 + more) * len(drawn)
    )


def _draw(ax: Axes, panel: Panel, bottom: Lane) -> None:
    _floors(ax, panel, bottom)
    for offset, family in ((-0.08, "snn"), (0.08, "ann")):
        color = _COLORS[family]
        places, heights = [], []
        for at, group in enumerate(panel.groups):
            ours = [one for one in group if one.family == family]
            if not ours:
                continue
            ax.plot([at + offset] * len(ours), [bottom.height(one) for one in ours], ".", color=color, alpha=0.4)
            all_ = panel.over(at, family)
            places.append(at + offset)
            heights.append(bottom.at_db if all_.value is None else all_.value)
            _bar(ax, at + offset, all_, color, bottom)
        if places:
            line, name = "o-" if panel.ordered else "o", f"{family.upper()}, median of all updates"
            ax.plot(places, heights, line, color=color, label=name, zorder=4)
    names = [short(value, max(14, _ROOM // len(panel.values))) for value in panel.values]
    turned = sum(map(len, names)) > _ROOM
    counts = [" + ".join(str(n) for family in _COLORS if (n := panel.over(at, family).n)) for at in range(len(names))]
    same = len(set(counts)) == 1
    below = not same and sum(max(len(name), len(f" n = {n} ")) for name, n in zip(names, counts, strict=True)) <= _ROOM
    ticks = [f"{name}\nn = {n}" for name, n in zip(names, counts, strict=True)] if below else names
    ax.set_xticks(range(len(names)), ticks)
    if turned:
        ax.tick_params("x", rotation=30)
    each = f"n = {counts[0]} each" if same else "" if below else textwrap.fill(f"n = {', '.join(counts)}", 44)
    ax.set_xlabel("\n".join(filter(None, (each, *(short(line, 44) for line in panel.also)))), fontsize=11, loc="left")
    ax.set_xlim(-0.5, len(panel.values) - 0.5)
    bottom.dress(ax)
    ax.set_title(short(panel.title, 34))
    ax.set_ylabel("worst case (dB)")


def _floors(ax: Axes, panel: Panel, bottom: Lane) -> None:
    """The negative control of each value, a level with its interval as a grey band."""
    for at in range(len(panel.values)):
        floor = panel.floor(at)
        if floor.n:
            height = bottom.at_db if floor.value is None else floor.value
            if floor.n > 1:
                low, high = (bottom.at_db if end is None else end for end in (floor.low, floor.high))
                ax.fill_between([at - 0.3, at + 0.3], low, high, color=GRID, linewidth=0, zorder=1)
            ax.plot([at - 0.3, at + 0.3], [height] * 2, color=MUTED, linewidth=1.2, label="on noise, median", zorder=2)


def _bar(ax: Axes, at: float, one: Estimate, color: str, bottom: Lane) -> None:
    """The interval; an end that falls on updates without an image reaches into their lane."""
    if one.n > 1 and not (one.low is None and one.high is None):
        ends = [bottom.at_db if end is None else end for end in (one.low, one.high)]
        ax.plot([at, at], ends, color=color, linewidth=1.2, zorder=3)


def bytes_chart(found: Sequence[Configuration]) -> Markup | None:
    """Leakage against the bytes of one update; `None` when all updates have the same size."""
    label = "Worst-case leakage against the size of an update"
    ask = "KiB an update, mean over all rounds"
    shown = [(one.bytes.value / 1024, one) for one in found if one.bytes.value]
    return _against("bytes", (label, ask), shown, lambda kib: f"{kib:g}")


def epsilon_chart(found: Sequence[Configuration]) -> Markup | None:
    """Leakage against ε of the run; `None` with fewer than two values of it: without noise there is none."""
    label = "Worst-case leakage against the privacy loss of the whole run"
    ask = "ε of the whole run, local, by dp-accounting"
    shown = [(one.epsilon, one) for one in found if one.epsilon]
    return _against("epsilon", (label, ask), shown, lambda epsilon: quantities.significant(epsilon, 2))


def _against(
    name: str, labels: tuple[str, str], known: Sequence[tuple[float, Configuration]], text: Callable[[float], str]
) -> Markup | None:
    """Each configuration with its interval, over a logarithmic quantity; labels of the chart and of its axis."""
    shown = [(x, one) for x, one in known if one.leakage.n > 0]
    if len({f"{x:.3g}" for x, _ in shown}) < 2:
        return None
    bottom = lane([one for _, one in shown])

    def draw(figure: Figure, narrow: bool) -> None:  # noqa: FBT001 - the form that svg.Draw has
        ax = figure.subplots()
        for family, color in _COLORS.items():
            group = [(x, one) for x, one in shown if one.family == family]
            if group:
                heights = [bottom.height(one) for _, one in group]
                (points,) = ax.plot([x for x, _ in group], heights, "o", color=color, label=family.upper(), zorder=4)
                if family == "ann":  # both may stand at one place
                    points.set(markersize=9, markerfacecolor="none")
            for x, one in group:
                _bar(ax, x, one.leakage, color, bottom)
        log_x(ax, [x for x, _ in shown], text, most=5 if narrow else 12)
        ax.set_xlabel(labels[1])
        ax.set_ylabel("worst case (dB)")
        bottom.dress(ax)
        figure.legend(loc="outside upper left", ncols=2)

    return chart(name, labels[0], draw, wide_height=320, narrow_height=290)
