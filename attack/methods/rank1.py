r"""The input as the leading right singular vector of the first layer's weight gradient.

One input under direct coding gives ``dW = δ xᵀ``, of rank one; its right singular vector is ``x`` up to sign and
scale, also without a bias (Zhu and Blaschko 2021, R-GAP, arXiv 2010.07733, use the same rank argument). Inputs are
not negative, which settles the sign; the scale is chosen so that the largest pixel is 1. With several inputs the
vector is the direction that explains most of the gradient's energy.
"""

from __future__ import annotations

import msgspec
import numpy as np

from attack.citations import CITATIONS
from attack.clock import spend
from attack.costs import calls
from attack.method import Citation, Finding
from attack.methods.ratio import rows_are_images
from attack.threat import Array64, Knowledge, Observation


def leading_direction(matrix: Array64, rng: np.random.Generator, *, iterations: int = 200) -> tuple[Array64, float]:
    """Leading right singular vector by power iteration on ``MᵀM``, and its share of the squared Frobenius norm."""
    energy = float((matrix**2).sum())
    vector = matrix.T @ (matrix @ np.abs(rng.standard_normal(matrix.shape[1])))
    share = 0.0
    for _ in range(iterations):
        norm = np.linalg.norm(vector)
        spend(calls(8, matrix.size))
        if norm == 0:
            break
        vector /= norm
        image = matrix @ vector
        previous, share = share, float(image @ image) / energy
        vector = matrix.T @ image
        if abs(share - previous) < 1e-14:
            break
    norm = np.linalg.norm(vector)
    return (vector / norm if norm else vector), share


class RankOne(msgspec.Struct, frozen=True, kw_only=True):
    """Rank-one factorisation of the first layer's weight gradient."""

    name: str = "rank1"
    citation: Citation = CITATIONS["zhu2021rgap"]
    also: tuple[Citation, ...] = ()
    requires: frozenset[Knowledge] = frozenset()

    def applies(self, observation: Observation) -> str | None:
        """Needs a fully connected first layer, and inputs that are whole samples."""
        return rows_are_images(observation)

    def run(self, observation: Observation, budget_s: float, rng: np.random.Generator) -> Finding:  # noqa: ARG002
        """Factorises; always `partial` by itself, because the scale is a convention."""
        weight = observation.first_layer.weight
        if not weight.any():
            return Finding(verdict="failed", reason="the first layer's weight gradient is zero: no neuron was reached")
        vector, share = leading_direction(weight / np.abs(weight).max(), rng)
        if vector.sum() < 0:
            vector = -vector
        image = np.clip(vector / np.abs(vector).max(), 0.0, 1.0).astype(np.float32).reshape(1, *observation.shape)
        reason = f"the leading direction holds {share:.6f} of the gradient's energy; scale by convention"
        return Finding(verdict="partial", reason=reason, images=image)
