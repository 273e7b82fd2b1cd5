"""The penultimate layer's spike trains, from the readout's gradient: a subset sum per neuron.

The derivation is in `attack.readout_trains`. Hidden spikes are no image: the finding says how many trains are known and
how many of them beyond doubt. `conv_codebook` turns such trains into images where the layer below permits it.
"""

from __future__ import annotations

import msgspec
import numpy as np

from attack.citations import CITATIONS
from attack.method import Citation, Finding
from attack.readout_trains import MOST_STEPS, decode_trains
from attack.threat import Knowledge, Observation


class ReadoutSubsetSum(msgspec.Struct, frozen=True, kw_only=True):
    """Subset-sum decoding of hidden trains."""

    name: str = "readout_subset_sum"
    citation: Citation = CITATIONS["spikeleak"]
    also: tuple[Citation, ...] = ()
    requires: frozenset[Knowledge] = frozenset({"architecture", "neuron", "encoding", "plan", "codec"})

    def applies(self, observation: Observation) -> str | None:
        """Needs one sample and the leaky readout of a spiking network, with a bias, over 20 steps at most."""
        if observation.model.family != "snn" or observation.model.readout != "membrane":
            return "the readout is not the mean membrane of a spiking network: its temporal weights are not known"
        if not observation.single:
            return f"{observation.samples} samples or several local steps: the readout mixes their trains"
        if observation.encoding.steps > MOST_STEPS:
            return f"{observation.encoding.steps} steps: sums of more than {MOST_STEPS} are too dense to tell apart"
        if observation.readout.bias is None or not observation.readout.bias.any():
            return "the readout has no bias gradient"
        return None

    def run(self, observation: Observation, budget_s: float, rng: np.random.Generator) -> Finding:  # noqa: ARG002
        """Decodes; `partial` when trains are known without doubt, for they are not an image."""
        readout = observation.readout
        assert readout.bias is not None
        error = observation.error_bound(f"{readout.name}.weight")
        steps, beta = observation.encoding.steps, observation.neuron.beta
        found = decode_trains(readout.weight, readout.bias, steps, beta, error=error)
        neurons, known = len(found.unique), int(found.unique.sum())
        spiking = int((found.unique & found.spikes.any(axis=0)).sum())
        reason = (
            f"{known} of {neurons} hidden spike trains of {steps} steps decoded without another candidate, {spiking} "
            f"of them with spikes; {neurons - int(found.explained.sum())} without any; {found.residual:.1e} of the "
            "readout's gradient left. Hidden spikes are no image"
        )
        return Finding(verdict="partial" if known else "failed", reason=reason, objective=found.residual)
