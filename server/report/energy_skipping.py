"""In batches of which sizes training costs less than the ANN twin's where zero spikes are skipped.

Weights and their gradients are moved once a step of each batch, so the bytes of an update are ``K W + N s`` with K
batches, N samples and W, s of the network alone: two updates with batches of different sizes tell both. Everything else
that is counted grows with the samples. By the prices of a profile a sample and step of the SNN costs less than a sample
of the twin in batches of B with

    p (W / T - W') < B (J' - J / T)

where J is what a sample costs without the traffic of weights, p the price of a byte, and a stroke marks the twin.
"""

from __future__ import annotations

import math

import msgspec

from server.report.data import KIND_TITLES, KINDS, Family, ReportData
from server.report.energy_comparison import Mean, joules, mean_of
from server.report.quantities import percent, significant

DIRECT = (
    "Direct coding is another matter: its first layer is evaluated once for all T steps, which lowers both figures."
)


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes that training moves: of weights and their gradients a batch, of everything else a sample."""

    batch_bytes: float
    sample_bytes: float


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """Both networks in one kind of round.

    Attributes:
        snn: Counts of the SNN.
        ann: Counts of the twin.
        steps: T.
        moved: Traffic of the SNN and of the twin; `None` where a network's is not known.
    """

    snn: Mean
    ann: Mean
    steps: int
    moved: tuple[Traffic | None, Traffic | None]


def skipping_notes(data: ReportData) -> tuple[str, ...]:
    """What skipping zero spikes does to training at equal T · samples, in a sentence for each profile."""
    if data.twin is None or data.snn.task is None or not data.snn.spiking:
        return ()
    coding = data.snn.task.encoding
    for kind in KINDS:
        snn, ann = mean_of(data.snn, kind), mean_of(data.twin, kind)
        if snn is not None and ann is not None:
            pair = Pair(snn=snn, ann=ann, steps=coding.steps, moved=(traffic(data.snn), traffic(data.twin)))
            told = [line for name, prices in data.prices.items() if (line := _note(pair, name, prices))]
            return (*told, *([DIRECT] if told and coding.kind == "direct" else []))
    return ()


def _note(pair: Pair, profile: str, prices: dict[str, float]) -> str:
    snn, ann = pair.snn, pair.ann
    skipping_j, dense_j, twin_j = (joules(counts, prices) for counts in (snn.counts, snn.dense, ann.counts))
    if skipping_j is None or dense_j is None or not twin_j:
        return ""
    skipping, dense = (significant(energy_j / pair.steps / twin_j) for energy_j in (skipping_j, dense_j))
    return (
        f"{KIND_TITLES[snn.kind].capitalize()} by {profile}: a sample and step of training costs {dense} × a sample of "
        f"the twin with every product computed, {skipping} × where zero spikes are skipped; at these rounds' spike "
        f"rate of {percent(snn.rate)} skipping leaves it {_where(pair, prices)}."
    )


def _where(pair: Pair, prices: dict[str, float]) -> str:
    if prices.get("memory_byte") and None in pair.moved:
        return "below 1 in batches of a size that one size of batches, as in this run, does not tell"
    sizes = cheaper_batches(pair, prices)
    if sizes is None:
        return "at 1 or above in batches of any size"
    least, most = sizes
    if math.isfinite(most):
        return f"below 1 in batches of up to {most:.0f} samples"
    return "below 1 in batches of " + (f"{least} samples or more" if least > 1 else "any size")


def cheaper_batches(pair: Pair, prices: dict[str, float]) -> tuple[int, float] | None:
    """Sizes of batches in which a sample and step of the SNN, zero spikes skipped, costs less than one of the twin.

    Args:
        pair: With the traffic of both networks where bytes have a price.
        prices: Joules by operation, of all that is counted.

    Returns:
        The smallest and the largest such size, infinite where there is none; `None` where there are no such sizes.
    """
    (fixed_j, batch_j), (twin_j, twin_batch_j) = (
        _split(mean, moved, prices) for mean, moved in zip((pair.snn, pair.ann), pair.moved, strict=True)
    )
    saved_j, more_j = twin_j - fixed_j / pair.steps, batch_j / pair.steps - twin_batch_j
    if more_j < saved_j:
        return 1, (math.inf if saved_j >= 0 else math.ceil(more_j / saved_j) - 1)
    return None if saved_j <= 0 else (math.floor(more_j / saved_j) + 1, math.inf)


def _split(mean: Mean, moved: Traffic | None, prices: dict[str, float]) -> tuple[float, float]:
    """Joules of a sample without the traffic of weights, and of that traffic a batch."""
    sample_bytes, batch_bytes = (0.0, 0.0) if moved is None else (moved.sample_bytes, moved.batch_bytes)
    counts = mean.counts | {"memory_byte": sample_bytes}
    fixed_j = sum(count * prices.get(op, 0.0) for op, count in counts.items())
    return fixed_j, batch_bytes * prices.get("memory_byte", 0.0)


def traffic(family: Family) -> Traffic | None:
    """From the updates with the smallest and the largest batches; `None` where all were of one size."""
    batches = {row.round: row.plan.local_steps for row in family.rounds}
    samples = {(row.node, row.round): row.samples for row in family.updates}
    seen = [
        (samples[row.node, row.round] / batches[row.round], batches[row.round], row.operations.memory_bytes)
        for row in family.operations
        if row.round in batches and samples.get((row.node, row.round))
    ]
    if not seen or min(seen)[0] == max(seen)[0]:
        return None
    (small, few, less), (large, many, more) = min(seen), max(seen)
    sample_bytes = (more / many - less / few) / (large - small)
    return Traffic(batch_bytes=less / few - small * sample_bytes, sample_bytes=sample_bytes)
