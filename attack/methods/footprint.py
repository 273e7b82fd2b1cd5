r"""Which inputs were ever active: the zero columns of the first layer's weight gradient.

``dW = Σ_t δ_t x_tᵀ`` over samples and steps, so the column of an input that was 0 in every frame of every sample is
exactly zero, whatever the δ, the encoding, the batch size, the surrogate or the number of local SGD steps; the column
of an input that was active is zero only if its δ cancel. The columns that are not zero are therefore the union of the
samples' supports: no image, but the silhouette of the batch, and every other attack on the frames begins with it.
"""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt

from attack.citations import CITATIONS
from attack.method import Citation, Finding
from attack.methods.ratio import rows_are_images
from attack.threat import Array64, Knowledge, Observation


def active_inputs(weight: Array64) -> npt.NDArray[np.bool_]:
    """Which columns `[inputs]` of a gradient `[outputs, inputs]` are not zero throughout."""
    return np.asarray(weight.any(axis=0))


class Footprint(msgspec.Struct, frozen=True, kw_only=True):
    """The union of the samples' supports, as a black and white image."""

    name: str = "footprint"
    citation: Citation = CITATIONS["spikeleak"]
    also: tuple[Citation, ...] = ()
    requires: frozenset[Knowledge] = frozenset()

    def applies(self, observation: Observation) -> str | None:
        """Needs a fully connected first layer, and inputs that are whole samples."""
        return rows_are_images(observation)

    def run(self, observation: Observation, budget_s: float, rng: np.random.Generator) -> Finding:  # noqa: ARG002
        """Looks at the columns; always `partial`, because support is no intensity."""
        active = active_inputs(observation.first_layer.weight)
        if not active.any():
            return Finding(verdict="failed", reason="the first layer's weight gradient is zero: no neuron was reached")
        if active.all():
            return Finding(
                verdict="failed", reason=f"all {active.size} inputs were active: the footprint is everything"
            )
        image = active.astype(np.float32).reshape(1, *observation.shape)
        reason = f"{int(active.sum())} of {active.size} inputs were active; support of the whole update, not intensity"
        return Finding(verdict="partial", reason=reason, images=image)
