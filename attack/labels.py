r"""Labels from the readout's bias gradient.

With cross-entropy the adjoint of sample `i`'s logits is ``p_i - y_i`` (softmax minus one-hot). The readout's bias adds
to every step's membrane, so over a batch of `B`

    db = (c / B) Σ_i (p_i − y_i),     c = (1/T) Σ_{t=1..T} Σ_{k=1..t} β^(t−k)

where `c` is 1 for an artificial network and a positive constant for a mean-membrane readout; under a spiking readout
each class has a positive factor of its own (surrogate and decay are positive). Only the true class of a single sample
has a negative entry: Zhao, Mopuri and Bilen 2020 (iDLG, arXiv 2001.02610). For larger batches the count of class `c`
is estimated as ``n_c = N p̄ − B db_c / c`` with ``p̄ = 1/C`` (an untrained or undecided network), rounded by largest
remainder. Without a bias the row sums of the readout's weight gradient serve: hidden activities are not negative.
"""

from __future__ import annotations

import msgspec
import numpy as np

from attack.threat import Array64, Observation

CITED: dict[str, tuple[str, ...]] = {"one": ("zhao2020idlg",), "batch": ("zhao2020idlg", "wainakh2022user")}
"""Keys of the works that the rule follows (`attack.citations`), for one sample and for batches too."""


class LabelEstimate(msgspec.Struct, frozen=True, kw_only=True):
    """A multiset of labels and whether the derivation leaves no other choice."""

    labels: tuple[int, ...]
    certain: bool
    reason: str


def _signal(observation: Observation) -> Array64:
    """A positive multiple of ``Σ (p − y)`` per class, as far as it can be seen."""
    readout = observation.readout
    if readout.bias is not None:
        return readout.bias
    return np.asarray(readout.weight.sum(axis=tuple(range(1, readout.weight.ndim))), dtype=np.float64)


def readout_gain(observation: Observation) -> float | None:
    """The factor `c` of the module's equation; `None` where it is not one number (a spiking readout) or not known."""
    if observation.network is not None:
        return None
    model = observation.model
    if model.family == "ann":
        return 1.0
    if model.readout != "membrane":
        return None
    steps, beta = observation.encoding.steps, observation.neuron.beta
    return float(np.cumsum(beta ** np.arange(steps)).mean())


def _counts(signal: Array64, samples: int, gain: float | None, batch: int) -> Array64:
    """Expected number of samples of each class, not rounded."""
    classes = len(signal)
    if gain is None:
        # Scale that explains the negative entries (Wainakh et al. 2022, arXiv 2105.09369, "impact").
        gain = -batch * float(signal[signal < 0].sum()) * (1 + 1 / classes) / samples
    return np.clip(samples / classes - batch * signal / max(gain, np.finfo(np.float64).tiny), 0.0, None)


def _round_to(counts: Array64, total: int) -> tuple[int, ...]:
    """Whole counts that sum to `total`, by largest remainder, as a sorted multiset of classes."""
    share = counts * (total / counts.sum()) if counts.sum() > 0 else np.full(len(counts), total / len(counts))
    whole = np.floor(share).astype(np.int64)
    order = np.argsort(whole - share, kind="stable")
    whole[order[: total - int(whole.sum())]] += 1
    return tuple(int(label) for label in np.repeat(np.arange(len(whole)), whole))


def recover_labels(observation: Observation) -> LabelEstimate | None:
    """Labels given by the threat model, otherwise recovered from the gradient.

    Returns:
        One label per sample of the update; `None` when the readout's gradient is zero or not finite, or no readout is
        known.
    """
    if observation.labels is not None:
        return LabelEstimate(labels=observation.labels, certain=True, reason="given by the threat model")
    if observation.network is not None and not observation.network.tells_labels:
        return None
    signal = _signal(observation)
    if not np.isfinite(signal).all() or not signal.any():
        return None
    if observation.samples == 1:
        negative = np.flatnonzero(signal < 0)
        label = (int(np.argmin(signal)),)
        if len(negative) == 1:
            return LabelEstimate(labels=label, certain=True, reason="the readout's gradient has one negative entry")
        reason = f"{len(negative)} classes have a negative readout gradient, expected 1: the most negative is named"
        return LabelEstimate(labels=label, certain=False, reason=reason)
    plan = observation.plan
    if plan.algorithm == "fedavg":
        signal = signal / plan.learning_rate
    gain = readout_gain(observation) if observation.readout.bias is not None else None
    counts = _counts(signal, observation.samples, gain, plan.batch_size)
    reason = f"multiset of {observation.samples} labels, assuming undecided predictions"
    return LabelEstimate(labels=_round_to(counts, observation.samples), certain=False, reason=reason)
