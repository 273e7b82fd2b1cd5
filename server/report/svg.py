"""Charts as inline SVG that takes its colours and its typeface from the page.

matplotlib draws with stand-in colours; each is replaced by a CSS variable, so that one drawing serves light, dark and
print. Text stays text. Every chart is drawn twice, wide and narrow, and the style sheet shows the one that fits.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from markupsafe import Markup, escape
from matplotlib.figure import Figure

SERIES = tuple(f"#a0b0{index:02x}" for index in range(1, 9))
"""Stand-ins for the style sheet's series colours `--s1` to `--s8`."""
INK, MUTED, GRID, PAPER = "#a0b1f0", "#a0b1f1", "#a0b1f2", "#a0b1f3"

_VARIABLES = {
    **{stand_in: f"var(--s{index})" for index, stand_in in enumerate(SERIES, start=1)},
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--rule)",
    PAPER: "var(--paper)",
}
_SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 12.5,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 13.0,
    "axes.titlelocation": "left",
    "axes.titlepad": 9.0,
    "figure.constrained_layout.h_pad": 0.11,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 1.0,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 1.0,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.5,
}
UNITS_PER_IN = 72.0
WIDE_UNITS, NARROW_UNITS = 1016.0, 358.0
"""Widths in the units of the drawing, which are CSS pixels where the page gives the chart its full column."""

Draw = Callable[[Figure, bool], None]


@contextmanager
def _style(salt: str) -> Iterator[None]:
    settings: Any = {**_SETTINGS, "svg.hashsalt": salt}
    with mpl.rc_context(settings):
        yield


def chart(
    name: str,
    label: str,
    draw: Draw,
    *,
    wide_height: float,
    narrow_height: float,
    overlay: Callable[[bool], Markup] | None = None,
) -> Markup:
    """One chart in both widths.

    Args:
        name: Unique on the page; prefixes every id.
        label: What a reader who cannot see it should know.
        draw: Fills a figure; its flag says whether the narrow form is wanted.
        wide_height: Height of the wide form, in CSS pixels.
        narrow_height: Height of the narrow form, in CSS pixels.
        overlay: What lies over a form once it is drawn, placed in per cent of its width and height.
    """
    wide = _render(f"{name}-w", draw, narrow=False, size=(WIDE_UNITS, wide_height))
    narrow = _render(f"{name}-n", draw, narrow=True, size=(NARROW_UNITS, narrow_height))
    if overlay is not None:
        wide, narrow = wide + overlay(False), narrow + overlay(True)
    return Markup('<div class="chart" role="img" aria-label="{}">{}{}</div>').format(
        label, Markup('<div class="wide">{}</div>').format(wide), Markup('<div class="narrow">{}</div>').format(narrow)
    )


def _render(name: str, draw: Draw, *, narrow: bool, size: tuple[float, float]) -> Markup:
    with _style(name):
        figure = Figure(figsize=(size[0] / UNITS_PER_IN, size[1] / UNITS_PER_IN), layout="constrained")
        draw(figure, narrow)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return Markup(adopt(buffer.getvalue(), name))  # noqa: S704 - matplotlib escaped every text in it


def short(text: str, most: int = 22) -> str:
    """A name as a chart's label: the middle left out where it is long, so that it cannot crowd out the drawing."""
    return text if len(text) <= most else f"{text[: most - most // 2 - 1]}…{text[-(most // 2) :]}"


def adopt(text: str, name: str) -> str:
    """Makes a matplotlib SVG part of an HTML page: own ids, the page's colours and typeface, no outside names."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = text.replace("xlink:href", "href")
    text = re.sub(r'\bid="', f'id="{escape(name)}-', text)
    text = re.sub(r'href="#', f'href="#{escape(name)}-', text)
    text = re.sub(r"url\(#", f"url(#{escape(name)}-", text)
    text = re.sub(r"font: ([^;\"]*?)(\d+(?:\.\d+)?)px [^;\"]*", _font, text)
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    return re.sub("|".join(_VARIABLES), lambda m: _VARIABLES[m.group()], text).strip()


def _font(match: re.Match[str]) -> str:
    weight = "font-weight: 600; " if "bold" in match[1] or "700" in match[1] else ""
    return f"{weight}font-size: {match[2]}px"
