"""Inverting gradients: match the gradient's direction with signed Adam, under a total-variation prior.

    x̂ = argmin_{x ∈ [0,1]} 1 − ⟨∇L(x, y), g*⟩ / (‖∇L(x, y)‖ ‖g*‖) + α TV(x)

Geiping, Bauermeister, Dröge and Moeller 2020 (arXiv 2003.14053), with the label read off the readout first.
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

COSINE = Matching(
    objective=OBJECTIVES["cosine_distance"],
    prior=PRIORS["total_variation"],
    weight=1e-4,
    start=STARTS["uniform"],
    optimiser=OPTIMISERS["signed_adam"],
    dtype=torch.float32,
    iterations=400,
    restarts=1,
    enough=0.0,
)


class CosineMatching(msgspec.Struct, frozen=True, kw_only=True):
    """Cosine distance, total variation, uniform start, signed Adam in the box."""

    name: str = "cosine"
    citation: Citation = CITATIONS["geiping2020inverting"]
    requires: frozenset[Knowledge] = NEEDS

    @property
    def also(self) -> tuple[Citation, ...]:
        """Works behind its parts."""
        return COSINE.beside(self.citation)

    def applies(self, observation: Observation) -> str | None:
        """Refuses large updates."""
        return COSINE.applies(observation)

    def run(self, observation: Observation, budget_s: float, rng: np.random.Generator) -> Finding:
        """Optimises within the budget."""
        return COSINE.run(observation, budget_s, rng)
