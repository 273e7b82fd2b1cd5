r"""Were these samples in the batch? The row-space residual of candidates that the attacker owns.

A dense first layer's gradient is ``dW = Σ_k δ_k x_kᵀ`` over all samples and steps, also of a FedAvg weight difference,
so every input frame lies in its row space while their number is below the layer's width. A candidate's residual is

    max_t ‖x_t − P x_t‖ / ‖x_t‖

with P the projector on the numerical row space: rounding for a member, a sizeable fraction for anybody else. No weights
and no labels are needed. The encoding must be deterministic: with rate coding nobody knows the frames of a candidate.
"""

from __future__ import annotations

import msgspec
import numpy as np

from attack.citations import CITATIONS
from attack.clock import spend
from attack.costs import calls, product, singular
from attack.frames.spectrum import spectrum
from attack.method import MAX_IMAGES, Citation, Finding
from attack.methods.ratio import fully_connected_first
from attack.threat import Array64, Knowledge, Observation
from contract.encodings import encode
from contract.errors import SpikeleakError

MEMBER = 1e-2
"""Residual of a member at most; float32 gradients give about 1e-6, strangers 0.1 and more."""
NOISIEST = 0.1
"""Relative error of the row space's weakest direction beyond which a residual says nothing."""


class NotIdentifiableError(SpikeleakError, ValueError):
    """The row space is full: every input would pass."""


def row_space_basis(weight: Array64, frames: int) -> tuple[Array64, float]:
    """Orthonormal basis `[rank, inputs]` of the numerical row space, and the relative error of its weakest direction.

    Args:
        weight: Gradient `[outputs, inputs]`.
        frames: Most frames that it can hold.

    Raises:
        NotIdentifiableError: As many frames as neurons or inputs.
    """
    if frames >= min(weight.shape):
        raise NotIdentifiableError(f"{frames} samples or frames fill a gradient of shape {weight.shape}")
    spend(singular(*weight.shape))
    _, values, rows = np.linalg.svd(weight, full_matrices=False)
    found = spectrum(values, most=frames)
    return rows[: found.rank], found.noise


def row_space_residuals(weight: Array64, candidates: Array64, frames: int) -> Array64:
    """How far candidates lie outside a gradient's row space, ``||x - P x|| / ||x||``.

    Args:
        weight: Gradient `[outputs, inputs]`, or the sum of several SGD steps' gradients.
        candidates: `[N, inputs]`, in the units that the network saw.
        frames: Most frames that the gradient can hold (samples, times steps unless direct).

    Returns:
        `[N]`: 0 for a member up to rounding (about 1e-6 in float32), up to 1 for a stranger; 1 for an empty candidate,
        for which nothing speaks.

    Raises:
        NotIdentifiableError: As many frames as neurons or inputs.
    """
    return _residuals(row_space_basis(weight, frames)[0], candidates)


def _residuals(basis: Array64, candidates: Array64) -> Array64:
    spend(calls(8, 4 * candidates.size) + 2 * product(*candidates.shape, len(basis)))
    norms = np.linalg.norm(candidates, axis=1)
    outside = np.linalg.norm(candidates - (candidates @ basis.T) @ basis, axis=1)
    return np.where(norms > 0, outside / np.where(norms > 0, norms, 1.0), 1.0)


def _worst_frames(observation: Observation, basis: Array64) -> Array64:
    """The largest residual of each candidate's frames that are not empty `[N]`."""
    candidates = observation.candidates
    frames = encode(observation.encoding, candidates, np.random.default_rng(0)).astype(np.float64)
    flat = frames.reshape(len(frames) * len(candidates), -1)
    found = _residuals(basis, flat).reshape(len(frames), -1)
    there = flat.any(axis=1).reshape(found.shape)
    return np.where(there.any(axis=0), np.where(there, found, 0.0).max(axis=0), 1.0)


class RowSpaceMembership(msgspec.Struct, frozen=True, kw_only=True):
    """Which of the attacker's own samples are in the update."""

    name: str = "row_space_membership"
    citation: Citation = CITATIONS["spikeleak"]
    also: tuple[Citation, ...] = ()
    requires: frozenset[Knowledge] = frozenset({"encoding", "candidates"})

    def applies(self, observation: Observation) -> str | None:
        """Needs a fully connected first layer, frames that follow from the sample, and fewer of them than neurons."""
        if observation.encoding.kind == "rate":
            return "rate coding draws its frames: a candidate's are not known"
        obstacle = fully_connected_first(observation)
        if obstacle is not None:
            return obstacle
        count, smallest = _frames(observation), min(observation.first_layer.weight.shape)
        if count >= smallest:
            return f"{count} frames in a gradient of at most rank {smallest}: every candidate may lie in its row space"
        return None

    def run(self, observation: Observation, budget_s: float, rng: np.random.Generator) -> Finding:  # noqa: ARG002
        """Tests every candidate; `recovered` are those within `MEMBER`, the surest first."""
        candidates = observation.candidates
        basis, noise = row_space_basis(observation.first_layer.weight, _frames(observation))
        rank, found = len(basis), _worst_frames(observation, basis)
        if rank == 0:
            return Finding(verdict="failed", reason="the first layer's weight gradient is zero: no neuron was reached")
        if noise > NOISIEST:
            return Finding(verdict="failed", reason=f"row space of rank {rank} known to {noise:.1e} only: too noisy")
        order = np.argsort(found)
        members = order[found[order] <= max(MEMBER, 5 * noise)][:MAX_IMAGES]
        strangers = np.delete(found, members)
        nearest = f"; nearest other {strangers.min():.1e}" if len(strangers) else ""
        reason = f"{len(members)} of {len(candidates)} candidates in the row space of rank {rank}{nearest}"
        if not len(members):
            return Finding(verdict="failed", reason=reason, membership=found)
        reason += f"; largest residual of a member {found[members].max():.1e}"
        return Finding(verdict="recovered", reason=reason, images=candidates[members], membership=found)


def _frames(observation: Observation) -> int:
    steps = 1 if observation.encoding.kind == "direct" else observation.encoding.steps
    return observation.samples * steps
