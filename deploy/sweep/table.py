"""What a sweep knows of its runs: one row a run, and one row for each attack on each audited update.

Both come from the ledgers alone. A figure that is not known is null. `TIMED` names the columns that hang on how fast
the machine was; all others are the same each time the sweep is run with the same seeds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from contract.codecs import CODECS
from contract.messages import Seen
from contract.task import FLOAT_BITS
from deploy.study import Study
from deploy.sweep.plan import Point, Sweep
from server.ledger import FILE_NAME, Ledger
from server.report.data import NoiseRow, ScoreRow
from server.report.ledger_rows import read_noise
from server.report.noise_level import noise_level
from server.report.trials import finite, median, worst_by_update, worst_case
from server.summary import read_scores, summarise_ledger

RUN_COLUMNS: dict[str, type] = {
    "run": str,
    "arm": str,
    "seed": int,
    "dataset": str,
    "family": str,
    "encoding": str,
    "steps": int,
    "surrogate": str,
    "weight_bits": int,
    "hidden": int,
    "update_bits": float,
    "batch_size": int,
    "local_steps": int,
    "noise_multiplier": float,
    "clients": int,
    "outcome": str,
    "rounds_train": int,
    "rounds_audit": int,
    "accuracy": float,
    "evaluated_on": int,
    "updates": int,
    "lost": int,
    "duplicated": int,
    "bytes_up": int,
    "energy_j": float,
    "energy_provenance": str,
    "joules_per_round": float,
    "joules_to_target": float,
    "compute_j": float,
    "epsilon": float,
    "delta": float,
    "epsilon_reason": str,
    "audited": int,
    "never_attacked": int,
    "unscored": int,
    "worst_psnr_db": float,
    "worst_attack": str,
    "median_worst_psnr_db": float,
    "exact_updates": int,
    "false_certificates": int,
    "noise_attacks": int,
    "noise_certified": int,
    "noise_updates": int,
    "noise_median_db": float,
    "noise_max_db": float,
    "wrong_sample_max_db": float,
    "mean_image_max_db": float,
    "wall_s": float,
}
"""Columns of a run and their types; each axis adds `axis.<name>` with its label.

What was run: `steps` is T, `surrogate` null of an ANN, `weight_bits` 32 for float weights, `hidden` the neurons of
the first layer (channels of a convolution). Of the audited updates: `update_bits` of one value on the wire (null for
`topk`, whose size hangs on its share), `batch_size`, `local_steps`, `noise_multiplier` in units of the clip norm.

`energy_j` is the run's sum of one provenance, `joules_per_round` the same over training rounds only, `joules_to_target`
what training had taken when the model first reached the sweep's target accuracy (null: never). `compute_j` is the
modelled energy of counted operations alone. `epsilon` is that of the device with the largest, at `delta`, by
dp-accounting; `epsilon_reason` says why there is none. `worst_psnr_db` is the highest PSNR of any attack on any audited
update, `median_worst_psnr_db` the median over updates of each one's highest (null: at least half gave no image at all),
`exact_updates` how many were certified in full. On `noise_updates` noise stood in an audited update's place: of each
the highest PSNR of any attack against that update's truth, their median and the largest. `unscored` updates were
admitted, and no score of them came before the server had waited long enough: they are in no figure of leakage.
"""
TIMED = ("wall_s",)
"""Columns with a clock in them. The joules of sending have one too without `devices.radio_mbit_s`: power times the time
until the acknowledgement.
"""
ATTACK_COLUMNS: dict[str, type] = {
    "run": str,
    "arm": str,
    "seed": int,
    "update": str,
    "node": str,
    "round": int,
    "samples": int,
    "seen": str,
    "attack": str,
    "verdict": str,
    "reason": str,
    "psnr_db": float,
    "ssim": float,
    "identified": float,
    "frames_exact": float,
    "frames_placed": float,
    "labels_right": int,
    "wrong_sample_db": float,
    "mean_image_db": float,
    "membership_auc": float,
    "noise_verdict": str,
    "noise_db": float,
    "seconds": float,
}
"""Columns of an attack on one audited update; a refused attack (the threat model withholds something) is no trial.

`seen`: what the curious server got most from, the update itself or what secure aggregation opened (`server.vantages`).
`noise_verdict`, `noise_db`: of the same attack on noise in the update's place, against the same truth; both null where
that control was not run or not scored, `noise_db` alone where it gave no image.
"""
_MANY = 1 << 16
"""Values of a tensor that tells a codec's bits a value."""
Row = dict[str, Any]
Noise = dict[tuple[str, Seen, str], NoiseRow]


def collect(sweep: Sweep, points: Iterable[Point], folder: Path) -> tuple[list[Row], list[Row]]:
    """Rows of runs in the order of the points; the SNN's before its twin's.

    Args:
        sweep: The sweep.
        points: Its runs that are finished: of one under way nothing is told.
        folder: Where their folders lie.
    """
    runs: list[Row] = []
    attacks: list[Row] = []
    for point in points:
        for arm, directory in (("main", folder / point.name), ("twin", folder / point.name / "twin")):
            if (directory / FILE_NAME).exists() and (arm == "main" or point.study.twin is not None):
                row, trials = _of_run(sweep, point, arm, directory)
                runs.append(row)
                attacks += trials
    return runs, attacks


def schema(sweep: Sweep) -> dict[str, type]:
    """Columns of the runs' table."""
    names = list(RUN_COLUMNS)
    axes: dict[str, type] = {f"axis.{axis.title}": str for axis in sweep.axes}
    return {**{name: RUN_COLUMNS[name] for name in names[:3]}, **axes, **{n: RUN_COLUMNS[n] for n in names[3:]}}


def _of_run(sweep: Sweep, point: Point, arm: str, directory: Path) -> tuple[Row, list[Row]]:
    with Ledger.open_read(directory / FILE_NAME) as ledger:
        audits = [row for row in read_scores(ledger) if row.kind == "audit"]
        noise = _noise(ledger, audits)
        place = {"run": point.name, "arm": arm, "seed": point.seed}
        row = {
            **place,
            **{f"axis.{name}": label for name, label in point.labels.items()},
            **identity(point.study, arm),
            **_figures(summarise_ledger(ledger)),
            **_joules(ledger, sweep.target_accuracy),
            **_leakage(audits),
            **_floor(noise, audits),
        }
    return row, [_trial(place, row, noise) for row in audits]


def identity(study: Study, arm: str) -> Row:
    """What was run."""
    task, model = study.task, study.task.model
    spiking = arm != "twin" and model.family == "snn"
    layers = (model.channels if model.kind == "conv" else ()) + model.hidden
    return {
        "dataset": task.dataset,
        "family": "snn" if spiking else "ann",
        "encoding": task.encoding.kind if spiking else "direct",
        "steps": task.encoding.steps if spiking else None,
        "surrogate": task.neuron.surrogate if spiking else None,
        "weight_bits": model.weight_bits or FLOAT_BITS,
        "hidden": layers[0] if layers and model.own is None else None,
        **_audited_plan(study),
        "clients": study.clients,
    }


def _audited_plan(study: Study) -> Row:
    """How the updates that are attacked are made; nulls without an audit, or where audits differ."""
    plans = [
        {
            "update_bits": None if plan.codec == "topk" else 8 * CODECS[plan.codec].most_bytes(_MANY) / _MANY,
            "batch_size": plan.batch_size,
            "local_steps": plan.local_steps,
            "noise_multiplier": plan.noise_multiplier,
        }
        for plan in study.schedule
        if plan.kind == "audit"
    ]
    return (
        {} if not plans else {name: value for name, value in plans[0].items() if all(p[name] == value for p in plans)}
    )


def _figures(summary: Row) -> Row:
    leakage, updates = summary["leakage"], summary["updates"]
    controls = leakage["by_schedule"]["audit"]["controls"]
    return {
        "outcome": summary["outcome"],
        "rounds_train": summary["rounds_by_kind"]["train"],
        "rounds_audit": summary["rounds_by_kind"]["audit"],
        "accuracy": summary["accuracy"],
        "evaluated_on": summary["evaluated_on"],
        "updates": updates["admitted"],
        "lost": updates["lost"],
        "duplicated": updates["duplicated"],
        "bytes_up": summary["bytes_up"],
        "epsilon": summary["privacy"]["epsilon"],
        "delta": summary["privacy"]["delta"],
        "epsilon_reason": summary["privacy"]["reason"],
        "never_attacked": leakage["never_attacked"],
        "unscored": leakage["unscored"],
        "false_certificates": leakage["certificates"]["false"],
        "noise_attacks": leakage["noise"]["attacks"],
        "noise_certified": leakage["noise"]["certified"],
        "wrong_sample_max_db": controls["wrong_sample_max_db"],
        "mean_image_max_db": controls["mean_image_max_db"],
        "wall_s": summary["wall_s"],
    }


_SPENT = (
    "SELECT round, scope, energy_j, round IN (SELECT round FROM rounds WHERE kind = 'train') AS trains FROM energy "
    "WHERE provenance = ? AND phase NOT IN ('idle', 'sleep') AND energy_j IS NOT NULL"
)


def _joules(ledger: Ledger, target: float | None) -> Row:
    """Joules of the run, of a training round, and to the target accuracy.

    Sums are exact before they are rounded, so that they do not hang on the order in which reports arrived.
    """
    provenance = summarise_ledger(ledger)["energy_j"]["provenance"]
    rows = ledger.rows(_SPENT, provenance)
    rounds: dict[int, list[float]] = {}
    for row in rows:
        if row["trains"]:
            rounds.setdefault(row["round"], []).append(row["energy_j"])
    by_round = {round_: math.fsum(values) for round_, values in sorted(rounds.items())}
    counted = [row["energy_j"] for row in ledger.rows(_SPENT, "modelled") if row["scope"] == "operations"]
    return {
        "energy_j": math.fsum(row["energy_j"] for row in rows) if rows else None,
        "energy_provenance": provenance,
        "joules_per_round": math.fsum(by_round.values()) / len(by_round) if by_round else None,
        "joules_to_target": _to_target(ledger, by_round, target),
        "compute_j": math.fsum(counted) if counted else None,
    }


def _to_target(ledger: Ledger, by_round: dict[int, float], target: float | None) -> float | None:
    if target is None or not by_round:
        return None
    reached = ledger.value("SELECT MIN(round) FROM evaluations WHERE accuracy >= ?", target)
    return None if reached is None else math.fsum(value for round_, value in by_round.items() if round_ <= reached)


def _leakage(audits: list[ScoreRow]) -> Row:
    worst, best = worst_case(audits), worst_by_update(audits)
    return {
        "audited": len(best),
        "worst_psnr_db": None if worst is None else worst.psnr_db,
        "worst_attack": None if worst is None else worst.attack,
        "median_worst_psnr_db": finite(median(list(best.values()))),
        "exact_updates": len({row.update for row in audits if row.score.verdict == "exact"}),
    }


def _noise(ledger: Ledger, audits: Sequence[ScoreRow]) -> Noise:
    """The scored noise controls of these updates, by update, sight and attack."""
    ours = {(row.update, row.seen) for row in audits}
    found = [row for row in read_noise(ledger) if row.scored and (row.update, row.seen) in ours]
    return {(row.update, row.seen, row.attack): row for row in found}


def _floor(noise: Noise, audits: Sequence[ScoreRow]) -> Row:
    level = noise_level(noise.values(), audits)
    return {"noise_updates": level.updates, "noise_median_db": level.median_db, "noise_max_db": level.max_db}


def _trial(place: Row, row: ScoreRow, noise: Noise) -> Row:
    score = msgspec.structs.asdict(row.score)
    at = {"update": row.update, "node": row.node, "round": row.round, "samples": row.samples, "seen": row.seen}
    floor = noise.get((row.update, row.seen, row.score.attack))
    held: Row = dict.fromkeys(("noise_verdict", "noise_db"))
    if floor is not None:
        held = {"noise_verdict": floor.verdict, "noise_db": floor.psnr_db}
    return {**place, **at, **{name: score[name] for name in ATTACK_COLUMNS if name in score}, **held}
