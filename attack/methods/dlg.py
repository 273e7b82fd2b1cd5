"""Deep leakage from gradients: match the gradient in the squared norm with L-BFGS.

    x̂ = argmin_x Σ ‖∇_W L(x, y; W) − g*‖² / Σ ‖g*‖²

Zhu, Liu and Han 2019 (arXiv 1906.08935), with its standard normal start; the label is read off the readout first, which
makes it iDLG (Zhao, Mopuri and Bilen 2020, arXiv 2001.02610; `dlg_joint` searches for the label as well, as published),
the target's norm divided out and float64 used, so that tiny gradients are matched as well. On
spiking networks the derivative goes through the surrogate twice. `dlg_faint` is the same from a better start.
"""

from __future__ import annotations

import msgspec
import numpy as np
import torch

from attack.citations import CITATIONS
from attack.method import Citation, Finding
from attack.optimisation.matching import NEEDS, Matching
from attack.optimisation.objectives import OBJECTIVES
from attack.optimisation.optimisers import OPTIMISERS
from attack.optimisation.priors import PRIORS
from attack.optimisation.starts import STARTS
from attack.threat import Knowledge, Observation

DLG = Matching(
    objective=OBJECTIVES["relative_square"],
    prior=PRIORS["none"],
    weight=0.0,
    start=STARTS["normal"],
    optimiser=OPTIMISERS["lbfgs"],
    dtype=torch.float64,
    iterations=600,
    restarts=4,
    enough=1e-12,
)


class DeepLeakage(msgspec.Struct, frozen=True, kw_only=True):
    """DLG: relative squared distance, no prior, standard normal start, L-BFGS."""

    name: str = "dlg"
    citation: Citation = CITATIONS["zhu2019dlg"]
    requires: frozenset[Knowledge] = NEEDS

    @property
    def also(self) -> tuple[Citation, ...]:
        """Works behind its parts."""
        return DLG.beside(self.citation)

    def applies(self, observation: Observation) -> str | None:
        """Refuses large updates."""
        return DLG.applies(observation)

    def run(self, observation: Observation, budget_s: float, rng: np.random.Generator) -> Finding:
        """Optimises within the budget."""
        return DLG.run(observation, budget_s, rng)
