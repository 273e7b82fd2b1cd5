"""The sweep in plain words, computed from its tables."""

from __future__ import annotations

import math
from collections.abc import Sequence

from deploy.sweep.comparison import LITERATURE
from deploy.sweep.estimates import Estimate
from deploy.sweep.plan import Sweep
from deploy.sweep.report.configurations import Configuration
from deploy.sweep.report.front import CLOSE_POINTS, accurate, front, rank
from deploy.sweep.report.matrix import pairs
from server.report import quantities

SAFE_DB = 15.0
"""Below this a digit's class can mostly not be told from the picture; the figure behind "below 15 dB"."""


def sentences(sweep: Sweep, found: Sequence[Configuration], *, missing: int, unscored: int = 0) -> list[str]:
    """Paragraphs of the summary."""
    attacked = [one for one in found if one.leakage.n > 0]
    if not attacked:
        return ["No update of this sweep was attacked, so that it says nothing about leakage."]
    told = [_headline(attacked), _below(attacked), _front(attacked), _literature(attacked), _twins(found)]
    if sweep.target_accuracy is not None:
        told.append(_target(sweep.target_accuracy, found))
    told.append(_trust(found, missing, unscored))
    return [text for text in told if text]


def _configurations(count: int) -> str:
    return f"{count} configuration{'' if count == 1 else 's'}"


def _headline(found: Sequence[Configuration]) -> str:
    snn = [one for one in found if one.family == "snn"]
    updates = sum(one.leakage.n for one in snn)
    exact = sum(round((one.exact.value or 0.0) * one.exact.n) for one in snn)
    if not snn:
        return f"{len(found)} configurations, none of them a spiking network."
    known = [one.leakage.value for one in snn if one.leakage.value is not None]
    lies = "The median worst case of a configuration lies between"
    span = f" {lies} {min(known):.1f} and {max(known):.1f} dB." if known else ""
    silent = len(snn) - len(known)
    none = f" Of {_configurations(silent)} at least half of the updates gave no attack an image." if silent else ""
    return (
        f"{_configurations(len(snn))} of spiking networks, {updates} audited updates: of {exact} of these an attack "
        f"certified its reconstruction in full, without knowing the truth.{span}{none}"
    )


def _below(found: Sequence[Configuration]) -> str:
    low = [one for one in found if _largest(one) < SAFE_DB and one.joules.value]
    if not low:
        least = min(found, key=_largest)
        return (
            f"No configuration keeps the worst case of every update below {SAFE_DB:g} dB; nearest comes {least.title} "
            f"with {quantities.decibel(least.largest)} dB (n = {least.leakage.n} updates)."
        )
    cheap = min(low, key=lambda one: one.joules.value or 0.0)
    best = max(low, key=lambda one: one.accuracy.value or 0.0)
    text = (
        f"{len(low)} of {_configurations(len(found))} keep the worst case of every audited update below {SAFE_DB:g} dB."
        f" The cheapest is {cheap.title}: {_cost(cheap)}."
    )
    return text if best is cheap else f"{text} The most accurate of them is {best.title}: {_cost(best)}."


def _largest(one: Configuration) -> float:
    return -math.inf if one.largest is None else one.largest


def _cost(one: Configuration) -> str:
    worst = "no image at all" if one.largest is None else f"worst case {one.largest:.1f} dB"
    return (
        f"{quantities.energy(one.joules.value)} a training round ({one.provenance}), accuracy "
        f"{quantities.percent(one.accuracy.value)}, {worst} over n = {one.leakage.n} updates"
    )


def _front(found: Sequence[Configuration]) -> str:
    near, best = accurate(found), front(found)
    if not best:
        return ""
    names = "; ".join(f"{one.title} ({quantities.energy(one.joules.value)}, {_level(one)})" for one in best[:6])
    more = f"; and {len(best) - 6} more" if len(best) > 6 else ""
    lie = "lies" if len(near) == 1 else "lie"
    text = f"{_configurations(len(near))} {lie} within {100 * CLOSE_POINTS:g} points of the best accuracy. "
    several = len({one.dataset for one in near}) > 1
    if several:
        text = (
            f"{_configurations(len(near))} {lie} within {100 * CLOSE_POINTS:g} points of the best of their data set. "
        )
    elif len(near) > 1 and len(best) == 1:
        return (
            f"{text}One dominates: none of them is cheaper than {names}, and none leaks less, by its median worst case."
        )
    elif len(near) > 1:
        text += "None dominates all others. "
    place = "On the front of its data set" if several else "On the front"
    return f"{text}{place}, where no other one is as cheap and leaks as little: {names}{more}."


def _level(one: Configuration) -> str:
    """Its median worst case in words."""
    return "no image" if one.leakage.value is None else f"{one.leakage.value:.1f} dB"


def _literature(found: Sequence[Configuration]) -> str:
    known = [one for one in found if one.family == "snn" and one.literature.n > 0]
    if not known:
        return ""
    fooled = [one for one in known if _below_safe(one.literature) and not _below_safe(one.leakage)]
    return (
        f"By gradient matching as published ({', '.join(LITERATURE)}) alone, {len(fooled)} of {len(known)} spiking "
        f"configurations pass as private (median below {SAFE_DB:g} dB) though the worst case over the ladder is above."
    )


def _below_safe(one: Estimate) -> bool:
    return one.value is None or one.value < SAFE_DB


def _twins(found: Sequence[Configuration]) -> str:
    both = [(snn, ann) for snn, ann in pairs(found) if snn.leakage.n and ann.leakage.n]
    if not both:
        return ""
    less = sum(rank(snn) < rank(ann) for snn, ann in both)
    return f"Beside its ANN twin the spiking network leaks less, by median worst case, in {less} of {len(both)} pairs."


def _target(target: float, found: Sequence[Configuration]) -> str:
    reached = [one for one in found if one.joules_to_target.value is not None]
    if not reached:
        return f"No configuration reached {100 * target:g} % accuracy in every run."
    cheap = min(reached, key=lambda one: one.joules_to_target.value or 0.0)
    return (
        f"{len(reached)} of {_configurations(len(found))} reached {100 * target:g} % accuracy in every run; cheapest "
        f"was {cheap.title} with {quantities.energy(cheap.joules_to_target.value)}."
    )


def _trust(found: Sequence[Configuration], missing: int, unscored: int) -> str:
    false = sum(one.controls for one in found)
    controls = (
        "no certificate was false and none was given on noise"
        if false == 0
        else (f"{false} certificates were false or given on noise: do not trust the attacks before that is explained")
    )
    gaps = f" {missing} runs are missing; no figure of theirs is estimated." if missing else ""
    if unscored:
        gaps += (
            f" Of {unscored} updates no score came before the server had waited long enough: they are in no figure of "
            "leakage, and where all of a configuration's are among them it has none."
        )
    return f"Controls: {controls}.{gaps} A failed attack is a failed attack, no proof of privacy."
