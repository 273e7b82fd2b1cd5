"""The report as one HTML file that loads nothing: style, charts and pictures are inside."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import jinja2
from markupsafe import Markup

from contract.task import TaskSpec
from server.report import (
    attack_tables,
    energy_comparison,
    energy_skipping,
    energy_tables,
    galleries,
    headline,
    secure,
    sight_table,
)
from server.report.conclusion import conclusion
from server.report.controls import controls
from server.report.data import Family, ReportData
from server.report.energy import gaps
from server.report.energy_bars import energy_chart
from server.report.glossary import GLOSSARY
from server.report.integer_table import integer_lines
from server.report.quantities import count, duration, percent, significant, weight_grid
from server.report.round_charts import accuracy_chart, leakage_chart
from server.report.verdict_chart import verdict_chart
from server.report.waiting import waiting_lines

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
        tiles=headline.tiles(data),
        conclusion=conclusion(data, checked),
        notes=headline.notes(data),
        controls=checked,
        leakage_chart=leakage_chart(families),
        verdict_chart=verdict_chart(families),
        accuracy_chart=accuracy_chart(families),
        integer_lines=integer_lines(data),
        energy_chart=energy_chart(families),
        sight_lines=sight_table.sight_lines(data),
        sight_notes=sight_table.sight_notes(data),
        secure_parts=secure.parts(families),
        bins=secure.BINS,
        attack_groups=attack_tables.attack_groups(data),
        galleries=galleries.galleries(data),
        reasons=attack_tables.attack_reasons(data),
        most_reasons=attack_tables.MOST_REASONS,
        phase_lines=energy_tables.phase_lines(data),
        device_lines=energy_tables.device_lines(data),
        most_lines=energy_tables.MOST_LINES,
        operations_lines=energy_tables.operations_lines(data),
        waiting_lines=[line for family in families for line in waiting_lines(family.title, family.waiting)],
        activity_lines=energy_tables.activity_lines(data),
        comparison_lines=energy_comparison.comparison_lines(data),
        skipping_notes=energy_skipping.skipping_notes(data),
        published=energy_comparison.PUBLISHED,
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
    parts += [task.dataset, _network(task), f"{task.encoding.kind} coding, T = {task.encoding.steps}"]
    return tuple(parts)


def _network(task: TaskSpec) -> str:
    if task.model.own is not None:
        return f"a network of the user's own ({task.model.own.factory}, {task.model.own.sha256[:8]})"
    layers = task.model.hidden if task.model.kind == "fc" else task.model.channels + task.model.hidden
    membranes = "" if task.model.membrane_bits is None else f", {task.model.membrane_bits}-bit membranes"
    return f"{task.model.kind} {'–'.join(map(str, layers))}, {weight_grid(task.model.weight_bits)}{membranes}"
