"""A place in a chart for what has no figure: a lane of its own below the axis, never 0 dB."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from matplotlib.axes import Axes

from deploy.sweep.report.configurations import Configuration
from server.report.svg import MUTED

NAME = "no image"


class Lane(msgspec.Struct, frozen=True, kw_only=True):
    """Where configurations stand of whose updates at least half gave no attack an image.

    Attributes:
        at_db: Height of the lane in the units of the axis.
        below_db: Lower end of the axis.
        between_db: Height of the line that parts it from the figures.
        used: Whether anything stands in it; without that there is none.
    """

    at_db: float
    below_db: float
    between_db: float
    used: bool

    def height(self, one: Configuration) -> float:
        """Height of a configuration: its leakage, or the lane."""
        return self.at_db if one.leakage.value is None else one.leakage.value

    def dress(self, ax: Axes) -> None:
        """Sets the axis' lower end; draws the lane if it is used. Called last, as it fixes the ticks."""
        ax.set_ylim(bottom=self.below_db)
        if not self.used:
            return
        ticks = [tick for tick in ax.get_yticks() if self.between_db < tick <= ax.get_ylim()[1]]
        ax.set_yticks([self.at_db, *ticks], [NAME, *(f"{tick:g}" for tick in ticks)])
        ax.axhline(self.between_db, color=MUTED, linewidth=0.8, linestyle=":")


def lane(found: Sequence[Configuration]) -> Lane:
    """The lane of a chart of these configurations."""
    known = [figure for one in found for figure in (one.leakage.value, one.leakage.low) if figure is not None]
    low, high = min([0.0, *known]), max([20.0, *known])
    step = (high - low) / 20
    used = any(one.leakage.value is None for one in found)
    between = low - step
    return Lane(at_db=between - step, below_db=between - 2 * step if used else between, between_db=between, used=used)
