r"""Exact spike frames, order, samples and labels of rate- or event-coded updates, with a certificate for each sample.

Every frame of a fully connected first layer is a vertex of ``{v ∈ rowspace(dW) : 0 ≤ v ≤ 1}``, ``dW = Σ_t δ_t x_tᵀ``.
The causal chain ``δ_t − β δ_{t+1} = G_t ⊙ W_nextᵀ ε_t ∈ colspace(dW)`` says which frame follows which; with one
hidden layer it even gives the frames, by Gauss-Newton (`attack.frames.causal_newton`). Where it does not, vertices are
hunted by linear programming (`attack.frames.vertex_hunt`), and the chain orders them (`attack.frames.ordering`).
A complete sample is subtracted by simulation: the rank must drop by exactly T (`attack.frames.deflation`), which
certifies frames, order and label at once.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np
import torch

from attack.citations import CITATIONS
from attack.frames.completion import Completion, Recovery
from attack.frames.simulation import Simulator, simulator
from attack.frames.spectrum import Array64
from attack.method import MAX_IMAGES, Citation, Finding
from attack.methods.row_space_enumeration import arrange, binary_input
from attack.threat import Knowledge, Observation
from contract.messages import Verdict
from contract.models.quantization import fake_quantize


class FrameLP(msgspec.Struct, frozen=True, kw_only=True):
    """Vertex hunt, chain decoding and deflation."""

    name: str = "frame_lp"
    citation: Citation = CITATIONS["spikeleak"]
    requires: frozenset[Knowledge] = frozenset({"architecture", "neuron", "encoding", "weights", "plan"})

    def applies(self, observation: Observation) -> str | None:
        """Needs a spiking fully connected network with fewer frames than hidden neurons."""
        model = observation.model
        if model.family != "snn" or model.kind != "fc":
            return f"the network is {model.family}/{model.kind}: only fully connected spiking networks are simulated"
        count, hidden = observation.samples * observation.encoding.steps, observation.first_layer.weight.shape[0]
        if count >= hidden:
            return f"{count} frames and {hidden} hidden neurons: the row space is full"
        return binary_input(observation)

    def run(self, observation: Observation, budget_s: float, rng: np.random.Generator) -> Finding:
        """Recovers sample after sample; `exact` when all of them are certified."""
        plan = observation.plan
        completion = Completion(
            simulator=known_network(observation),
            steps=observation.encoding.steps,
            batch=plan.batch_size,
            rng=rng,
            drifted=plan.local_steps > 1,
        )
        gradient = observation.gradient[f"{observation.first_layer.name}.weight"]
        recovery = completion.recover(gradient, samples=observation.samples, budget_s=budget_s)
        return finding(recovery, observation)


def known_network(observation: Observation) -> Simulator:
    """The network at the observation's parameters, with the weights as the forward pass saw them."""
    bits = observation.model.weight_bits
    effective: Mapping[str, Array64] = {
        name: (fake_quantize(torch.from_numpy(value), bits) if name.endswith("weight") else torch.from_numpy(value))
        .numpy()
        .astype(np.float64)
        for name, value in observation.parameters.items()
    }
    return simulator(effective, observation.neuron, observation.model.readout)


def finding(recovery: Recovery, observation: Observation) -> Finding:
    """What a recovery says, in the ladder's terms."""
    if not recovery.samples and not len(recovery.loose):
        return Finding(verdict="failed", reason=f"no binary vector found in a row space of rank {recovery.rank}")
    certified = sum(sample.certified for sample in recovery.samples)
    reason = (
        f"{len(recovery.samples)} of {observation.samples} samples complete, {certified} certified by a rank drop of "
        f"T each; {recovery.left} of rank {recovery.rank} left, {len(recovery.loose)} loose frames"
    )
    if not recovery.samples:
        adjoints = observation.first_layer.weight @ np.linalg.pinv(recovery.loose.astype(np.float64))
        images, loose = arrange(recovery.loose, adjoints, observation)
        return Finding(verdict="partial", reason=reason, images=images, frames=loose)
    kept = recovery.samples[:MAX_IMAGES]
    frames = np.array([sample.frames for sample in kept], dtype=np.float32)
    frames = frames.reshape(-1, observation.encoding.steps, *observation.shape)
    images = np.clip(frames.mean(axis=1) / observation.encoding.gain, 0.0, 1.0).astype(np.float32)
    labels = tuple(sample.label for sample in kept)
    return Finding(
        verdict=_verdict(recovery, certified, observation), reason=reason, images=images, labels=labels, frames=frames
    )


def _verdict(recovery: Recovery, certified: int, observation: Observation) -> Verdict:
    if recovery.left > 0 or len(recovery.samples) < observation.samples:
        return "partial"
    return "exact" if certified == observation.samples else "recovered"
