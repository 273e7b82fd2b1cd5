"""Gradient matching with L-BFGS, as `dlg`, from faint noise instead of standard normal noise.

Nothing else differs, and that is the point: part of DLG's failure on direct-coded spiking networks is its start,
which lies far outside the range of images. Seen on 784-256-10, T = 10, one MNIST digit: 4 to 6 dB from the normal
start, 37 to 42 dB from ``0.1 (1 + N(0, 1))`` on an untrained network, 9 to 19 dB after 100 to 500 training steps. It
also inverts trained artificial networks on which the published start goes astray.
"""

from __future__ import annotations

import msgspec
import numpy as np

from attack.citations import CITATIONS
from attack.method import Citation, Finding
from attack.methods.dlg import DLG
from attack.optimisation.matching import NEEDS
from attack.optimisation.starts import STARTS
from attack.threat import Knowledge, Observation

FAINT = msgspec.structs.replace(DLG, start=STARTS["faint"], iterations=600)


class FaintDeepLeakage(msgspec.Struct, frozen=True, kw_only=True):
    """DLG from a faint start: relative squared distance, no prior, L-BFGS."""

    name: str = "dlg_faint"
    citation: Citation = CITATIONS["zhu2019dlg"]
    requires: frozenset[Knowledge] = NEEDS

    @property
    def also(self) -> tuple[Citation, ...]:
        """Works behind its parts."""
        return FAINT.beside(self.citation)

    def applies(self, observation: Observation) -> str | None:
        """Refuses large updates."""
        return FAINT.applies(observation)

    def run(self, observation: Observation, budget_s: float, rng: np.random.Generator) -> Finding:
        """Optimises within the budget."""
        return FAINT.run(observation, budget_s, rng)
