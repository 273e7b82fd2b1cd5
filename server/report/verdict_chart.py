"""How far the ladder gets as training goes on: verdicts on audit updates over rounds, as cumulative shares."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from contract.messages import Verdict
from server.report.data import Family, ScoreRow
from server.report.svg import INK, SERIES, chart
from server.report.trials import select

LADDER: tuple[tuple[str, frozenset[Verdict]], ...] = (
    ("exact (certified)", frozenset({"exact"})),
    ("… or recovered", frozenset({"exact", "recovered"})),
    ("… or partial", frozenset({"exact", "recovered", "partial"})),
)
LEAST_ROUNDS = 2
"""One round is a figure, no curve."""


class RoundVerdicts(msgspec.Struct, frozen=True, kw_only=True):
    """The audit updates of one round.

    Attributes:
        updates: How many were attacked.
        trained: Training rounds before it.
        shares: Share of the updates whose best verdict is at least as good, per entry of `LADDER`.
        frames: Mean over the updates of the best share of true frames that an attack found; an update on which none
            found any counts as 0. `None` when no attack of the whole run gives frames.
    """

    round: int
    updates: int
    trained: int
    shares: tuple[float, ...]
    frames: float | None


def round_verdicts(family: Family) -> tuple[RoundVerdicts, ...]:
    """The best verdict that any attack with a reconstruction reached, over the audit rounds of one network."""
    rows = [row for row in select(family, "audit") if row.score.psnr_db is not None or row.score.verdict == "failed"]
    framed = any(row.score.frames_exact is not None for row in rows)
    training = [row.round for row in family.rounds if row.plan.kind == "train"]
    found = []
    for number in sorted({row.round for row in rows}):
        updates: dict[str, list[ScoreRow]] = {}
        for row in (row for row in rows if row.round == number):
            updates.setdefault(row.update, []).append(row)
        verdicts = [{row.score.verdict for row in scored} for scored in updates.values()]
        best = [max((row.score.frames_exact or 0.0) for row in scored) for scored in updates.values()]
        found.append(
            RoundVerdicts(
                round=number,
                updates=len(updates),
                trained=sum(trained < number for trained in training),
                shares=tuple(sum(bool(v & good) for v in verdicts) / len(updates) for _, good in LADDER),
                frames=sum(best) / len(best) if framed else None,
            )
        )
    return tuple(found)


def verdict_chart(families: Sequence[Family]) -> Markup | None:
    """One panel per network; `None` with fewer than `LEAST_ROUNDS` audit rounds."""
    curves = [(family.title, points) for family in families if len(points := round_verdicts(family)) >= LEAST_ROUNDS]
    if not curves:
        return None

    def draw(figure: Figure, narrow: bool) -> None:  # noqa: FBT001 - the form that svg.Draw has
        rows, columns = (len(curves), 1) if narrow else (1, len(curves))
        for ax, (title, points) in zip(figure.subplots(rows, columns, squeeze=False).flat, curves, strict=True):
            _trace(ax, title, points)
        handles, names = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper left", ncols=2 if narrow else 4)

    label = "Share of audit updates by the best verdict of the ladder, over training rounds"
    return chart("verdicts", label, draw, wide_height=330, narrow_height=90 + 250 * len(curves))


def _trace(ax: Axes, title: str, points: Sequence[RoundVerdicts]) -> None:
    trained = [point.trained for point in points]
    for index, (name, _) in enumerate(LADDER):
        heights = [100 * point.shares[index] for point in points]
        ax.plot(trained, heights, color=SERIES[index], label=name, marker="osD"[index], zorder=4 - index)
    if all(point.frames is not None for point in points):
        heights = [100 * (point.frames or 0.0) for point in points]
        ax.plot(trained, heights, color=INK, linestyle="--", label="true frames found", zorder=5)
    ax.set_title(f"{title} · n = {sum(point.updates for point in points)} audit updates")
    ax.set_xlabel("training rounds before")
    ax.set_ylabel("% of audit updates")
    ax.set_ylim(-2, 104)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
