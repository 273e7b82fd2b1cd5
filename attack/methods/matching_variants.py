"""Gradient matching put together in other ways: selectable by name, not part of the ladder by default.

`dlg_joint` is DLG as Zhu, Liu and Han published it: labels are unknowns too, as probabilities. (The ladder's `dlg`
reads the label off the readout first, which is iDLG, Zhao, Mopuri and Bilen 2020.) The others adapt matching to spikes:

- `gauss_newton`: Levenberg–Marquardt steps by conjugate gradients from a faint start (`optimisation.gauss_newton`);
- `cosine_common_rate`: relaxed frames of a rate-coded sample are drawn towards one smooth image;
- `cosine_smooth_in_time`: frames of an event recording change little from one step to the next;
- `cosine_straight_through`: the network sees binary frames, the derivative passes the threshold unchanged (Bengio et
  al. 2013, arXiv 1308.3432).

`python -m tests.benchmarks.literature` measures them all on the same updates.
"""

from __future__ import annotations

import msgspec
import numpy as np

from attack.citations import CITATIONS
from attack.method import Citation, Finding
from attack.methods.cosine import COSINE
from attack.methods.dlg import DLG
from attack.methods.dlg_faint import FAINT
from attack.optimisation.matching import NEEDS, Matching
from attack.optimisation.priors import PRIORS
from attack.optimisation.relaxations import RELAXATIONS
from attack.threat import Knowledge, Observation

_replace = msgspec.structs.replace

JOINT = _replace(DLG, joint=True)
GAUSS_NEWTON = _replace(FAINT, optimiser=None, iterations=60)
COMMON_RATE = _replace(COSINE, prior=PRIORS["common_rate"], weight=1e-2)
SMOOTH_IN_TIME = _replace(COSINE, prior=PRIORS["smooth_in_time"], weight=1e-2)
STRAIGHT_THROUGH = _replace(COSINE, relaxation=RELAXATIONS["straight_through"])


class MatchingVariant(msgspec.Struct, frozen=True, kw_only=True):
    """One composition.

    Attributes:
        matching: Its parts.
        spikes: Whether it is about frames of spikes, so that direct coding is refused.
    """

    name: str
    citation: Citation
    matching: Matching
    spikes: bool = False
    requires: frozenset[Knowledge] = NEEDS

    @property
    def also(self) -> tuple[Citation, ...]:
        """Works behind its parts."""
        return self.matching.beside(self.citation)

    def applies(self, observation: Observation) -> str | None:
        """Refuses large updates, direct coding where it is about spikes, and foreign modules for Gauss–Newton."""
        if self.spikes and observation.encoding.kind == "direct":
            return "direct coding: the input has no spikes"
        if self.matching.optimiser is None and observation.network is not None:
            return f"Gauss–Newton needs the project's own kind of network: {observation.network.reason}"
        return self.matching.applies(observation)

    def run(self, observation: Observation, budget_s: float, rng: np.random.Generator) -> Finding:
        """Optimises within the budget."""
        return self.matching.run(observation, budget_s, rng)


def _variant(name: str, cited: str, matching: Matching, *, spikes: bool = False) -> MatchingVariant:
    return MatchingVariant(name=name, citation=CITATIONS[cited], matching=matching, spikes=spikes)


MATCHING_VARIANTS = (
    _variant("dlg_joint", "zhu2019dlg", JOINT),
    _variant("gauss_newton", "marquardt1963algorithm", GAUSS_NEWTON),
    _variant("cosine_common_rate", "geiping2020inverting", COMMON_RATE, spikes=True),
    _variant("cosine_smooth_in_time", "geiping2020inverting", SMOOTH_IN_TIME, spikes=True),
    _variant("cosine_straight_through", "bengio2013estimating", STRAIGHT_THROUGH, spikes=True),
)
