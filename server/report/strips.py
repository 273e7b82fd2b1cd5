"""All trials of one attack on a line, as a small inline SVG for a table's cell."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from contract.metrics import PSNR_CAP_DB
from server.report.controls import mean_image_level
from server.report.data import ScoreRow

_WIDTH, _HEIGHT, _EDGE = 150.0, 18.0, 4.0


def strip(rows: Sequence[ScoreRow]) -> Markup:
    """One tick per trial from 0 to 200 dB, none for a trial without an image, and a dotted line at the mean image."""
    figures = [row.score.psnr_db for row in rows if row.score.psnr_db is not None]
    ticks = Markup().join(Markup('<path class="tick" d="M{0:.1f} 4V14"/>').format(_place(figure)) for figure in figures)
    level = mean_image_level(list(rows))
    mean = Markup() if level is None else Markup('<path class="mean" d="M{0:.1f} 1V17"/>').format(_place(level))
    return Markup(
        '<svg class="strip" viewBox="0 0 {w:.0f} {h:.0f}" role="img" aria-label="{n} trials from 0 to 200 dB">'
        '<path class="base" d="M{left:.0f} {mid:.0f}H{right:.0f}"/>{mean}{ticks}</svg>'
    ).format(
        w=_WIDTH,
        h=_HEIGHT,
        n=len(figures),
        left=_EDGE,
        right=_WIDTH - _EDGE,
        mid=_HEIGHT / 2,
        mean=mean,
        ticks=ticks,
    )


def _place(psnr_db: float) -> float:
    inside = min(max(psnr_db, 0.0), PSNR_CAP_DB) / PSNR_CAP_DB
    return _EDGE + inside * (_WIDTH - 2 * _EDGE)
