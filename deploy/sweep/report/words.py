"""The sweep in plain words, computed from its tables."""

from __future__ import annotations

import math
from collections.abc import Sequence

from deploy.sweep.estimates import share
from deploy.sweep.plan import Sweep
from deploy.sweep.report import figures, privacy
from deploy.sweep.report.configurations import Configuration
from deploy.sweep.report.front import CLOSE_POINTS, accurate, front, rank, to_target
from deploy.sweep.report.phrases import MOST_NAMES, SAFE_DB, bytes_text, level, listed, quoted, several, size, spending
from server.report import quantities


def sentences(sweep: Sweep, found: Sequence[Configuration], *, missing: int, unscored: int = 0) -> list[str]:
    """Paragraphs of the summary: what is spent, what leaks, what dominates, what is left of the claim, and trust."""
    attacked = [one for one in found if one.leakage.n > 0]
    if not attacked:
        return ["No update of this sweep was attacked, so that it says nothing about leakage."]
    told = [_spent(found), _headline(attacked), privacy.floor(attacked), _below(attacked), _front(attacked)]
    told += [privacy.claim(attacked), privacy.literature(attacked), privacy.twins(found)]
    if sweep.target_accuracy is not None:
        told.append(_target(sweep.target_accuracy, found))
    told.append(_trust(found, missing, unscored))
    return [text for text in told if text]


def _spent(found: Sequence[Configuration]) -> str:
    known = sorted((one for one in found if one.joules.value is not None), key=lambda one: one.joules.value or 0.0)
    if not known:
        return "What is spent: of no configuration what a training round costs."
    cheap, dear = known[0], known[-1]
    text = f"What is spent: a training round of all devices costs {spending(cheap)} with {quoted(cheap)}"
    if dear is not cheap:
        text += f", the cheapest, and {spending(dear)} with {quoted(dear)}, the dearest of {several(len(known))}"
    sized = sorted((one for one in found if one.bytes.value is not None), key=lambda one: one.bytes.value or 0.0)
    if sized:
        small, large = sized[0], sized[-1]
        text += f". An update has {size(small)}"
        if bytes_text(small.bytes.value) != bytes_text(large.bytes.value):
            text += f" with {quoted(small)}, the fewest, and {size(large)} with {quoted(large)}, the most"
    unknown = len(found) - len(known)
    return f"{text}." + (f" Of {several(unknown)} the joules are not known in every run." if unknown else "")


def held_out(found: Sequence[Configuration]) -> str:
    """How many samples accuracies rest on."""
    known = sorted({one.held_out for one in found if one.held_out is not None})
    return quantities.MISSING if not known else " or ".join(quantities.count(number) for number in known[:4])


def _headline(found: Sequence[Configuration]) -> str:
    snn = [one for one in found if one.family == "snn"]
    updates = sum(one.leakage.n for one in snn)
    exact = sum(round((one.exact.value or 0.0) * one.exact.n) for one in snn)
    if not snn:
        return f"{several(len(found))}, none of them a spiking network."
    known = sorted((one for one in snn if one.leakage.value is not None), key=rank)
    span = (
        f" The median worst case of a configuration lies between {level(known[0])} and {level(known[-1])}."
        if known
        else ""
    )
    silent = len(snn) - len(known)
    none = f" Of {several(silent)} at least half of the updates gave no attack an image." if silent else ""
    part = figures.ends(share(exact, updates), quantities.percent)
    return (
        f"What leaks: {several(len(snn))} of spiking networks, {updates} audited updates: of {exact} of these (95 % CI "
        f"{part}) an attack certified its reconstruction in full, without knowing the truth.{span}{none}"
    )


def _below(found: Sequence[Configuration]) -> str:
    low = [one for one in found if _largest(one) < SAFE_DB]
    if not low:
        least = min(found, key=_largest)
        return (
            f"No configuration keeps the worst case of every update below {SAFE_DB:g} dB; nearest comes "
            f"{quoted(least)}: {_cost(least)}."
        )
    text = f"{len(low)} of {several(len(found))} keep the worst case of every audited update below {SAFE_DB:g} dB."
    priced = [one for one in low if one.joules.value is not None]
    if not priced:
        return f"{text} What they cost is not known: {listed(low)}."
    cheap = min(priced, key=lambda one: one.joules.value or 0.0)
    best = max(low, key=lambda one: one.accuracy.value or 0.0)
    text = f"{text} The cheapest is {quoted(cheap)}: {_cost(cheap)}."
    return text if best is cheap else f"{text} The most accurate of them is {quoted(best)}: {_cost(best)}."


def _largest(one: Configuration) -> float:
    return -math.inf if one.largest is None else one.largest


def _cost(one: Configuration) -> str:
    reached = sum(figure >= SAFE_DB for figure in one.worst)
    part = figures.ends(share(reached, len(one.worst)), quantities.percent)
    worst = "no image at all" if one.largest is None else f"worst case {one.largest:.1f} dB"
    return (
        f"{spending(one)} a training round, accuracy {quantities.percent(one.accuracy.value)} "
        f"({figures.accuracy(one.accuracy)}), {worst} over n = {one.leakage.n} updates, of which "
        f"{reached} reach {SAFE_DB:g} dB (95 % CI {part})"
    )


def _front(found: Sequence[Configuration]) -> str:
    near, best = accurate(found), front(found)
    if not best:
        return ""
    names = "; ".join(f"{quoted(one)}, {spending(one)}, {level(one)}" for one in best[:MOST_NAMES])
    more = f"; and {len(best) - MOST_NAMES} more" if len(best) > MOST_NAMES else ""
    lie = "lies" if len(near) == 1 else "lie"
    lead = "Which dominate: "
    text = f"{lead}{several(len(near))} {lie} within {100 * CLOSE_POINTS:g} points of the best accuracy. "
    mixed = len({one.dataset for one in near}) > 1
    if mixed:
        of = "points of the best of their data set. "
        text = f"{lead}{several(len(near))} {lie} within {100 * CLOSE_POINTS:g} {of}"
    elif len(near) > 1 and len(best) == 1:
        return (
            f"{text}One dominates: none of them is cheaper than {names}, and none leaks less, by its median worst case."
        )
    elif len(near) > 1:
        text += "None dominates all others. "
    place = "On the front of its data set" if mixed else "On the front"
    return f"{text}{place}, where no other one is as cheap and leaks as little: {names}{more}."


def _target(target: float, found: Sequence[Configuration]) -> str:
    reached = [one for one in found if one.joules_to_target.value is not None]
    if not reached:
        return f"No configuration reached {100 * target:g} % accuracy in every run."
    cheap = min(reached, key=lambda one: one.joules_to_target.value or 0.0)
    text = (
        f"{len(reached)} of {several(len(found))} reached {100 * target:g} % accuracy in every run; cheapest "
        f"was {quoted(cheap)} with {_to_target(cheap)}."
    )
    best = front(found, to_target(target))
    names = "; ".join(f"{quoted(one)}, {_to_target(one)}, {level(one)}" for one in best[:MOST_NAMES])
    return f"{text} On the front of these joules against leakage: {names}." if best else text


def _to_target(one: Configuration) -> str:
    joules = one.joules_to_target
    return f"{quantities.energy(joules.value)} ({figures.joules(joules, one.provenance)})"


def _trust(found: Sequence[Configuration], missing: int, unscored: int) -> str:
    false = sum(one.controls for one in found)
    tried = sum(one.noise_attacks for one in found)
    on_noise = f"none of {tried} attacks on noise certified anything" if tried else "no attack on noise was run"
    controls = (
        f"no certificate was false and {on_noise}"
        if false == 0
        else (f"{false} certificates were false or given on noise: do not trust the attacks before that is explained")
    )
    gaps = (
        f" {missing} run{' is' if missing == 1 else 's are'} missing; no figure of theirs is estimated."
        if missing
        else ""
    )
    if unscored:
        gaps += (
            f" Of {unscored} updates no score came before the server had waited long enough: they are in no figure of "
            "leakage, and where all of a configuration's are among them it has none."
        )
    return f"Controls: {controls}.{gaps} A failed attack is a failed attack, no proof of privacy."
