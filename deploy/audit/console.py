"""What `spikeleak audit` prints."""

from __future__ import annotations

import logging

from rich.console import Console
from rich.table import Table

from deploy.audit.expression import Expression
from deploy.audit.procedure import audit
from deploy.audit.request import AuditRequest
from deploy.audit.results import Audit, noise_control
from deploy.audit.subject import Subject


def show(request: AuditRequest) -> None:
    """Audits and prints module, attacks and where the files are."""
    console = Console()
    logging.getLogger("attack.ladder").setLevel(logging.CRITICAL)  # a crash is a line of the table, with its reason

    def announce(subject: Subject) -> None:
        for line in _module_lines(subject):
            console.print(line, highlight=False, markup=False, soft_wrap=True)

    _print(console, audit(request, announce=announce))


def _module_lines(subject: Subject) -> list[str]:
    found = subject.expression
    kind = "fully connected" if subject.dense else "convolution"
    first = f"first layer {subject.first!r} ({kind})" if subject.first else "no first layer found"
    lines = [f"{first}, readout {subject.readout!r}, {subject.observation.classes} classes"]
    if isinstance(found, Expression):
        neuron = found.task.neuron
        spiking = f", Leaky(beta={neuron.beta:g}), {neuron.surrogate}({neuron.surrogate_slope})"
        model = found.task.model
        what = f"{model.family}/{model.kind}{spiking if model.family == 'snn' else ''}"
        lines.append(f"verified as {what}: gradients differ by {found.error:.0e}; every attack applies")
    else:
        lines.append(f"simulated as it is, first-layer attacks and gradient matching apply: {found}")
    return [*lines, *(f"note: {note}" for note in subject.notes)]


def _print(console: Console, result: Audit) -> None:
    table = Table(box=None, pad_edge=False)
    for title in ("attack", "verdict", "seconds", "worst PSNR", "certificate, criterion or reason"):
        table.add_column(title, justify="right" if title in {"seconds", "worst PSNR"} else "left")
    for rung in result.rungs:
        score = result.scores.get(rung.attack)
        values = [] if score is None else [v for v in score.psnr_db if v is not None]
        highest = f"{max(values):.1f} dB" if values else "—"
        table.add_row(rung.attack, rung.finding.verdict, f"{rung.seconds:.2f}", highest, rung.finding.reason)
    console.print(table)
    control = noise_control(result)
    if control is not None and not control["passed"]:
        false = ", ".join(control["certified"])
        console.print(f"noise control failed: {false} certified noise; do not trust its certificates", soft_wrap=True)
    chosen = f" by {result.outcome.chosen}" if result.outcome.chosen else ""
    console.print(
        f"{result.outcome.verdict}{chosen}; report: {result.request.out / 'report.html'}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
