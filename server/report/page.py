"""The report as one HTML file that loads nothing: style, charts and pictures are inside."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import jinja2
from markupsafe import Markup

from server.report import charts, views
from server.report.conclusion import conclusion
from server.report.controls import controls
from server.report.data import Family, ReportData
from server.report.energy import gaps
from server.report.glossary import GLOSSARY
from server.report.quantities import count, duration, percent, significant

_FOLDER = Path(__file__).parent


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(count=count, duration=duration, percent=percent, significant=significant)
    return environment.get_template("report.html.j2")


def render(data: ReportData) -> str:
    """The whole page. A pure function of `data`: the same run gives the same bytes."""
    checked = controls(data)
    families = data.families
    return _template().render(
        data=data,
        style=Markup((_FOLDER / "report.css").read_text(encoding="utf-8")),  # noqa: S704 - this package's own file
        subtitle=subtitle(data.snn),
        tiles=views.tiles(data),
        conclusion=conclusion(data, checked),
        notes=views.notes(data),
        controls=checked,
        leakage_chart=charts.leakage_chart(families),
        accuracy_chart=charts.accuracy_chart(families),
        energy_chart=charts.energy_chart(families),
        attack_groups=views.attack_groups(data),
        galleries=views.galleries(data),
        reasons=views.attack_reasons(data),
        most_reasons=views.REASONS,
        energy_lines=views.energy_lines(data),
        gaps=[(family.title, gap) for family in families for gap in gaps(family.energy)],
        glossary=GLOSSARY,
    )


def subtitle(family: Family) -> tuple[str, ...]:
    """The run in a few words."""
    parts = [f"{len(family.devices) or len({u.node for u in family.updates})} devices"]
    kinds = [row.plan.kind for row in family.rounds]
    parts.append(f"{kinds.count('train')} training and {kinds.count('audit')} audit rounds")
    task = family.task
    if task is None:
        return (*parts, "task unknown")
    layers = task.model.hidden if task.model.kind == "fc" else task.model.channels + task.model.hidden
    weights = "float weights" if task.model.weight_bits is None else f"int{task.model.weight_bits} weights"
    return (
        *parts,
        task.dataset,
        f"{task.model.kind} {'–'.join(map(str, layers))}, {weights}",
        f"{task.encoding.kind} coding, T = {task.encoding.steps}",
    )
