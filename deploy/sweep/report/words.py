"""The sweep in plain words, computed from its tables."""

from __future__ import annotations

import math
from collections.abc import Sequence

from deploy.sweep.comparison import LITERATURE
from deploy.sweep.estimates import Estimate, middle, share
from deploy.sweep.plan import Sweep
from deploy.sweep.report import figures
from deploy.sweep.report.configurations import Configuration
from deploy.sweep.report.front import CLOSE_POINTS, accurate, front, rank
from deploy.sweep.report.matrix import interval, pairs
from server.report import quantities
from server.report.quantities import decibel

SAFE_DB = 15.0
"""Below this a digit's class can mostly not be told from the picture; the figure behind "below 15 dB"."""
_MOST_NAMES = 6


def sentences(sweep: Sweep, found: Sequence[Configuration], *, missing: int, unscored: int = 0) -> list[str]:
    """Paragraphs of the summary: what is spent, what leaks, what dominates, what is left of the claim, and trust."""
    attacked = [one for one in found if one.leakage.n > 0]
    if not attacked:
        return ["No update of this sweep was attacked, so that it says nothing about leakage."]
    told = [_spent(found), _headline(attacked), _floor(attacked), _below(attacked), _front(attacked)]
    told += [_claim(attacked), _literature(attacked), _twins(found)]
    if sweep.target_accuracy is not None:
        told.append(_target(sweep.target_accuracy, found))
    told.append(_trust(found, missing, unscored))
    return [text for text in told if text]


def _configurations(count: int) -> str:
    return f"{count} configuration{'' if count == 1 else 's'}"


def _spent(found: Sequence[Configuration]) -> str:
    known = sorted((one for one in found if one.joules.value is not None), key=lambda one: one.joules.value or 0.0)
    if not known:
        return "What a training round costs is not known of any configuration."
    cheap, dear = known[0], known[-1]
    text = f"A training round of all devices costs {_joules(cheap)} with {cheap.title}"
    if dear is not cheap:
        text += f", the cheapest, and {_joules(dear)} with {dear.title}, the dearest of {_configurations(len(known))}"
    sized = sorted((one for one in found if one.bytes.value is not None), key=lambda one: one.bytes.value or 0.0)
    if sized:
        small, large = sized[0], sized[-1]
        text += f". An update has {_bytes(small)}"
        if data_size(small.bytes.value) != data_size(large.bytes.value):
            text += f" with {small.title}, the fewest, and {_bytes(large)} with {large.title}, the most"
    unknown = len(found) - len(known)
    return f"{text}." + (f" Of {_configurations(unknown)} the joules are not known in every run." if unknown else "")


def _joules(one: Configuration) -> str:
    return f"{quantities.energy(one.joules.value)} ({figures.joules(one.joules, one.provenance)})"


def _bytes(one: Configuration) -> str:
    return f"{data_size(one.bytes.value)} ({figures.sent(one.bytes)})"


def data_size(value: float | None) -> str:
    """Bytes with a binary prefix."""
    return quantities.data_size(None if value is None else round(value))


def _headline(found: Sequence[Configuration]) -> str:
    snn = [one for one in found if one.family == "snn"]
    updates = sum(one.leakage.n for one in snn)
    exact = sum(round((one.exact.value or 0.0) * one.exact.n) for one in snn)
    if not snn:
        return f"{_configurations(len(found))}, none of them a spiking network."
    known = sorted((one for one in snn if one.leakage.value is not None), key=rank)
    span = (
        f" The median worst case of a configuration lies between {_level(known[0])} and {_level(known[-1])}."
        if known
        else ""
    )
    silent = len(snn) - len(known)
    none = f" Of {_configurations(silent)} at least half of the updates gave no attack an image." if silent else ""
    part = figures.ends(share(exact, updates), quantities.percent)
    return (
        f"{_configurations(len(snn))} of spiking networks, {updates} audited updates: of {exact} of these (95 % CI "
        f"{part}) an attack certified its reconstruction in full, without knowing the truth.{span}{none}"
    )


def _level(one: Configuration) -> str:
    """Its median worst case, with n and interval."""
    value = "no image" if one.leakage.value is None else f"{one.leakage.value:.1f} dB"
    return f"{value} ({interval(one.leakage)})"


def _floor(found: Sequence[Configuration]) -> str:
    """The worst case beside what the same attacks reach where there is nothing to find."""
    held = [one for one in found if one.floors]
    if not held:
        return "No attack on noise in an update's place was scored: no worst case has its negative control beside it."
    all_ = middle([figure for one in held for figure in one.floors])
    largest = max((one.noise_largest for one in held if one.noise_largest is not None), default=None)
    reached = (
        "no image"
        if all_.value is None
        else f"a median of {all_.value:.1f} dB ({figures.leak(all_, of='noise update')}; largest {decibel(largest)})"
    )
    above = [one for one in held if one.leakage.low is not None and one.leakage.low > _noise(one)]
    no_better = [one for one in held if rank(one) <= _noise(one)]
    text = (
        f"On noise in an update's place, the negative control, the same attacks reach {reached}. In {len(above)} of "
        f"{_configurations(len(held))} the median worst case lies with its whole interval above anything they reach on "
        f"its noise; in {len(no_better)} it is no better than that"
    )
    names = f": {_names(no_better)}" if no_better else ""
    between = len(held) - len(above) - len(no_better)
    return f"{text}{names}." + (f" Of {between} the interval does not say." if between else "")


def _noise(one: Configuration) -> float:
    return -math.inf if one.noise_largest is None else one.noise_largest


def _names(found: Sequence[Configuration]) -> str:
    more = f"; and {len(found) - _MOST_NAMES} more" if len(found) > _MOST_NAMES else ""
    return "; ".join(one.title for one in found[:_MOST_NAMES]) + more


def _below(found: Sequence[Configuration]) -> str:
    low = [one for one in found if _largest(one) < SAFE_DB]
    if not low:
        least = min(found, key=_largest)
        return (
            f"No configuration keeps the worst case of every update below {SAFE_DB:g} dB; nearest comes {least.title}: "
            f"{_cost(least)}."
        )
    text = (
        f"{len(low)} of {_configurations(len(found))} keep the worst case of every audited update below {SAFE_DB:g} dB."
    )
    priced = [one for one in low if one.joules.value is not None]
    if not priced:
        return f"{text} What they cost is not known: {_names(low)}."
    cheap = min(priced, key=lambda one: one.joules.value or 0.0)
    best = max(low, key=lambda one: one.accuracy.value or 0.0)
    text = f"{text} The cheapest is {cheap.title}: {_cost(cheap)}."
    return text if best is cheap else f"{text} The most accurate of them is {best.title}: {_cost(best)}."


def _largest(one: Configuration) -> float:
    return -math.inf if one.largest is None else one.largest


def _cost(one: Configuration) -> str:
    reached = sum(figure >= SAFE_DB for figure in one.worst)
    part = figures.ends(share(reached, len(one.worst)), quantities.percent)
    worst = "no image at all" if one.largest is None else f"worst case {one.largest:.1f} dB"
    return (
        f"{_joules(one)} a training round, accuracy {quantities.percent(one.accuracy.value)} "
        f"({figures.accuracy(one.accuracy, one.held_out)}), {worst} over n = {one.leakage.n} updates, of which "
        f"{reached} reach {SAFE_DB:g} dB (95 % CI {part})"
    )


def _front(found: Sequence[Configuration]) -> str:
    near, best = accurate(found), front(found)
    if not best:
        return ""
    names = "; ".join(f"{one.title}, {_joules(one)}, {_level(one)}" for one in best[:_MOST_NAMES])
    more = f"; and {len(best) - _MOST_NAMES} more" if len(best) > _MOST_NAMES else ""
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


def _claim(found: Sequence[Configuration]) -> str:
    """What is left of the claim that gradients of spiking networks are private."""
    snn = [one for one in found if one.family == "snn"]
    if not snn:
        return ""
    bars = {one.title: max(SAFE_DB, _noise(one), one.mean_image or 0.0) for one in snn}
    fallen = [one for one in snn if one.leakage.low is not None and one.leakage.low > bars[one.title]]
    left = [one for one in snn if rank(one) <= bars[one.title]]
    unclear = len(snn) - len(fallen) - len(left)
    bar = f"above {SAFE_DB:g} dB, above the mean image and above noise"
    if fallen:
        most = max(fallen, key=rank)
        text = (
            f"“Spiking networks are private” does not survive in {len(fallen)} of {_configurations(len(snn))} of them: "
            f"there the median worst case lies with its whole interval {bar}, up to {_level(most)} with {most.title}."
        )
    else:
        text = (
            f"“Spiking networks are private” is not refuted by any of {_configurations(len(snn))} of them: in none "
            f"does the median worst case lie with its whole interval {bar}."
        )
    rest = (
        f" In {len(left)} it does not: {_names(left)}. That is a limit of these attacks and their time." if left else ""
    )
    return text + rest + (f" Of {unclear} the interval does not say." if unclear else "")


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
    fewest = min(one.leakage.n for pair in both for one in pair)
    return (
        f"Beside its ANN twin the spiking network leaks less, by median worst case, in {less} of {len(both)} pairs "
        f"(n = {fewest} updates or more of each network); the differences with their intervals are below."
    )


def _target(target: float, found: Sequence[Configuration]) -> str:
    reached = [one for one in found if one.joules_to_target.value is not None]
    if not reached:
        return f"No configuration reached {100 * target:g} % accuracy in every run."
    cheap = min(reached, key=lambda one: one.joules_to_target.value or 0.0)
    return (
        f"{len(reached)} of {_configurations(len(found))} reached {100 * target:g} % accuracy in every run; cheapest "
        f"was {cheap.title} with {quantities.energy(cheap.joules_to_target.value)} "
        f"({figures.joules(cheap.joules_to_target, cheap.provenance)})."
    )


def _trust(found: Sequence[Configuration], missing: int, unscored: int) -> str:
    false = sum(one.controls for one in found)
    tried = sum(one.noise_attacks for one in found)
    on_noise = f"none of {tried} attacks on noise certified anything" if tried else "no attack on noise was run"
    controls = (
        f"no certificate was false and {on_noise}"
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
