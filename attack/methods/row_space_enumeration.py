r"""Exact spike frames of small updates by enumerating the binary vectors of the gradient's row space.

With ``I_t = W x_t + b`` the first layer's gradient is ``dW = Σ_t δ_t x_tᵀ`` over samples and steps: for any neuron,
surrogate, reset or depth above, every frame lies in its row space, and generically no other binary vector does. r
pivot columns decide a vector of a row space of rank r, so 2^r candidates hold all frames. The order of the frames
and, in a batch, their sample are guessed from the adjoints ``Δ = dW X⁺``: earlier steps have larger ones.
"""

from __future__ import annotations

import msgspec
import numpy as np

from attack.citations import CITATIONS
from attack.frames.clustering import clusters, distances
from attack.frames.enumeration import enumerate_frames
from attack.frames.row_space import Binary, row_space
from attack.frames.spectrum import Array64
from attack.method import MAX_IMAGES, Citation, Finding
from attack.methods.ratio import fully_connected_first
from attack.threat import Array32, Knowledge, Observation
from contract.encodings import decode

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
    requires: frozenset[Knowledge] = frozenset({"encoding"})

    def applies(self, observation: Observation) -> str | None:
        """Needs binary frames, few of them, and a fully connected first layer."""
        count = observation.samples * observation.encoding.steps
        if count > MAX_FRAMES:
            return f"{count} frames: enumeration takes at most {MAX_FRAMES}"
        return binary_input(observation)

    def run(self, observation: Observation, budget_s: float, rng: np.random.Generator) -> Finding:  # noqa: ARG002
        """Enumerates; `recovered` when it finds as many frames as the rank demands and no other binary vector."""
        layer, steps = observation.first_layer, observation.encoding.steps
        space = row_space(layer.weight, most=observation.samples * steps)
        if not space.selective:
            count = len(space.representative)
            return Finding(verdict="failed", reason=f"rank {space.rank} of {count} columns: any frame would do")
        found = enumerate_frames(space)
        if not len(found):
            return Finding(verdict="failed", reason=f"no binary vector in the row space of rank {space.rank}")
        reason = f"{len(found)} binary vectors in a row space of rank {space.rank}"
        adjoints = layer.weight @ np.linalg.pinv(found.astype(np.float64))
        images, frames = arrange(found, adjoints, observation)
        sure = len(found) == space.rank and observation.samples == 1
        return Finding(
            verdict="recovered" if sure else "partial", reason=reason, images=images, labels=(), frames=frames
        )


def arrange(found: Binary, adjoints: Array64, observation: Observation) -> tuple[Array32, Array32 | None]:
    """Guesses samples and order of loose frames.

    Returns:
        Rate images `[N, *shape]`; frames `[N, T, *shape]`, or `None` when the samples are not all of T frames.
    """
    steps = observation.encoding.steps
    groups = clusters(distances(found, adjoints), groups=observation.samples, size=steps)[:MAX_IMAGES]
    strength = np.linalg.norm(adjoints, axis=0)
    ordered = [found[group[np.argsort(-strength[group])]].astype(np.float32) for group in groups]
    # A frame that is missing was empty or a repetition: it counts as empty, at the end.
    filled = [np.concatenate([one, np.zeros((max(steps - len(one), 0), one.shape[1]), one.dtype)]) for one in ordered]
    images = np.array([decode(observation.encoding, one) for one in filled])
    whole = all(len(one) == steps for one in ordered)
    frames = np.array(ordered).reshape(len(ordered), steps, *observation.shape) if whole else None
    return images.reshape(-1, *observation.shape), frames
