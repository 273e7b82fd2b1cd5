"""`summary.json`: a run in numbers, from its ledger alone.

What is not known is `null`, never 0. Failures count: an attack that ran and gave no image is a trial below every
image, so a median of `null` beside `n` trials says that at least half of them gave none; nothing is averaged over the
survivors.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from server.accounting import count_updates
from server.drain import outstanding
from server.integer_inference import noted
from server.joules import energy
from server.ledger import FILE_NAME, Ledger
from server.mirror import half_seen, reach
from server.privacy import privacy
from server.report import ledger_rows
from server.report.controls import false_certificates
from server.report.data import KINDS, ScoreRow
from server.report.ledger_rows import read_noise
from server.report.noise_level import noise_level
from server.report.sights import kinds, of_kind, of_server
from server.report.trials import spread, worst_case
from server.report.waiting import read_waiting, summarised
from server.secure_summary import secure
from server.vantages import VANTAGES
from server.vantages import summarised as summarised_views


def summarise(directory: Path, twin: Path | None = None) -> dict[str, Any]:
    """A run in numbers.

    Args:
        directory: Folder with the run's `ledger.sqlite`.
        twin: Folder of its ANN twin's run, if there is one.

    Returns:
        Plain values that JSON can hold; the keys are described in `server/README.md`.

    Raises:
        ConfigurationError: A folder holds no ledger.
    """
    summary = _one(directory)
    if twin is not None:
        summary["twin"] = _one(twin)
    return summary


def _one(directory: Path) -> dict[str, Any]:
    with Ledger.open_read(directory / FILE_NAME) as ledger:
        return summarise_ledger(ledger)


def summarise_ledger(ledger: Ledger) -> dict[str, Any]:
    """One arm of a run in numbers."""
    counted = count_updates(ledger)
    return {
        "run": ledger.meta("run"),
        "task_hash": ledger.meta("task_hash"),
        "outcome": ledger.meta("outcome"),
        **_rounds(ledger),
        "asynchronous": _asynchronous(ledger),
        **_accuracy(ledger),
        "int8_inference": msgspec.to_builtins(noted(ledger)),
        "updates": counted,
        "bytes_up": ledger.value("SELECT COALESCE(SUM(bytes), 0) FROM updates"),
        "bytes_received": ledger.value("SELECT COALESCE(SUM(bytes_in), 0) FROM sessions"),
        "energy_j": energy(ledger),
        "waiting": summarised(read_waiting(ledger)),
        "secure": secure(ledger),
        "leakage": leakage(ledger),
        "privacy": privacy(ledger, counted["published"]),
        "wall_s": ledger.value("SELECT SUM(duration_s) FROM sessions"),
        "starts": ledger.value("SELECT COUNT(*) FROM sessions"),
    }


def _rounds(ledger: Ledger) -> dict[str, Any]:
    closed = "FROM rounds WHERE closed IN ('complete', 'deadline')"
    planned = ledger.meta("rounds")
    return {
        "rounds": ledger.value(f"SELECT COUNT(DISTINCT round) {closed}"),
        "rounds_planned": None if planned is None else int(planned),
        "rounds_by_kind": {
            kind: ledger.value(f"SELECT COUNT(DISTINCT round) {closed} AND kind = ?", kind) for kind in KINDS
        },
        "rounds_by_deadline": ledger.value("SELECT COUNT(*) FROM rounds WHERE closed = 'deadline'"),
        "rounds_opened_again": ledger.value("SELECT COUNT(*) FROM rounds WHERE closed IN ('empty', 'interrupted')"),
        "clients": ledger.value("SELECT COUNT(DISTINCT node) FROM nodes"),
    }


def _asynchronous(ledger: Ledger) -> dict[str, Any] | None:
    """Versions that asynchronous rounds made, and how stale the updates in them were; `None` without such rounds."""
    row = ledger.row(
        "SELECT COUNT(DISTINCT version) AS versions, COUNT(*) AS updates, AVG(staleness) AS mean_staleness, "
        "MAX(staleness) AS max_staleness, AVG(factor) AS mean_factor FROM aggregated "
        "WHERE round IN (SELECT round FROM rounds WHERE json_extract(plan, '$.mode') = 'asynchronous')"
    )
    return dict(row) if row is not None and row["updates"] else None


def _accuracy(ledger: Ledger) -> dict[str, Any]:
    row = ledger.row("SELECT * FROM evaluations ORDER BY version DESC LIMIT 1")
    newest = ledger.value("SELECT MAX(version) FROM models")
    if row is None or row["version"] != newest:
        reason = ledger.meta("unevaluated") or "the newest model was not evaluated"
        absent = {"accuracy": None, "loss": None, "evaluated_on": None, "accuracy_reason": reason}
        return {**absent, "model_version": newest}
    found = {"accuracy": row["accuracy"], "loss": row["loss"], "evaluated_on": row["samples"]}
    return {**found, "model_version": newest}


# --- leakage ----------------------------------------------------------------------------------------------------


def leakage(ledger: Ledger) -> dict[str, Any]:
    """Worst case over all attacks, each attack's own figures, and the same for each kind of round."""
    seen, reached = ledger_rows.read_scores(ledger), reach(ledger)
    rows = of_server(seen, half_seen(ledger))
    return {
        **_figures(rows),
        "by_schedule": {kind: _figures([row for row in rows if row.kind == kind]) for kind in KINDS},
        "by_sight": {
            kind: {"vantages": VANTAGES[kind], **_figures(of_kind(seen, kind)), **_audits(of_kind(seen, kind))}
            for kind in kinds(seen)
        },
        "views": summarised_views(ledger),
        "updates_scored": ledger.value("SELECT COUNT(*) FROM objects WHERE kind = 'score'"),
        "unscored": outstanding(ledger).scores,
        "noise": _noise(ledger, seen),
        "certificates": _certificates(seen),
        "never_attacked": reached.never_attacked,
        "mirror_dropped": reached.dropped,
    }


def _audits(rows: Sequence[ScoreRow]) -> dict[str, Any]:
    return {"audit": _figures([row for row in rows if row.kind == "audit"])}


def _noise(ledger: Ledger, scores: Sequence[ScoreRow]) -> dict[str, Any]:
    """Negative control: attacks on noise in place of an update, what they certified, and what they reached there."""
    rows = [row for row in read_noise(ledger) if row.verdict != "refused"]
    level = noise_level(rows, scores)
    return {
        "updates": len({(row.update, row.seen) for row in rows}),
        "attacks": len(rows),
        "certified": sum(row.verdict == "exact" for row in rows),
        "scored": level.updates,
        "median_psnr_db": level.median_db,
        "max_psnr_db": level.max_db,
        "ci95": [level.low_db, level.high_db],
        "beside_median_psnr_db": level.beside_db,
    }


def _certificates(rows: Sequence[ScoreRow]) -> dict[str, Any]:
    """How many scored reconstructions the attacker had certified, and how many of those the truth gives the lie."""
    return {"n": sum(row.score.verdict == "exact" for row in rows), "false": len(false_certificates(rows))}


def read_scores(ledger: Ledger) -> list[ScoreRow]:
    """Scores of all attacks that were made, in the order of rounds, as the curious server has them (`of_server`)."""
    return of_server(ledger_rows.read_scores(ledger), half_seen(ledger))


def _figures(rows: Sequence[ScoreRow]) -> dict[str, Any]:
    worst = worst_case(rows)
    names = dict.fromkeys(row.score.attack for row in rows)
    return {
        "worst_psnr_db": None if worst is None else worst.psnr_db,
        "worst_attack": None if worst is None else worst.attack,
        "updates": len({row.update for row in rows}),
        "by_attack": {name: _attack([row for row in rows if row.score.attack == name]) for name in names},
        "controls": _controls(rows),
    }


def _attack(rows: Sequence[ScoreRow]) -> dict[str, Any]:
    """One attack: `n` trials, `failed` of them without an image; refusals by the threat model are no trials."""
    found = spread(rows)
    verdicts = [row.score.verdict for row in rows]
    return {
        "n": found.trials,
        "failed": found.failed,
        "refused": found.refused,
        "exact": verdicts.count("exact"),
        "median_psnr_db": found.median_db,
        "max_psnr_db": found.max_db,
        "ci95": [found.low_db, found.high_db],
        "labels_right": found.labels_right,
        "labels_of": found.labels_of if found.labels_right is not None else None,
        "identified": found.identified,
        "identified_ci95": found.identified_ci,
        "frames_exact": found.frames_exact,
        "frames_exact_ci95": found.frames_exact_ci,
        "frames_placed": found.frames_placed,
        "frames_placed_ci95": found.frames_placed_ci,
        "membership_auc": found.membership_auc,
        "membership_auc_ci95": found.membership_ci,
        "membership_n": found.membership_trials,
        "median_lpips": found.lpips,
        "lpips_n": found.lpips_trials,
        "median_s": found.seconds,
    }


def _controls(rows: Sequence[ScoreRow]) -> dict[str, Any]:
    """Negative controls: what a stranger's reconstruction and the mean image reach."""
    wrong = [row.score.wrong_sample_db for row in rows if row.score.wrong_sample_db is not None]
    mean = [row.score.mean_image_db for row in rows if row.score.mean_image_db is not None]
    return {
        "wrong_sample_max_db": max(wrong, default=None),
        "mean_image_max_db": max(mean, default=None),
        "n": len(wrong),
    }
