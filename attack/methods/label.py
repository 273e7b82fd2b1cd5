"""Labels alone, no images: iDLG's first step (Zhao, Mopuri and Bilen 2020, arXiv 2001.02610).

The derivation stands in `attack.labels`, because the other attacks and the certificate read labels the same way.
"""

from __future__ import annotations

import msgspec
import numpy as np

from attack.citations import CITATIONS, works
from attack.labels import recover_labels
from attack.method import Citation, Finding
from attack.threat import Knowledge, Observation


class LabelRecovery(msgspec.Struct, frozen=True, kw_only=True):
    """iDLG's first step: labels alone, no images."""

    name: str = "label"
    citation: Citation = CITATIONS["zhao2020idlg"]
    also: tuple[Citation, ...] = works("wainakh2022user")
    requires: frozenset[Knowledge] = frozenset({"architecture", "neuron", "encoding", "plan"})

    def applies(self, observation: Observation) -> str | None:
        """Needs plain SGD: momentum weighs the steps unequally."""
        if observation.samples > 1 and observation.plan.momentum > 0:
            return f"local momentum {observation.plan.momentum} weighs the steps unequally: counts do not follow"
        return None

    def run(self, observation: Observation, budget_s: float, rng: np.random.Generator) -> Finding:  # noqa: ARG002
        """Reads the labels off the readout's gradient."""
        estimate = recover_labels(observation)
        if estimate is None:
            return Finding(verdict="failed", reason="the readout's gradient is zero or not finite")
        return Finding(
            verdict="recovered" if estimate.certain else "partial", reason=estimate.reason, labels=estimate.labels
        )
