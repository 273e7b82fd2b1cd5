r"""Exact spike frames of small updates by enumerating the binary vectors of the gradient's row space.

With ``I_t = W x_t + b`` the first layer's gradient is ``dW = Σ_t δ_t x_tᵀ`` over samples and steps: for any neuron,
surrogate, reset or depth above, every frame lies in its row space, and generically no other binary vector does. r
pivot columns decide a vector of a row space of rank r, so 2^r candidates hold all frames. Their samples and order are
guessed from the adjoints ``Δ = dW X⁺``, and settled by simulation when the model is known (`attack.arrangement`).

A batch norm on the first layer that uses the batch's own statistics makes the adjoints of each channel sum to zero over
all that it normalises together, so that only differences of frames lie in the row space and the bias gradient is zero:
nothing is found then. With running statistics (evaluation mode) it changes the adjoints alone, and all holds.
"""

from __future__ import annotations

import msgspec
import numpy as np

from attack.arrangement import CITED as ARRANGEMENT_CITED
from attack.arrangement import arrange
from attack.citations import CITATIONS, works
from attack.clock import now_s
from attack.frames.enumeration import enumerate_frames
from attack.frames.row_space import row_space
from attack.method import Citation, Finding
from attack.methods.ratio import fully_connected_first
from attack.threat import Knowledge, Observation

MAX_FRAMES = 18
"""Largest batch size × steps: 2^18 candidates take about a second."""


def binary_input(observation: Observation) -> str | None:
    """Why frames cannot be looked for, or `None`."""
    if observation.encoding.kind == "direct":
        return "direct coding: the frames are not binary"
    return fully_connected_first(observation)


class RowSpaceEnumeration(msgspec.Struct, frozen=True, kw_only=True):
    """All binary vectors in the first layer's row space, for at most `MAX_FRAMES` frames."""

    name: str = "row_space_enumeration"
    citation: Citation = CITATIONS["spikeleak"]
    also: tuple[Citation, ...] = works(*ARRANGEMENT_CITED)
    requires: frozenset[Knowledge] = frozenset({"encoding"})

    def applies(self, observation: Observation) -> str | None:
        """Needs binary frames, few of them, and a fully connected first layer."""
        count = observation.samples * observation.encoding.steps
        if count > MAX_FRAMES:
            return f"{count} frames: enumeration takes at most {MAX_FRAMES}"
        return binary_input(observation)

    def run(self, observation: Observation, budget_s: float, rng: np.random.Generator) -> Finding:  # noqa: ARG002
        """Enumerates; `recovered` when it finds T frames and no other binary vector, or a simulation agrees."""
        end_s = now_s() + budget_s
        layer, steps = observation.first_layer, observation.encoding.steps
        space = row_space(layer.weight, most=observation.samples * steps)
        if not space.selective:
            count = len(space.representative)
            return Finding(verdict="failed", reason=f"rank {space.rank} of {count} columns: any frame would do")
        found = enumerate_frames(space)
        if not len(found):
            return Finding(verdict="failed", reason=f"no binary vector in the row space of rank {space.rank}")
        reason = f"{len(found)} binary vectors in a row space of rank {space.rank}"
        best = arrange(found, observation, end_s - now_s())
        sure = best.settled or (len(found) == space.rank == steps and observation.samples == 1)
        return Finding(
            verdict="recovered" if sure else "partial",
            reason=reason + ("; order by forward simulation" if best.settled else "; order guessed"),
            images=best.images,
            labels=best.labels,
            frames=best.frames,
        )
