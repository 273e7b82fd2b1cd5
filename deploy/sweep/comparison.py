"""Each spiking network beside its ANN twin: what attacks get out of both, update by update, as a table.

PSNR is the logarithm of a mean squared error, which a series or an event count has as well as a picture; what it is
worth is seen beside the mean sample's PSNR, the guess that needs no update at all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec

from deploy.sweep.estimates import Estimate, mean, mean_by_seed, middle, share

Row = dict[str, Any]
LITERATURE = ("dlg", "dlg_joint", "cosine", "grnn")
"""Gradient matching as published (iDLG, DLG, IG, GRNN); the others of the ladder were derived for spiking networks, are
closed forms, or vary these.
"""
FIGURES = (
    "accuracy", "literature_db", "literature_median_db", "literature_gain_db", "ladder_db",
    "ladder_median_db", "ladder_gain_db", "wrong_sample_db", "mean_sample_db",
    "noise_db", "noise_median_db", "exact", "identified",
)  # fmt: skip
"""Of a `Network`; in the table each with `_low` and `_high`."""


class Network(msgspec.Struct, frozen=True, kw_only=True):
    """One network of a configuration, over all its audited updates.

    Means have a bootstrap interval over seeds and updates (`mean_by_seed`), shares that of Wilson 1927, both 95 %.

    Attributes:
        labels: Label by axis.
        family: `snn` or `ann`.
        dataset: The data set.
        seeds: Runs behind it.
        updates: Audited updates: n of every figure that does not say otherwise.
        accuracy: Held-out, mean over runs with a t interval.
        literature_db: On each update the highest PSNR that an attack of `LITERATURE` reached; mean. Without a value
            where an update gave none of them an image: nothing is averaged over the survivors.
        literature_median_db: The median of the same; updates without an image rank below all others.
        literature_none: Updates that gave none of them an image.
        literature_gain_db: The same less the mean sample's PSNR on the same update.
        ladder_db: As `literature_db`, of all attacks: the worst case.
        ladder_median_db: The median, likewise.
        ladder_none: Updates that gave no attack an image.
        ladder_gain_db: The same less the mean sample's PSNR on the same update.
        wrong_sample_db: Control: the same reconstructions against another sample of the device.
        mean_sample_db: Control: the device's mean sample against the truth.
        exact: Share of the updates whose reconstruction is certified in full, without the truth.
        identified: Share of the updates of which an attack's reconstruction is nearer to its sample than to any other
            of the device.
        noise_updates: Updates that were attacked a second time with noise in their place.
        noise_db: Control: as `ladder_db`, on that noise, against the truth of the update.
        noise_median_db: The median, likewise.
        noise_none: Noise updates that gave no attack an image.
        noise_attacks: Attacks on noise in an update's place.
        noise_certified: Of these, certified: all of them false.
        by_attack: Mean PSNR of each attack of `LITERATURE`; left out where it did not run or one update gave no image.
    """

    labels: dict[str, str]
    family: str
    dataset: str
    seeds: int
    updates: int
    accuracy: Estimate
    literature_db: Estimate
    literature_median_db: Estimate
    literature_none: int
    literature_gain_db: Estimate
    ladder_db: Estimate
    ladder_median_db: Estimate
    ladder_none: int
    ladder_gain_db: Estimate
    wrong_sample_db: Estimate
    mean_sample_db: Estimate
    exact: Estimate
    identified: Estimate
    noise_updates: int
    noise_db: Estimate
    noise_median_db: Estimate
    noise_none: int
    noise_attacks: int
    noise_certified: int
    by_attack: dict[str, float]


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """A spiking network and its twin.

    Attributes:
        snn: The spiking one.
        ann: The twin.
        literature: Best of `LITERATURE` on the spiking network less that on the twin, in dB: mean over updates of the
            same seed, device and round; the samples behind the two need not be the same.
        ladder: The same of all attacks.
    """

    snn: Network
    ann: Network
    literature: Estimate
    ladder: Estimate

    @property
    def title(self) -> str:
        """Its labels."""
        return " · ".join(self.snn.labels.values()) or self.snn.dataset


class _Update(msgspec.Struct, kw_only=True):
    """What all attacks made of one audited update, and what they reached on noise in its place."""

    seed: int
    place: tuple[int, str, int]
    rows: list[Row]
    noise: list[float | None]

    @property
    def floor_db(self) -> float | None:
        """Highest PSNR of any attack on the noise."""
        return max((figure for figure in self.noise if figure is not None), default=None)

    def best(self, column: str, attacks: Sequence[str] | None = None) -> float | None:
        """Highest value over the attacks that have one."""
        found = [r[column] for r in self.rows if r[column] is not None and (attacks is None or r["attack"] in attacks)]
        return max(found, default=None)

    def gain(self, attacks: Sequence[str] | None = None) -> float | None:
        """How far the best reconstruction is above the mean sample."""
        best, mean = self.best("psnr_db", attacks), self.best("mean_image_db")
        return None if best is None or mean is None else best - mean


def pairs(runs: Sequence[Row], attacks: Sequence[Row]) -> tuple[Pair, ...]:
    """All configurations of which both networks were attacked, in the order of the table.

    Args:
        runs: Rows of ``sweep.parquet``.
        attacks: Rows of ``attacks.parquet``.
    """
    updates = _updates(attacks)
    groups: dict[tuple[tuple[str, str], ...], dict[str, list[Row]]] = {}
    for row in runs:
        groups.setdefault(tuple(labels_of(row).items()), {}).setdefault(row["arm"], []).append(row)
    found = []
    for arms in groups.values():
        if "twin" in arms and "main" in arms:
            mine, theirs = ([u for row in arms[arm] for u in updates.get(_key(row), [])] for arm in ("main", "twin"))
            if mine and theirs:
                found.append(_pair(_network(arms["main"], mine), _network(arms["twin"], theirs), mine, theirs))
    return tuple(found)


def labels_of(row: Row) -> dict[str, str]:
    """Label by axis of a run."""
    return {name.removeprefix("axis."): str(value) for name, value in row.items() if name.startswith("axis.")}


def _key(row: Row) -> tuple[str, str]:
    return row["run"], row["arm"]


def _updates(attacks: Sequence[Row]) -> dict[tuple[str, str], list[_Update]]:
    found: dict[tuple[str, str], dict[str, _Update]] = {}
    for row in attacks:
        if row["verdict"] != "refused":
            new = _Update(seed=row["seed"], place=(row["seed"], row["node"], row["round"]), rows=[], noise=[])
            found.setdefault(_key(row), {}).setdefault(row["update"], new).rows.append(row)
    for row in attacks:  # one that was left out, as another is certified, was tried on the noise all the same
        one = found.get(_key(row), {}).get(row["update"])
        if one is not None and row["noise_verdict"] not in {None, "refused"}:
            one.noise.append(row["noise_db"])
    return {key: list(updates.values()) for key, updates in found.items()}


def _network(runs: Sequence[Row], updates: Sequence[_Update]) -> Network:
    def over(values: Sequence[float | None]) -> Estimate:
        return mean_by_seed([(one.seed, value) for one, value in zip(updates, values, strict=True)])

    accuracies = [row["accuracy"] for row in runs if row["accuracy"] is not None]
    published = [one.best("psnr_db", LITERATURE) for one in updates]
    best = [one.best("psnr_db") for one in updates]
    exact = sum(any(row["verdict"] == "exact" for row in one.rows) for one in updates)
    noise = [(one.seed, one.floor_db) for one in updates if one.noise]
    known = sum((one.best("identified") or 0.0) >= 1.0 for one in updates)
    single = {name: over([one.best("psnr_db", (name,)) for one in updates]).value for name in LITERATURE}
    return Network(
        labels=labels_of(runs[0]),
        family=runs[0]["family"],
        dataset=runs[0]["dataset"],
        seeds=len(runs),
        updates=len(updates),
        accuracy=mean(accuracies, of=len(runs)).within(0.0, 1.0),
        literature_db=over(published),
        literature_median_db=_ranked(published),
        literature_none=published.count(None),
        literature_gain_db=over([one.gain(LITERATURE) for one in updates]),
        ladder_db=over(best),
        ladder_median_db=_ranked(best),
        ladder_none=best.count(None),
        ladder_gain_db=over([one.gain() for one in updates]),
        wrong_sample_db=over([one.best("wrong_sample_db") for one in updates]),
        mean_sample_db=over([one.best("mean_image_db") for one in updates]),
        exact=share(exact, len(updates)),
        identified=share(known, len(updates)),
        noise_updates=len(noise),
        noise_db=mean_by_seed(noise),
        noise_median_db=_ranked([figure for _, figure in noise]),
        noise_none=[figure for _, figure in noise].count(None),
        noise_attacks=sum(row["noise_attacks"] or 0 for row in runs),
        noise_certified=sum(row["noise_certified"] or 0 for row in runs),
        by_attack={name: value for name, value in single.items() if value is not None},
    )


def _ranked(values: Sequence[float | None]) -> Estimate:
    return middle([-math.inf if value is None else value for value in values])


def _pair(snn: Network, ann: Network, mine: Sequence[_Update], theirs: Sequence[_Update]) -> Pair:
    others = {one.place: one for one in theirs}
    both = [(one, others[one.place]) for one in mine if one.place in others]

    def less(attacks: Sequence[str] | None) -> Estimate:
        found = []
        for one, other in both:
            a, b = one.best("psnr_db", attacks), other.best("psnr_db", attacks)
            found.append((one.seed, None if a is None or b is None else a - b))
        return mean_by_seed(found)

    return Pair(snn=snn, ann=ann, literature=less(LITERATURE), ladder=less(None))


# --- the table ----------------------------------------------------------------------------------------------------


def columns(axes: Sequence[str]) -> dict[str, type]:
    """Columns of ``networks.parquet`` and their types."""
    found: dict[str, type] = {f"axis.{name}": str for name in axes}
    found |= {"dataset": str, "family": str, "seeds": int, "updates": int}
    for name in FIGURES:
        found |= {name: float, f"{name}_low": float, f"{name}_high": float}
    found |= {
        "literature_none": int,
        "ladder_none": int,
        "noise_none": int,
        "noise_updates": int,
        "noise_attacks": int,
        "noise_certified": int,
    }
    return found | {f"{name}_db": float for name in LITERATURE}


def rows(found: Sequence[Pair]) -> list[Row]:
    """Both networks of each pair, the spiking one first."""
    return [_row(network) for pair in found for network in (pair.snn, pair.ann)]


def _row(one: Network) -> Row:
    row: Row = {f"axis.{name}": label for name, label in one.labels.items()}
    for name in ("dataset", "family", "seeds", "updates", "literature_none", "ladder_none", "noise_none"):
        row[name] = getattr(one, name)
    for name in FIGURES:
        figure: Estimate = getattr(one, name)
        row |= {name: figure.value, f"{name}_low": figure.low, f"{name}_high": figure.high}
    row |= {
        "noise_updates": one.noise_updates,
        "noise_attacks": one.noise_attacks,
        "noise_certified": one.noise_certified,
    }
    return row | {f"{name}_db": value for name, value in one.by_attack.items()}
