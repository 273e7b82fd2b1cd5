"""Self-certification: does a candidate, simulated forward at the known weights, give the gradient that was observed?

For one sample and a fully connected first layer the residual bounds the image's error: the gradient is ``δ xᵀ``.
Nothing here compares with a truth; the attacker has none.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import torch

from attack.counting import counted
from attack.labels import recover_labels
from attack.method import Finding
from attack.simulation import Simulator
from attack.threat import Array32, Knowledge, Observation

RESIDUAL = 1e-4
"""Relative residual that rounding in float32 stays well below."""
COARSEST = 0.25
"""Relative codec error beyond which agreement within it shows nothing."""
_SLACK = 1.05
_NEEDS: frozenset[Knowledge] = frozenset({"architecture", "neuron", "encoding", "weights", "plan", "codec"})


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """Outcome of a forward simulation; `reason` states residual and threshold."""

    holds: bool
    residual: float
    reason: str


def obstacle(observation: Observation, finding: Finding) -> str | None:
    """Why a finding cannot be certified by simulation, or `None`."""
    missing = sorted(_NEEDS - observation.known)
    if missing:
        return f"the threat model withholds {', '.join(missing)}"
    if observation.plan.algorithm != "fedsgd":
        return "the update is a weight difference, not a gradient of the whole batch at known weights"
    if observation.distortion:
        return f"the update is distorted: {observation.distortion}"
    if finding.images is None or len(finding.images) != observation.samples:
        return f"not one candidate for each of {observation.samples} samples"
    if observation.encoding.kind != "direct" and finding.frames is None:
        return "spike frames were not recovered"
    return None


def certify(observation: Observation, frames: Array32, labels: Sequence[int]) -> Certificate:
    """Simulates frames and labels as the whole batch and compares with the update.

    float codecs: ``‖g − g*‖ / ‖g*‖`` below `RESIDUAL`. Quantising codecs: each element within the codec's error bound,
    and the relative residual within what such errors add up to.

    Args:
        observation: One that `obstacle` has nothing against.
        frames: `[T or 1, B, *shape]`.
        labels: One per sample.
    """
    simulator = Simulator(observation, dtype=torch.float32)
    inputs = torch.as_tensor(frames, dtype=torch.float32)
    with counted():
        found = _clipped(observation, simulator.gradients(inputs, torch.as_tensor(list(labels), dtype=torch.long)))
    squared = bound_squared = norm_squared = 0.0
    inside = True
    for name, gradient in zip(simulator.names, found, strict=True):
        observed = observation.gradient[name]
        error = np.abs(gradient.numpy().astype(np.float64) - observed)
        bound = observation.error_bound(name)
        inside &= bool((error <= _SLACK * bound + RESIDUAL * np.abs(observed).max()).all())
        squared += float((error**2).sum())
        bound_squared += bound**2 * error.size
        norm_squared += float((observed**2).sum())
    if norm_squared == 0:
        return Certificate(holds=False, residual=1.0, reason="the observed gradient is zero: every input would pass")
    residual, coarse = (squared / norm_squared) ** 0.5, (bound_squared / norm_squared) ** 0.5
    threshold = max(RESIDUAL, coarse)
    if coarse > COARSEST:
        reason = f"codec error {coarse:.2f} of the gradient is too coarse for a certificate (limit {COARSEST})"
        return Certificate(holds=False, residual=residual, reason=reason)
    holds = inside and residual < threshold
    sign = "<" if holds else "is not certified against"
    reason = f"forward simulation: gradient residual {residual:.1e} {sign} {threshold:.1e}"
    return Certificate(holds=holds, residual=residual, reason=reason)


def _clipped(observation: Observation, gradients: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
    """The gradients as the plan clips them."""
    bound = observation.plan.clip_norm
    length = float(torch.stack([gradient.double().norm() for gradient in gradients]).norm())
    return gradients if bound is None or length <= bound else [gradient * (bound / length) for gradient in gradients]


def certified(observation: Observation, finding: Finding) -> Finding:
    """The finding, raised to `exact` when its simulation reproduces the update."""
    if finding.verdict not in {"recovered", "partial"} or obstacle(observation, finding) is not None:
        return finding
    assert finding.images is not None
    labels = finding.labels
    if len(labels) != observation.samples:
        estimate = recover_labels(observation) if observation.samples == 1 else None
        if estimate is None:
            return finding
        labels = estimate.labels
    frames = finding.images[None] * np.float32(observation.encoding.gain)
    if finding.frames is not None and observation.encoding.kind != "direct":
        frames = np.moveaxis(finding.frames, 1, 0)
    certificate = certify(observation, frames, labels)
    if not certificate.holds:
        return msgspec.structs.replace(finding, reason=f"{finding.reason}; {certificate.reason}")
    return msgspec.structs.replace(finding, verdict="exact", reason=certificate.reason, labels=tuple(labels))
