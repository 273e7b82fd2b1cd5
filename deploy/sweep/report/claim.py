"""What the comparison with the twins says of the claim that gradients of spiking networks cannot be inverted.

The claim: Aksu, Martinez del Rincon and Alouani, arXiv 2511.21181. Every sentence is computed from the table.
"""

from __future__ import annotations

from collections.abc import Sequence

from deploy.sweep.comparison import LITERATURE, Network, Pair
from deploy.sweep.estimates import Estimate
from deploy.sweep.report.figures import ends
from server.report.quantities import percent

EQUAL_POINTS = 0.03
"""Difference in accuracy up to which two networks count as equally accurate."""
_MOST = 0.5


def above(gain: Estimate) -> bool:
    """Whether reconstructions are nearer to the truth than the mean sample is, with its whole interval."""
    return gain.value is not None and (gain.low if gain.low is not None else gain.value) > 0


def inverted(one: Network) -> bool:
    """Whether most of its updates gave a reconstruction that tells their sample from all others of the device."""
    return above(one.ladder_gain_db) and (one.identified.value or 0.0) > _MOST


def paragraphs(pairs: Sequence[Pair]) -> list[str]:
    """Published attacks, the ladder, where the claim falls, where it is open, what the figures rest on."""
    if not pairs:
        return []
    return [_published(pairs), _ladder(pairs), _falls(pairs), _open(pairs), _rests(pairs)]


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _named(pairs: Sequence[Pair], none: str = "none") -> str:
    return "; ".join(pair.title for pair in pairs) or none


def _span(networks: Sequence[Network], name: str) -> str:
    """The range of a figure's means; of its medians where an update gave no image."""
    found = []
    for one in networks:
        figure: Estimate = getattr(one, f"{name}_db")
        ranked: Estimate = getattr(one, f"{name}_median_db")
        found.append(figure.value if figure.value is not None else ranked.value)
    known = [value for value in found if value is not None]
    if not known:
        return "nothing: at least half of the updates gave no image"
    silent = len(found) - len(known)
    rest = f" ({silent} without an image in at least half of the updates)" if silent else ""
    return f"{min(known):.1f} to {max(known):.1f} dB{rest}"


def _sides(pairs: Sequence[Pair], name: str) -> tuple[list[Pair], list[Pair], list[Pair]]:
    """Pairs whose spiking network gives away less, more, and those of which the interval does not say."""
    less, more, unclear = [], [], []
    for pair in pairs:
        found: Estimate = getattr(pair, name)
        if found.high is not None and found.high < 0:
            less.append(pair)
        elif found.low is not None and found.low > 0:
            more.append(pair)
        else:
            unclear.append(pair)
    return less, more, unclear


def _published(pairs: Sequence[Pair]) -> str:
    less, more, unclear = _sides(pairs, "literature")
    failing = [pair for pair in pairs if not above(pair.snn.literature_gain_db)]
    return (
        f"By gradient matching as published ({', '.join(LITERATURE)}), the best of them on each update: mean over a "
        f"network's updates {_span([p.snn for p in pairs], 'literature')} on spiking networks, "
        f"{_span([p.ann for p in pairs], 'literature')} on their ANN twins. The spiking one gives away less in "
        f"{len(less)} of {len(pairs)} pairs, more in {len(more)}, and in {len(unclear)} the interval of the difference "
        f"spans 0 or an update gave no image. On {len(failing)} of {len(pairs)} spiking networks these attacks come no "
        f"nearer to the truth than the device's mean sample does, which is what the claim says: {_named(failing)}."
    )


def _ladder(pairs: Sequence[Pair]) -> str:
    less, more, unclear = _sides(pairs, "ladder")
    return (
        f"By the worst case over the whole ladder on the same updates: {_span([p.snn for p in pairs], 'ladder')} on "
        f"spiking networks, {_span([p.ann for p in pairs], 'ladder')} on the twins; the spiking one gives away less in "
        f"{len(less)} of {len(pairs)} pairs, more in {len(more)}, undecided {len(unclear)}."
    )


def _falls(pairs: Sequence[Pair]) -> str:
    fallen = [pair for pair in pairs if inverted(pair.snn)]
    partly = [pair for pair in pairs if above(pair.snn.ladder_gain_db) and not inverted(pair.snn)]
    if not fallen and not partly:
        return (
            "Nowhere does the ladder come nearer to the truth than the mean sample: it does not contradict the claim."
        )
    if not fallen:
        text = f"In none of the {len(pairs)} networks does the ladder tell most samples from the device's others."
        return f"{text} It beats the mean sample in {len(partly)}: {_named(partly)}."
    told = "; ".join(
        f"{pair.title} ({_share(pair.snn.identified)} of n = {pair.snn.updates} updates identified, "
        f"{_share(pair.snn.exact)} certified exactly)"
        for pair in fallen
    )
    text = f"The claim does not hold under the ladder in {len(fallen)} of {len(pairs)} networks: {told}."
    if partly:
        text += (
            f" In {len(partly)} more the ladder beats the mean sample, but most of its reconstructions could be "
            f"another sample of the same device: {_named(partly)}."
        )
    return text


def _share(one: Estimate) -> str:
    """A share and its interval."""
    return f"{percent(one.value)} (95 % CI {ends(one, percent)})"


def _open(pairs: Sequence[Pair]) -> str:
    left = [pair for pair in pairs if not above(pair.snn.ladder_gain_db)]
    if not left:
        return "No network of this table is left in which the ladder does no better than the mean sample."
    also = [pair for pair in left if not above(pair.ann.ladder_gain_db)]
    text = (
        f"It remains open in {len(left)}: {_named(left)}. There no attack comes nearer than the mean sample. That is a "
        "limit of these attacks and of their time, no evidence of privacy."
    )
    return f"{text} In {len(also)} of these the twin withstands them as well: {_named(also)}." if also else text


def _floor(networks: Sequence[Network]) -> str:
    """What the ladder reached on noise, over all networks."""
    scored = [one for one in networks if one.noise_updates]
    if not scored:
        return "what they reached there was not scored"
    tried = sum(one.noise_updates for one in scored)
    return f"the best of them reached {_span(scored, 'noise')} there (mean of a network; n = {tried} noise updates)"


def _rests(pairs: Sequence[Pair]) -> str:
    fewest = min(min(pair.snn.updates, pair.ann.updates) for pair in pairs)
    seeds = min(pair.snn.seeds for pair in pairs)
    unequal = [
        pair
        for pair in pairs
        if pair.snn.accuracy.value is None
        or pair.ann.accuracy.value is None
        or abs(pair.snn.accuracy.value - pair.ann.accuracy.value) > EQUAL_POINTS
    ]
    false = sum(one.noise_certified for pair in pairs for one in (pair.snn, pair.ann))
    tried = sum(one.noise_attacks for pair in pairs for one in (pair.snn, pair.ann))
    return (
        f"Each network has at least {fewest} attacked gradients of a single sample over {_counted(seeds, 'seed')}. "
        f"Accuracies differ by more than {100 * EQUAL_POINTS:g} points in {_counted(len(unequal), 'pair')}: "
        f"{_named(unequal)}. Of {tried} attacks on noise in an update's place {false} certified something; "
        f"{_floor([one for pair in pairs for one in (pair.snn, pair.ann)])}."
    )
