"""The audit's report: one HTML file that loads nothing, in the dress of the run's report."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import msgspec
import numpy as np
from markupsafe import Markup

import server.report
from contract.messages import Verdict
from deploy.audit.expression import Expression
from deploy.audit.results import Audit, noise_control
from deploy.audit.scoring import Score
from server.report.images import data_uri

MOST_PICTURES = 32
_STYLE = Path(server.report.__file__).parent / "report.css"

WORDS: dict[Verdict, str] = {
    "exact": "The update gives its inputs away, and the reconstruction is certified without the truth.",
    "recovered": "An attack met its own criterion of success; nothing certifies the result.",
    "partial": "The attacks gave estimates only. How good they are can be told with --truth alone.",
    "failed": "No attack gave a usable reconstruction. That is no proof of privacy: it is what these attacks could do.",
    "refused": "No attack applies to this update. That is no proof of privacy: see the reasons below.",
}


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """One reconstruction, beside its truth where there is one."""

    caption: str
    recon: str | None
    truth: str | None
    psnr_db: float | None


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2")


def render(audit: Audit) -> str:
    """The whole page."""
    best = audit.scores.get(audit.outcome.chosen or "")
    return _template().render(
        audit=audit,
        style=Markup(_STYLE.read_text(encoding="utf-8")),  # noqa: S704 - the project's own file
        words=WORDS[audit.outcome.verdict],
        psnr=_psnr(best),
        against_truth=_against_truth(audit, best),
        pictures=pictures(audit, best),
        most=MOST_PICTURES,
        attacks=[_line(audit, rung) for rung in audit.rungs],
        control=_control(audit),
        module=_module(audit),
        options=[(name, value) for name, value in msgspec.structs.asdict(audit.request).items() if value is not None],
    )


def _control(audit: Audit) -> str:
    found = noise_control(audit)
    if found is None:
        return "Noise control: left out (--no-control); nothing here shows whether the attacks certify falsely."
    told = f"{found['attacks']} attacks on Gaussian noise with the update's shapes, norms and codec"
    if found["passed"]:
        best = found["best_psnr_db"]
        reached = "" if best is None else f" The best of them reached {best:.1f} dB against the truth."
        return f"Noise control passed: {told}; none certified anything.{reached}"
    return f"Noise control FAILED: {told}; certified by {', '.join(found['certified'])}. Do not trust its certificates."


def _psnr(score: Score | None) -> str:
    if score is None:
        return "—"
    known = [value for value in score.psnr_db if value is not None]
    lost = len(score.psnr_db) - len(known)
    if not known:
        return "—"
    span = f"{min(known):.1f} dB" if min(known) == max(known) else f"{min(known):.1f} to {max(known):.1f} dB"
    return f"{span}, {lost} missing" if lost else span


def _against_truth(audit: Audit, score: Score | None) -> str:
    if audit.truth is None:
        return "no truth was given; the attacks never see it"
    if score is None:
        return "no attack gave a candidate"
    parts = ["one candidate per true sample, matched"]
    if score.frames_exact is not None:
        parts.append(f"{score.frames_exact:.0%} of spike frames exact")
    distances = [value for value in score.lpips if value is not None]
    if distances:
        parts.append(f"LPIPS {min(distances):.3f} to {max(distances):.3f}")
    if score.labels_right is not None:
        parts.append(f"{score.labels_right} of {len(score.psnr_db)} labels right")
    return "; ".join(parts)


def pictures(audit: Audit, score: Score | None) -> list[Picture]:
    """The chosen attack's reconstructions, in the truth's order where there is one."""
    images = audit.outcome.images
    if images is None:
        return []
    order = range(len(images)) if score is None else score.candidate
    shown = []
    for sample, row in list(enumerate(order))[:MOST_PICTURES]:
        there = row is not None and row < len(images) and bool(np.isfinite(images[row]).all())
        shown.append(
            Picture(
                caption=f"sample {sample}" if score else f"candidate {sample}",
                recon=data_uri(images[row]) if there and row is not None else None,
                truth=data_uri(audit.truth["x"][sample]) if score and audit.truth else None,
                psnr_db=score.psnr_db[sample] if score else None,
            )
        )
    return shown


def _line(audit: Audit, rung: Any) -> dict[str, Any]:
    score = audit.scores.get(rung.attack)
    residual = audit.outcome.residuals.get(rung.attack)
    labels = ", ".join(map(str, rung.finding.labels[:16])) + (" …" if len(rung.finding.labels) > 16 else "")
    return {
        "attack": rung.attack,
        "chosen": rung.attack == audit.outcome.chosen,
        "verdict": rung.finding.verdict,
        "seconds": f"{rung.seconds:.2f} s" if rung.seconds >= 0.01 else "< 0.01 s",
        "residual": "—" if residual is None else f"{residual:.1e}",
        "psnr": _psnr(score),
        "labels": labels or "—",
        "reason": rung.finding.reason,
    }


def _module(audit: Audit) -> list[tuple[str, str]]:
    subject = audit.subject
    rows = [
        ("first layer", subject.first or "not found"),
        ("readout", subject.readout or "not found"),
        ("classes", str(subject.observation.classes)),
    ]
    expression = subject.expression
    if not isinstance(expression, Expression):
        return [*rows, ("simulated as", "the module itself, through autograd"), ("because", expression)]
    model, neuron = expression.task.model, expression.task.neuron
    widths = (*model.channels, *model.hidden) if model.kind == "conv" else model.hidden
    rows.append(("network", f"{model.family}, {model.kind} {'–'.join(map(str, widths))}"))
    if model.family == "snn":
        rows.append(("neuron", f"Leaky, β = {neuron.beta:g}, threshold {neuron.threshold:g}, reset {neuron.reset}"))
        rows.append(("surrogate", f"{neuron.surrogate}({neuron.surrogate_slope:g})"))
        times = "" if expression.factor == 1 else f"{expression.factor:.4g} × "
        output = {"membrane": "mean membrane", "spike": "mean spike count"}[model.readout]
        rows.append(("readout's output", times + output))
    else:
        rows.append(("activation", model.activation))
    rows.append(("verified", f"gradients of module and network differ by {expression.error:.1e} (relative)"))
    return rows
