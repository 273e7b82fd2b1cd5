"""Whether a worst case is a leak at all, and what is left of the claim that spiking networks are private, in words."""

from __future__ import annotations

import math
from collections.abc import Sequence

from deploy.sweep.comparison import LITERATURE
from deploy.sweep.estimates import Estimate, middle
from deploy.sweep.report import figures
from deploy.sweep.report.configurations import Configuration
from deploy.sweep.report.front import rank
from deploy.sweep.report.matrix import pairs
from deploy.sweep.report.phrases import SAFE_DB, level, listed, quoted, several
from server.report.quantities import decibel


def floor(found: Sequence[Configuration]) -> str:
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
        f"{several(len(held))} the median worst case lies with its whole interval above anything they reach on "
        f"its noise; in {len(no_better)} it is no better than that"
    )
    names = f": {listed(no_better)}" if no_better else ""
    between = len(held) - len(above) - len(no_better)
    return f"{text}{names}." + (f" Of {between} the interval does not say." if between else "")


def _noise(one: Configuration) -> float:
    return -math.inf if one.noise_largest is None else one.noise_largest


def claim(found: Sequence[Configuration]) -> str:
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
            f"“Spiking networks are private” does not survive in {len(fallen)} of {len(snn)} spiking configurations: "
            f"there the median worst case lies with its whole interval {bar}, up to {level(most)} with {quoted(most)}."
        )
    else:
        text = (
            f"“Spiking networks are private” is not refuted by any of {len(snn)} spiking configurations: in none "
            f"does the median worst case lie with its whole interval {bar}."
        )
    rest = (
        f" In {len(left)} it does not get there: {listed(left)}. That is a limit of these attacks and their time."
        if left
        else ""
    )
    return text + rest + (f" Of {unclear} the interval does not say." if unclear else "")


def literature(found: Sequence[Configuration]) -> str:
    """What gradient matching as published misses."""
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


def twins(found: Sequence[Configuration]) -> str:
    """Spiking networks beside their twins."""
    both = [(snn, ann) for snn, ann in pairs(found) if snn.leakage.n and ann.leakage.n]
    if not both:
        return ""
    less = sum(rank(snn) < rank(ann) for snn, ann in both)
    fewest = min(one.leakage.n for pair in both for one in pair)
    return (
        f"Beside its ANN twin the spiking network leaks less, by median worst case, in {less} of {len(both)} pairs "
        f"(n = {fewest} updates or more of each network); the differences with their intervals are below."
    )
