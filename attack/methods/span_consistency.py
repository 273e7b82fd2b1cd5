r"""Every image of a direct-coded batch, whatever the images look like, from the two spans of one gradient.

The first fully connected layer's gradient under direct coding is ``[dW | db] = Σ_b δ_b (x_b, 1)ᵀ``, of rank B while B
is below the width. It pins each sample from two sides at once:

1. ``(x_b, 1)`` lies in its row space, so ``x_b = x(z)`` for some z in a plane of B - 1 dimensions;
2. ``δ_b`` lies in its column space U, and the attacker, who knows the weights, can compute ``δ(x, y)``.

So each sample on its own solves ``(I - U Uᵀ) δ(x(z), y) = 0``: ``width - B`` equations in B - 1 unknowns, where
gradient matching (DLG, Zhu et al. 2019) searches all B·pixels at once. In a spiking network δ is smooth in z between
the points where a neuron's train flips, and near a solution only few neurons are on the wrong piece: Gauss-Newton in
the l1 norm goes through where least squares gets stuck. Starts are drawn from the polytope ``0 ≤ x(z) ≤ 1``; wrong
minima stop at a misfit above 0.02, right ones at rounding. A found sample's ``δ (x, 1)ᵀ`` is subtracted, the rank drops
by one (the certificate, and the label), and the plane loses a dimension.

No zero, sparsity or statistics of the images is used, unlike SPEAR (arXiv 2403.03945) and the independent components
of CPA (Kariyappa et al. 2023, arXiv 2209.05578). The derivation is this project's own.
"""

from __future__ import annotations

import msgspec
import numpy as np

from attack.citations import CITATIONS, works
from attack.clock import now_s
from attack.images.adjoint import KnownNetwork
from attack.images.row_space import row_space
from attack.images.span_search import SpanSearch
from attack.method import MAX_IMAGES, Citation, Finding
from attack.methods.image_lp import NOISY, direct_batch
from attack.simplex import CITED as SIMPLEX_CITED
from attack.threat import Knowledge, Observation

EXPLAINED = 1e-4
"""Share of the first layer's gradient left unexplained below which all of it is accounted for."""


class SpanConsistency(msgspec.Struct, frozen=True, kw_only=True):
    """Robust Gauss-Newton in the plane of the row space towards adjoints in the column space."""

    name: str = "span_consistency"
    citation: Citation = CITATIONS["spikeleak"]
    also: tuple[Citation, ...] = works(*SIMPLEX_CITED)
    requires: frozenset[Knowledge] = frozenset({"architecture", "neuron", "encoding", "weights", "plan"})

    def applies(self, observation: Observation) -> str | None:
        """Needs a float gradient at known weights, with bias, of fewer samples than first-layer neurons."""
        reason = direct_batch(observation)
        if reason is not None:
            return reason
        if observation.plan.algorithm != "fedsgd":
            return "the update is a weight difference: its adjoints come from weights that are not known"
        layer = observation.first_layer
        if layer.bias is None:
            return "the first layer has no bias gradient"
        if not layer.weight.any() or row_space(layer.weight, observation.samples).noise > NOISY:
            return "the gradient is zero, or its spans are blurred by a codec or noise"
        return None

    def run(self, observation: Observation, budget_s: float, rng: np.random.Generator) -> Finding:
        """Searches; `recovered` when the samples found add up to the whole gradient of the first layer."""
        deadline = now_s() + budget_s
        layer = observation.first_layer
        assert layer.bias is not None
        network = KnownNetwork(observation)
        gain = observation.encoding.gain
        clipped = observation.plan.clip_norm is not None
        search = SpanSearch(
            layer.weight, layer.bias, observation.samples, gain=gain, adjoints=network, rng=rng, clipped=clipped
        )
        found = search.run(deadline)
        if not len(found.images):
            return Finding(verdict="failed", reason=f"no consistent image in a plane of {found.rank - 1} dimensions")
        whole = len(found.images) == found.rank and found.residual < EXPLAINED
        return Finding(
            verdict="recovered" if whole else "partial",
            reason=f"{len(found.images)} of {found.rank} samples, each lowering the rank by one; unexplained share of "
            f"the gradient {found.residual:.1e}",
            images=found.images[:MAX_IMAGES].astype(np.float32).reshape(-1, *observation.shape),
            labels=found.labels[:MAX_IMAGES],
            objective=found.residual,
        )
