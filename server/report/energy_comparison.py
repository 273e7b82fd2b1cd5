"""The spiking network beside its ANN twin, modelled from this run's counts, and where published analyses lie."""

from __future__ import annotations

import msgspec

from contract.messages import Operations
from contract.task import EncodingSpec
from server.report.data import KIND_TITLES, KINDS, Family, ReportData, RoundKind
from server.report.quantities import MISSING, energy, percent, significant

FORWARD = ("mac", "ac", "membrane_update", "memory_byte")


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """What an analysis of others found, and what it is of."""

    figure: str
    of: str
    source: str


PUBLISHED: tuple[Published, ...] = (
    Published(
        figure="1.27 ×",
        of=(
            "energy of BPTT training, SNN over ANN, on an Eyeriss-like systolic accelerator that skips zero spikes and "
            "zero gradients; named as causes are convolutions repeated at each step and the data moved backward. This "
            "page counts a dense backward pass"
        ),
        source="R. Yin et al., SATA, IEEE TCAD 2022, arXiv 2204.05422 (abstract; the paper was not at hand)",
    ),
    Published(
        figure="5.7 % at T = 5",
        of=(
            "average spike rate below which inference of an SNN takes less than that of an equivalent quantised ANN "
            "under typical neuromorphic hardware conditions, data movement included"
        ),
        source="Z. Yan et al., arXiv 2409.08290v4 (abstract; its second version says 6.4 % for T of 5 to 10)",
    ),
    Published(
        figure="0.27 mJ against 5.6 mJ",
        of=(
            "dynamic energy of one inference of keyword spotting, a spiking network on Loihi against a Jetson TX1 "
            "(a GPU: 29.8 mJ); nothing is trained there"
        ),
        source="P. Blouw et al. 2018, keyword spotting on neuromorphic hardware (restated; the paper was not at hand)",
    ),
)


class ComparisonLine(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of round of this run, by one profile.

    Attributes:
        rounds: Which rounds.
        setting: Coding, steps and samples.
        profile: The profile.
        dense_per_step: Training energy of the SNN over the twin's at equal T · samples (per sample and step over per
            sample), each product of a layer charged as a MAC whatever its input; or that a MAC has no price.
        per_step: The same where zero spikes are skipped: an AC for each spike and product that it takes part in.
        dense_per_sample: The SNN with its T steps over the twin's one pass, every product charged.
        per_sample: The same where zero spikes are skipped.
        inference: Forward pass per sample, SNN over twin.
        rate: Share of the entries of spike-fed layers that were spikes.
        break_even: At which such share the forward passes would cost the same; `none` where the SNN costs more without
            one spike, `any` where it costs less even when all spike.
    """

    rounds: str
    setting: str
    profile: str
    dense_per_step: str
    per_step: str
    dense_per_sample: str
    per_sample: str
    inference: str
    rate: str
    break_even: str


class Mean(msgspec.Struct, frozen=True, kw_only=True):
    """Of one network's updates in one kind of round, per sample; counts may be fractions.

    Attributes:
        kind: Which rounds.
        samples: Of an update.
        counts: Of training, by the names that profiles price; spikes that are 0 are skipped.
        dense: The same with every product computed.
        forward: The forward part of `counts`.
        rate: Share of the entries of spike-fed layers that were spikes.
    """

    kind: RoundKind
    samples: float
    counts: dict[str, float]
    dense: dict[str, float]
    forward: dict[str, float]
    rate: float | None


def comparison_lines(data: ReportData) -> tuple[ComparisonLine, ...]:
    """Where a twin ran: every kind of round by every profile that prices both networks."""
    if data.twin is None or data.snn.task is None or not data.snn.spiking:
        return ()
    lines = []
    for kind in KINDS:
        snn, ann = mean_of(data.snn, kind), mean_of(data.twin, kind)
        if snn is not None and ann is not None:
            lines += [
                line
                for name, prices in data.prices.items()
                if (line := _line(data.snn.task.encoding, snn, ann, profile=name, prices=prices)) is not None
            ]
    return tuple(lines)


def _line(
    encoding: EncodingSpec, snn: Mean, ann: Mean, *, profile: str, prices: dict[str, float]
) -> ComparisonLine | None:
    trained_j, twin_j = (joules(mean.counts, prices) for mean in (snn, ann))
    inferred_j, twin_inferred_j = (joules(mean.forward, prices) for mean in (snn, ann))
    if trained_j is None or inferred_j is None or not twin_j or not twin_inferred_j:
        return None
    dense_j, steps = joules(snn.dense, prices), encoding.steps
    return ComparisonLine(
        rounds=KIND_TITLES[snn.kind],
        setting=f"{encoding.kind} coding, T = {encoding.steps}, {significant(snn.samples)} samples an update",
        profile=profile,
        dense_per_step=MISSING if dense_j is None else _over(dense_j / steps, twin_j),
        per_step=_over(trained_j / steps, twin_j),
        dense_per_sample=MISSING if dense_j is None else _over(dense_j, twin_j),
        per_sample=_over(trained_j, twin_j),
        inference=_over(inferred_j, twin_inferred_j),
        rate=percent(snn.rate),
        break_even=_break_even(snn, inferred_j, twin_inferred_j, prices),
    )


def _over(energy_j: float, twin_j: float) -> str:
    return f"{significant(energy_j / twin_j)} × ({energy(energy_j)})"


def joules(counts: dict[str, float], prices: dict[str, float]) -> float | None:
    """What operations cost; `None` where one that occurs has no price."""
    if any(count and op not in prices for op, count in counts.items()):
        return None
    return sum(count * prices[op] for op, count in counts.items() if count)


def _break_even(snn: Mean, inferred_j: float, twin_j: float, prices: dict[str, float]) -> str:
    spikes_j = snn.forward["ac"] * prices["ac"] if snn.forward["ac"] else 0.0
    if snn.rate is None or not spikes_j:
        return MISSING
    left_j = twin_j - (inferred_j - spikes_j)
    if left_j <= 0:
        return "none"
    rate = snn.rate * left_j / spikes_j
    return percent(rate) if rate <= 1 else "any"


def mean_of(family: Family, kind: RoundKind) -> Mean | None:
    """Of one kind of round; `None` where nothing was counted in any."""
    samples = {(row.node, row.round): row.samples for row in family.updates if row.kind == kind and row.samples}
    rows = [row for row in family.operations if row.kind == kind and (row.node, row.round) in samples]
    if not rows:
        return None
    total = sum(samples[row.node, row.round] for row in rows)
    counts = {op: sum(_counts(row.operations)[op] for row in rows) / total for op in _counts(Operations())}
    backward = sum(row.operations.backward_bytes for row in rows) / total
    forward = {op: counts[op] for op in FORWARD} | {"memory_byte": counts["memory_byte"] - backward}
    given = [pair for row in rows for pair in _spike_fed(family, row.operations)]
    sites = sum(places for _, places in given)
    return Mean(
        kind=kind,
        samples=total / len(rows),
        counts=counts,
        dense=counts | {"mac": sum(row.operations.dense_macs for row in rows) / total, "ac": 0.0},
        forward=forward,
        rate=sum(active for active, _ in given) / sites if sites else None,
    )


def _counts(operations: Operations) -> dict[str, int]:
    """By the names that profiles price."""
    return {
        "mac": operations.macs,
        "ac": operations.acs,
        "membrane_update": operations.membrane_updates,
        "backward_mac": operations.backward_macs,
        "memory_byte": operations.memory_bytes,
    }


def _spike_fed(family: Family, operations: Operations) -> list[tuple[int, int]]:
    """Active entries and entries of the layers that spikes enter."""
    direct = family.task is not None and family.task.encoding.kind == "direct"
    return list(zip(operations.active, operations.sites, strict=True))[1 if direct else 0 :]
