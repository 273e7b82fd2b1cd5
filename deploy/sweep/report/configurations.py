"""Configurations of a sweep: runs that differ in their seed alone, as one, with n and an interval on every figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec

from deploy.sweep.comparison import LITERATURE, labels_of
from deploy.sweep.estimates import Estimate, mean, middle, share
from server.report.trials import finite

Row = dict[str, Any]
PARAMETERS: dict[str, str] = {
    "encoding": "encoding",
    "steps": "steps T",
    "surrogate": "surrogate",
    "hidden": "width of the first layer",
    "weight_bits": "bits a weight",
    "update_bits": "bits a value of the update",
    "batch_size": "samples a step, B",
    "local_steps": "local steps",
    "noise_multiplier": "noise, in clip norms",
    "clients": "devices",
}
"""Columns of a run along which leakage is drawn where they vary, and their names."""


class Configuration(msgspec.Struct, frozen=True, kw_only=True):
    """One point of the sweep, over its seeds.

    Attributes:
        labels: Label by axis.
        arm: `main`, or `twin` for the ANN twin.
        family: `snn` or `ann`.
        dataset: The data set.
        runs: Names of its runs that are there.
        planned: How many there should be.
        accuracy: Mean over runs.
        held_out: Samples that it was evaluated on; `None` where runs differ.
        joules: Joules of one training round, all devices together: mean over runs.
        joules_to_target: The same until the target accuracy; without a value where a run did not reach it.
        compute: Modelled joules of counted operations of the whole run: mean over runs.
        provenance: Of the joules.
        bytes: Bytes of one update: mean over runs.
        epsilon: Largest over runs; `None` where one of them has none.
        epsilon_lines: What it rests on, or why there is none.
        leakage: Over all audited updates, the highest PSNR of any attack on each: median.
        largest: The highest of these.
        literature: The same median over `LITERATURE` alone.
        exact: Share of audited updates that are certified in full.
        mean_image: Largest PSNR of the mean image: what needs no update at all.
        parameters: What was run, by column of `PARAMETERS`; without those that are not known.
        worst: The highest PSNR of each audited update, `-inf` without an image.
        floors: Control: the same of noise in the place of some of these updates, against their truth.
        noise: The median of `floors`.
        noise_largest: The highest of them.
        noise_attacks: Attacks on noise in an update's place.
        controls: False certificates and certificates on noise: 0, or the attacks are not to be trusted.
    """

    labels: dict[str, str]
    arm: str
    family: str
    dataset: str
    runs: tuple[str, ...]
    planned: int
    accuracy: Estimate
    held_out: int | None
    joules: Estimate
    joules_to_target: Estimate
    compute: Estimate
    provenance: str
    bytes: Estimate
    epsilon: float | None
    epsilon_lines: tuple[str, ...]
    leakage: Estimate
    largest: float | None
    literature: Estimate
    exact: Estimate
    mean_image: float | None
    parameters: dict[str, float | str]
    worst: tuple[float, ...]
    floors: tuple[float, ...]
    noise: Estimate
    noise_largest: float | None
    noise_attacks: int
    controls: int

    @property
    def title(self) -> str:
        """Its labels, and the network where there are two."""
        network = ("ANN",) if self.arm == "twin" else ()
        return " · ".join((*self.labels.values(), *network)) or self.dataset


def configurations(runs: Sequence[Row], attacks: Sequence[Row], *, seeds: int) -> tuple[Configuration, ...]:
    """All configurations, in the order of the table.

    Args:
        runs: Rows of ``sweep.parquet``.
        attacks: Rows of ``attacks.parquet``.
        seeds: Runs that each should have.
    """
    trials: dict[tuple[str, str], list[Row]] = {}
    for row in attacks:
        trials.setdefault((row["run"], row["arm"]), []).append(row)
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in runs:
        groups.setdefault((*labels_of(row).items(), row["arm"]), []).append(row)
    return tuple(
        _configuration(rows, [t for row in rows for t in trials.get((row["run"], row["arm"]), [])], seeds)
        for rows in groups.values()
    )


def _configuration(rows: Sequence[Row], trials: Sequence[Row], seeds: int) -> Configuration:
    def over_runs(values: Sequence[float | None]) -> Estimate:
        return mean([value for value in values if value is not None], of=len(rows))

    best, published = best_by_update(trials), best_by_update([t for t in trials if t["attack"] in LITERATURE])
    noise = best_on_noise(trials)
    exact = {t["update"] for t in trials if t["verdict"] == "exact"}
    return Configuration(
        labels=labels_of(rows[0]),
        arm=rows[0]["arm"],
        family=rows[0]["family"],
        dataset=rows[0]["dataset"],
        runs=tuple(row["run"] for row in rows),
        planned=seeds,
        accuracy=over_runs([row["accuracy"] for row in rows]).within(0.0, 1.0),
        held_out=_only({row["evaluated_on"] for row in rows}),
        joules=over_runs([row["joules_per_round"] for row in rows]).within(0.0, math.inf),
        joules_to_target=over_runs([row["joules_to_target"] for row in rows]).within(0.0, math.inf),
        compute=over_runs([row["compute_j"] for row in rows]).within(0.0, math.inf),
        provenance=" and ".join(sorted({row["energy_provenance"] for row in rows})),
        bytes=over_runs([row["bytes_up"] / row["updates"] if row["updates"] else None for row in rows]).within(
            0.0, math.inf
        ),
        **_privacy(rows),
        leakage=middle(list(best.values())),
        largest=finite(max(best.values(), default=None)),
        literature=middle(list(published.values())),
        exact=share(sum(update in exact for update in best), len(best)),
        mean_image=max(
            (row["mean_image_max_db"] for row in rows if row["mean_image_max_db"] is not None), default=None
        ),
        parameters={name: rows[0][name] for name in PARAMETERS if rows[0].get(name) is not None},
        worst=tuple(best.values()),
        floors=tuple(noise.values()),
        noise=middle(list(noise.values())),
        noise_largest=finite(max(noise.values(), default=None)),
        noise_attacks=sum(row["noise_attacks"] or 0 for row in rows),
        controls=sum(row["false_certificates"] + row["noise_certified"] for row in rows),
    )


def _only(values: set[Any]) -> Any:
    return values.pop() if len(values) == 1 else None


def _privacy(rows: Sequence[Row]) -> Row:
    """The largest ε over runs: none where one of them has none, as the others say nothing of it."""
    known, reasons = [], []
    for row in rows:
        if row["epsilon"] is None:
            reasons.append(row["epsilon_reason"] or "no reason is in the ledger")
        else:
            known.append(row["epsilon"])
    if reasons:
        return {"epsilon": None, "epsilon_lines": tuple(dict.fromkeys(reasons))}
    same = f"smallest {min(known):.3g}" if len(set(known)) > 1 else "equal in all" if len(known) > 1 else ""
    delta = _only({row["delta"] for row in rows})
    lines = (f"accounted, n = {len(known)}", "" if delta is None else f"δ = {delta:g}", same)
    return {"epsilon": max(known), "epsilon_lines": tuple(line for line in lines if line)}


def best_by_update(trials: Sequence[Row]) -> dict[str, float]:
    """Highest PSNR of each update; `-inf` where every attack that ran gave no image."""
    best: dict[str, float] = {}
    for row in trials:
        if row["verdict"] != "refused":
            figure = -math.inf if row["psnr_db"] is None else row["psnr_db"]
            best[row["update"]] = max(best.get(row["update"], -math.inf), figure)
    return best


def best_on_noise(trials: Sequence[Row]) -> dict[str, float]:
    """The same of noise in an update's place; only of updates that had this control."""
    best: dict[str, float] = {}
    for row in trials:
        if row["noise_verdict"] not in {None, "refused"}:
            figure = -math.inf if row["noise_db"] is None else row["noise_db"]
            best[row["update"]] = max(best.get(row["update"], -math.inf), figure)
    return best
