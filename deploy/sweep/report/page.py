"""The page of a sweep."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import msgspec
from markupsafe import Markup

import server.report
from deploy.sweep import comparison
from deploy.sweep.comparison import LITERATURE
from deploy.sweep.estimates import middle
from deploy.sweep.plan import Sweep
from deploy.sweep.report import axis_charts, claim, figures, front, matrix, words
from deploy.sweep.report.configurations import Configuration, Row, configurations
from deploy.sweep.report.pictures import WorstPicture, worst_picture
from hardware.bibliography import Citation
from server.report import quantities

_HERE = Path(__file__).parent
_STYLES = (Path(server.report.__file__).parent / "report.css", _HERE / "sweep.css")
COMPARED_RUNS = 30
"""Updates of each network below which a comparison is called small."""


@cache
def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        count=quantities.count,
        percent=quantities.percent,
        energy=quantities.energy,
        data_size=lambda value: quantities.data_size(None if value is None else round(value)),
        decibel=quantities.decibel,
        significant=quantities.significant,
        interval=matrix.interval,
        ends=figures.ends,
        share=lambda one: figures.ends(one, lambda value: f"{100 * value:.1f}"),
    )
    environment.globals.update(figures=figures)
    return environment


def render(
    sweep: Sweep,
    runs: list[Row],
    attacks: list[Row],
    *,
    folder: Path,
    missing: list[str],
    cited: list[Citation],
    guesses: Mapping[str, Row],
) -> str:
    """The whole page.

    Args:
        sweep: The sweep.
        runs: Rows of ``sweep.parquet``.
        attacks: Rows of ``attacks.parquet``.
        folder: Where the runs' folders lie.
        missing: Names of runs that are not finished.
        cited: Works behind what its runs used.
        guesses: Rows of ``baselines.parquet`` by data set.
    """
    found = configurations(runs, attacks, seeds=len(sweep.seeds))
    pictures = [worst_picture(one, attacks, folder) for one in found]
    pairs = comparison.pairs(runs, attacks)
    cards = {i: _card(one, shown) for i, (one, shown) in enumerate(zip(found, pictures, strict=True))}
    return (
        _templates()
        .get_template("page.html.j2")
        .render(
            sweep=sweep,
            style=Markup("\n".join(path.read_text(encoding="utf-8") for path in _STYLES)),  # noqa: S704 - our own files
            tiles=_tiles(runs, found, missing),
            sentences=words.sentences(sweep, found, missing=len(missing), unscored=unscored(runs)),
            front_chart=front.front_chart(found, cards),
            target_chart=None
            if sweep.target_accuracy is None
            else front.front_chart(found, cards, front.to_target(sweep.target_accuracy)),
            close_points=100 * front.CLOSE_POINTS,
            axis_chart=axis_charts.axis_chart(found, [axis.title for axis in sweep.axes]),
            epsilon_chart=axis_charts.epsilon_chart(found),
            bytes_chart=axis_charts.bytes_chart(found),
            matrix=matrix.matrix(found, attacks),
            pairs=pairs,
            claim=claim.paragraphs(pairs),
            guesses=guesses,
            literature=", ".join(LITERATURE),
            small=COMPARED_RUNS,
            held_out=words.held_out(found),
            rows=list(zip(found, pictures, strict=True)),
            on_front={one.title for one in front.front(found)},
            axes=[axis.title for axis in sweep.axes],
            cited=cited,
            configuration=json.dumps(msgspec.to_builtins(sweep), indent=1),
        )
    )


def _card(one: Configuration, shown: WorstPicture | None) -> Markup:
    return Markup(_templates().get_template("card.html.j2").render(one=one, shown=shown))  # noqa: S704 - escaped by the template


def unscored(runs: list[Row]) -> int:
    """Updates of all runs that no score came of in time."""
    return sum(row["unscored"] for row in runs)


def _tiles(runs: list[Row], found: tuple[Configuration, ...], missing: list[str]) -> list[dict[str, Any]]:
    mains = [row for row in runs if row["arm"] == "main"]
    false = sum(one.controls for one in found)
    lost = sum(row["lost"] + row["duplicated"] for row in runs)
    return [
        {
            "title": "Runs",
            "value": f"{len(mains)} of {len(mains) + len(missing)}",
            "note": f"{len(found)} configurations, lost and duplicated updates: {lost}",
        },
        {
            "title": "Audited updates",
            "value": quantities.count(sum(row["audited"] for row in runs)),
            "note": f"never attacked: {sum(row['never_attacked'] for row in runs)}; without a score: {unscored(runs)}",
        },
        {
            "title": "Controls",
            "value": "passed" if false == 0 else f"{false} failed",
            "note": f"false certificates, and certificates given on noise in an update's place; {_on_noise(found)}",
        },
    ]


def _on_noise(found: tuple[Configuration, ...]) -> str:
    level = middle([figure for one in found for figure in one.floors])
    if not level.n:
        return "no attack on noise was scored"
    best = "no image" if level.value is None else f"{quantities.decibel(level.value)} dB"
    return f"best of all attacks on noise: median {best} ({figures.leak(level, of='noise update')})"
