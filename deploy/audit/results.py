"""What the ladder found, chosen without any truth, and the files that hold it."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from attack.certificate import certify, obstacle
from attack.labels import recover_labels
from attack.ladder import Rung
from attack.method import Finding
from attack.methods import METHODS
from attack.threat import Array32, Observation
from contract.messages import Verdict
from contract.perceptual import Perceptual
from deploy.audit.expression import Expression
from deploy.audit.request import AuditRequest
from deploy.audit.scoring import Score, score
from deploy.audit.subject import Subject

RANK: dict[Verdict, int] = {"exact": 0, "recovered": 1, "partial": 2, "failed": 3, "refused": 4}


MATCHING = frozenset({"dlg", "dlg_faint", "cosine"})
"""They always give as many candidates as there are samples, which says nothing of their worth."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The ladder's answer.

    Attributes:
        verdict: The best of all attacks that gave candidates; otherwise that of the best without.
        chosen: Attack whose candidates stand in `recon`; `None` when none has any.
        images: `[samples, *shape]`; NaN where there is no candidate. `None` like `chosen`.
        frames: `[samples, T, *shape]` of the chosen attack, if it recovered spikes.
        residuals: Relative gradient residual of each attack's candidates, simulated forward, where that can be done.
    """

    verdict: Verdict
    chosen: str | None
    images: Array32 | None
    frames: Array32 | None
    residuals: dict[str, float]


def outcome(subject: Subject, rungs: Sequence[Rung]) -> Outcome:
    """Chooses by verdict, then simulated residual, then frames found, gradient matching last, most samples, order."""
    observation = subject.observation
    residuals = {r.attack: value for r in rungs if (value := _residual(observation, r.finding)) is not None}
    usable = {"exact", "recovered", "partial"}
    with_images = [r for r in rungs if r.finding.images is not None and r.finding.verdict in usable]
    order = sorted(with_images, key=lambda r: _merit(r, residuals.get(r.attack), observation.samples))
    if not order:
        verdict: Verdict = min((r.finding.verdict for r in rungs if r.attack != "label"), key=RANK.__getitem__)
        verdict = "failed" if verdict in {"exact", "recovered", "partial"} else verdict
        return Outcome(verdict=verdict, chosen=None, images=None, frames=None, residuals=residuals)
    best = order[0]
    images, frames = best.finding.images, best.finding.frames
    assert images is not None
    samples = observation.samples
    return Outcome(
        verdict=best.finding.verdict,
        chosen=best.attack,
        images=_filled(images, samples),
        frames=None if frames is None else _filled(frames, samples),
        residuals=residuals,
    )


def _merit(rung: Rung, residual: float | None, samples: int) -> tuple[float, ...]:
    finding = rung.finding
    assert finding.images is not None
    missing = max(samples - len(finding.images), 0)
    left = np.inf if residual is None else residual
    return RANK[finding.verdict], left, finding.frames is None, rung.attack in MATCHING, missing


def _filled(rows: Array32, samples: int) -> Array32:
    whole = np.full((samples, *rows.shape[1:]), np.nan, dtype=np.float32)
    whole[: min(samples, len(rows))] = rows[:samples]
    return whole


def _residual(observation: Observation, finding: Finding) -> float | None:
    if finding.images is None or obstacle(observation, finding) is not None:
        return None
    labels = finding.labels
    if len(labels) != observation.samples:
        estimate = recover_labels(observation)
        if estimate is None or observation.samples > 1:
            return None
        labels = estimate.labels
    frames = finding.images[None] * np.float32(observation.encoding.gain)
    if finding.frames is not None and observation.encoding.kind != "direct":
        frames = np.moveaxis(finding.frames, 1, 0)
    return certify(observation, frames, labels).residual


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """All of one audit, as report and files show it.

    Attributes:
        noise: The same attacks on noise with the update's shapes and norms; empty without the control.
    """

    request: AuditRequest
    subject: Subject
    rungs: tuple[Rung, ...]
    outcome: Outcome
    noise: tuple[Rung, ...]
    truth: dict[str, Any] | None
    scores: dict[str, Score]
    seconds: float


def scores(
    rungs: Sequence[Rung], truth: Mapping[str, Any] | None, perceptual: Perceptual | None = None
) -> dict[str, Score]:
    """The score of each attack that has candidates."""
    found: dict[str, Score] = {}
    for rung in rungs if truth is not None else ():
        finding = rung.finding
        if finding.images is not None and truth is not None:
            found[rung.attack] = score(finding.images, finding.frames, finding.labels, truth, perceptual)
    return found


def document(audit: Audit) -> dict[str, Any]:
    """`audit.json`."""
    subject, request = audit.subject, audit.request
    expression = subject.expression
    expressed = isinstance(expression, Expression)
    observation = subject.observation
    options = {k: str(v) if isinstance(v, Path) else v for k, v in msgspec.structs.asdict(request).items()}
    return {
        "spikeleak": _version(),
        "verdict": audit.outcome.verdict,
        "chosen": audit.outcome.chosen,
        "seconds": audit.seconds,
        "options": options,
        "module": {
            "first_layer": subject.first,
            "readout": subject.readout,
            "classes": observation.classes,
            "expressed": expressed,
            "reason": "" if expressed else expression,
            "gradient_error": expression.error if isinstance(expression, Expression) else None,
            "network": msgspec.to_builtins(expression.task.model) if isinstance(expression, Expression) else None,
            "neuron": _neuron(expression),
            "notes": list(subject.notes),
        },
        "update": {
            "samples": observation.samples,
            "algorithm": observation.plan.algorithm,
            "parameters": {name: list(t.shape) for name, t in observation.update.items()},
        },
        "attacks": [_entry(audit, rung) for rung in audit.rungs],
        "controls": {"noise": noise_control(audit)},
    }


def noise_control(audit: Audit) -> dict[str, Any] | None:
    """Negative control: what the attacks made of noise in the update's place; `None` when it was left out.

    `best_psnr_db` is the highest PSNR of any of them against the truth: `None` without a truth, and without an image.
    """
    if not audit.noise:
        return None
    held = [db for found in scores(audit.noise, audit.truth).values() for db in found.psnr_db if db is not None]
    ran = [rung for rung in audit.noise if rung.finding.verdict != "refused"]
    certified = [rung.attack for rung in ran if rung.finding.verdict == "exact"]
    return {
        "attacks": len(ran),
        "certified": certified,
        "passed": not certified,
        "best_psnr_db": max(held, default=None),
        "seconds": sum(rung.seconds for rung in audit.noise),
        "verdicts": {rung.attack: rung.finding.verdict for rung in audit.noise},
    }


def _neuron(expression: Expression | str) -> Any:
    if not isinstance(expression, Expression) or expression.task.model.family != "snn":
        return None
    return msgspec.to_builtins(expression.task.neuron)


def _version() -> str:
    try:
        return importlib.metadata.version("spikeleak")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _entry(audit: Audit, rung: Rung) -> dict[str, Any]:
    finding = rung.finding
    found = audit.scores.get(rung.attack)
    return {
        "attack": rung.attack,
        "verdict": finding.verdict,
        "reason": finding.reason,
        "certificate": finding.reason if finding.verdict == "exact" else None,
        "gradient_residual": audit.outcome.residuals.get(rung.attack),
        "seconds": rung.seconds,
        "labels": list(finding.labels),
        "objective": finding.objective,
        "candidates": 0 if finding.images is None else len(finding.images),
        "frames": finding.frames is not None,
        "citation": METHODS[rung.attack].citation.key,
        "score": None if found is None else msgspec.to_builtins(found),
    }


def write(audit: Audit) -> None:
    """Writes `audit.json` and `recon.npz` into the request's folder, which exists."""
    out = audit.request.out
    (out / "audit.json").write_text(json.dumps(document(audit), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    arrays: dict[str, Any] = {}
    if audit.outcome.images is not None:
        arrays["recon"] = audit.outcome.images
    if audit.outcome.frames is not None:
        arrays["frames"] = audit.outcome.frames
    for rung in audit.rungs:
        if rung.finding.images is not None:
            arrays[f"recon_{rung.attack}"] = rung.finding.images
    np.savez_compressed(out / "recon.npz", **arrays)
