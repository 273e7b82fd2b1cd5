r"""Exact spike frames, order, samples and labels of rate- or event-coded updates, with a certificate for each sample.

Every frame of a fully connected first layer is a vertex of ``{v ∈ rowspace(dW) : 0 ≤ v ≤ 1}``, ``dW = Σ_t δ_t x_tᵀ``.
The causal chain ``δ_t − β δ_{t+1} = G_t ⊙ W_nextᵀ ε_t ∈ colspace(dW)`` says which frame follows which; with one
hidden layer it even gives the frames, by Gauss-Newton (`attack.frames.causal_newton`). Where it does not, vertices are
hunted by linear programming (`attack.frames.vertex_hunt`), and the chain orders them (`attack.frames.ordering`).
A complete sample is subtracted by simulation: the rank must drop by exactly T (`attack.frames.deflation`), which
certifies frames, order and label at once.

Frames that no chain completes (other readouts, deeper networks, a frame that came twice, somebody's own module) are
arranged by forward simulation alone (`attack.arrangement`), which the ladder then certifies against the whole update.

A sample of few inputs over many steps (MNIST at T = 64) may have fewer distinct columns than frames. Then the row space
is full, every vector lies in it, and neither hunt nor chain can tell a frame; such an update fails here.

A weight difference after K local steps holds the frames of all of them. Those of the first step obey the chain at the
known weights; once its samples are complete, the step is repeated and the second step's weights are known too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from attack.arrangement import CITED as ARRANGEMENT_CITED
from attack.arrangement import arrange
from attack.citations import CITATIONS, works
from attack.clock import now_s
from attack.frames.completion import Completion, Recovery, Sample
from attack.frames.deflation import CITED as DEFLATION_CITED
from attack.frames.row_space import Binary, row_space
from attack.frames.simulation import Simulator, simulator
from attack.frames.spectrum import Array64
from attack.frames.vertex_hunt import VertexHunt
from attack.method import MAX_IMAGES, Citation, Finding
from attack.methods.row_space_enumeration import binary_input
from attack.simplex import CITED as SIMPLEX_CITED
from attack.threat import Knowledge, Observation
from contract.encodings import decode
from contract.models.network import Network
from contract.models.quantization import fake_quantize
from contract.task import RoundPlan

_HUNTING = 0.9
"""Share of the budget in which frames are looked for; the rest is for the order of those that belong to no sample."""


class FrameLP(msgspec.Struct, frozen=True, kw_only=True):
    """Vertex hunt, chain decoding and deflation."""

    name: str = "frame_lp"
    citation: Citation = CITATIONS["spikeleak"]
    also: tuple[Citation, ...] = works(*SIMPLEX_CITED, *DEFLATION_CITED, *ARRANGEMENT_CITED)
    requires: frozenset[Knowledge] = frozenset({"architecture", "neuron", "encoding", "weights", "plan"})

    def applies(self, observation: Observation) -> str | None:
        """Needs binary frames, fewer than hidden neurons, and a dense first layer."""
        if observation.network is None and (observation.model.family != "snn" or observation.model.kind != "fc"):
            model = observation.model
            return f"the network is {model.family}/{model.kind}: only fully connected spiking networks are simulated"
        count, hidden = observation.samples * observation.encoding.steps, observation.first_layer.weight.shape[0]
        if count >= hidden:
            return f"{count} frames and {hidden} hidden neurons: the row space is full"
        return binary_input(observation)

    def run(self, observation: Observation, budget_s: float, rng: np.random.Generator) -> Finding:
        """Recovers sample after sample; `exact` when all of them are certified."""
        end_s, plan = now_s() + budget_s, observation.plan
        if observation.network is not None:
            return hunted(observation, end_s, rng)
        completion = Completion(
            simulator=known_network(observation),
            steps=observation.encoding.steps,
            batch=plan.batch_size,
            rng=rng,
            scales=step_scales(plan),
            successor=LocalSteps(observation) if plan.local_steps > 1 else None,
        )
        gradient = observation.gradient[f"{observation.first_layer.name}.weight"]
        recovery = completion.recover(gradient, samples=observation.samples, budget_s=_HUNTING * budget_s)
        return finding(recovery, observation, end_s)


def step_scales(plan: RoundPlan) -> tuple[float, ...]:
    """How often each local step's gradient enters the weight difference: ``Σ_{j ≥ k} μ^(j-k)`` with momentum μ."""
    return tuple(sum(plan.momentum**j for j in range(plan.local_steps - k)) for k in range(plan.local_steps))


def known_network(observation: Observation) -> Simulator:
    """The network at the observation's parameters, with the weights as the forward pass saw them."""
    return _effective(
        {name: torch.from_numpy(np.array(value)) for name, value in observation.parameters.items()}, observation
    )


def _effective(parameters: Mapping[str, Tensor], observation: Observation) -> Simulator:
    bits = observation.model.weight_bits
    wide: Mapping[str, Array64] = {
        name: (fake_quantize(value, bits) if name.endswith("weight") else value).detach().numpy().astype(np.float64)
        for name, value in parameters.items()
    }
    model = observation.model
    return simulator(wide, observation.neuron, model.readout, model.membrane_bits)


class LocalSteps:
    """Plain local SGD as the device runs it, on samples that were recovered.

    Args:
        observation: The update of several local steps.
    """

    def __init__(self, observation: Observation) -> None:
        self.observation = observation
        self._network = Network(observation.task, observation.shape, observation.classes)
        self._parameters = {name: torch.from_numpy(np.array(v)) for name, v in observation.parameters.items()}
        self._velocity = {name: torch.zeros_like(v) for name, v in self._parameters.items()}

    def __call__(self, samples: Sequence[Sample]) -> Simulator:
        """The network after one more step, on these samples as its batch."""
        frames = np.array([sample.frames for sample in samples], dtype=np.float32).swapaxes(0, 1)
        inputs = torch.from_numpy(frames.reshape(*frames.shape[:2], *self.observation.shape))
        labels = torch.tensor([sample.label for sample in samples])
        tensors = {name: value.clone().requires_grad_() for name, value in self._parameters.items()}
        loss = functional.cross_entropy(self._network(tensors, inputs), labels)
        plan = self.observation.plan
        for (name, value), gradient in zip(
            tensors.items(), torch.autograd.grad(loss, list(tensors.values())), strict=True
        ):
            self._velocity[name] = plan.momentum * self._velocity[name] + gradient
            self._parameters[name] = value.detach() - self.observation.learning_rate(name) * self._velocity[name]
        return _effective(self._parameters, self.observation)


def hunted(observation: Observation, end_s: float, rng: np.random.Generator) -> Finding:
    """Frames by the vertex hunt alone, arranged by simulation: for a network whose inside is not known."""
    most = observation.samples * observation.encoding.steps
    space = row_space(observation.gradient[f"{observation.first_layer.name}.weight"], most=most)
    if not space.rank or not space.selective:
        return Finding(verdict="failed", reason=f"rank {space.rank}, {len(space.representative)} distinct columns")
    hunt = VertexHunt(space=space, rng=rng, steps=observation.encoding.steps)
    hunt.run(_HUNTING * (end_s - now_s()))
    return loose(space.widen(hunt.frames), f"{len(hunt.frames)} frames of rank {space.rank}", observation, end_s)


def loose(found: Binary, reason: str, observation: Observation, end_s: float) -> Finding:
    """What frames without certificate say."""
    if not len(found):
        return Finding(verdict="failed", reason=f"no binary vector found: {reason}")
    best = arrange(found, observation, end_s - now_s())
    return Finding(
        verdict="recovered" if best.settled else "partial",
        reason=reason + ("; arranged by forward simulation" if best.settled else ""),
        images=best.images,
        labels=best.labels,
        frames=best.frames,
    )


def finding(recovery: Recovery, observation: Observation, end_s: float) -> Finding:
    """What a recovery says, in the ladder's terms; `end_s` on `attack.clock`."""
    if not recovery.samples and not len(recovery.loose):
        return Finding(verdict="failed", reason=f"no binary vector found in a row space of rank {recovery.rank}")
    reason = (
        f"{len(recovery.samples)} of {observation.samples} samples certified by a rank drop of T each; "
        f"{recovery.left} of rank {recovery.rank} left, {len(recovery.loose)} loose frames"
    )
    if not recovery.samples:
        return loose(recovery.loose, reason, observation, end_s)
    kept = recovery.samples[:MAX_IMAGES]
    frames = np.array([sample.frames for sample in kept], dtype=np.float32)
    frames = frames.reshape(-1, observation.encoding.steps, *observation.shape)
    images = decode(observation.encoding, np.moveaxis(frames, 1, 0))
    labels = tuple(sample.label for sample in kept)
    done = recovery.left == 0 and len(recovery.samples) == observation.samples
    return Finding(verdict="exact" if done else "partial", reason=reason, images=images, labels=labels, frames=frames)
