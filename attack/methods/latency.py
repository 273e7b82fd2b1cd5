r"""The frames of one latency-coded sample: equal columns are equal spike times, and the causal chain gives the times.

With one spike an input at most, column p of the first layer's ``dW = Σ_t δ_t x_tᵀ`` is ``δ_{t(p)}``: zero columns never
spiked, equal columns spiked together. Which group spiked when follows from the known network
(`attack.frames.latency`); the ladder then simulates forward, and a gradient that agrees certifies the whole sample.
Without the weights the groups are ordered by the norm of their column: earlier steps have more future to act on.
"""

from __future__ import annotations

import msgspec
import numpy as np

from attack.citations import CITATIONS
from attack.clock import now_s
from attack.frames.latency import Chronology, Partition, partition
from attack.method import Citation, Finding
from attack.methods.frame_lp import known_network
from attack.methods.ratio import fully_connected_first
from attack.threat import Knowledge, Observation
from contract.encodings import decode

CHAIN = 1e-3
"""Relative residual of the causal chain below which the order is taken to be found; wrong ones leave 1e-2 and more."""
_FOR_CHAIN: frozenset[Knowledge] = frozenset({"architecture", "neuron", "weights"})


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Partition by equal columns, order by the chain, for one sample."""

    name: str = "latency"
    citation: Citation = CITATIONS["spikeleak"]
    also: tuple[Citation, ...] = ()
    requires: frozenset[Knowledge] = frozenset({"encoding", "plan", "codec"})

    def applies(self, observation: Observation) -> str | None:
        """Needs latency coding, a single sample and a fully connected first layer."""
        if observation.encoding.kind != "latency":
            return f"the encoding is {observation.encoding.kind!r}: an input may spike more than once"
        if not observation.single:
            return "several samples or local steps: a column is a sum over them"
        return fully_connected_first(observation)

    def run(self, observation: Observation, budget_s: float, rng: np.random.Generator) -> Finding:  # noqa: ARG002
        """Groups and places; `recovered` when the chain holds."""
        layer, steps = observation.first_layer, observation.encoding.steps
        found = partition(layer.weight, observation.error_bound(f"{layer.name}.weight"), most=steps)
        count = len(found.masks)
        if not count:
            return Finding(verdict="failed", reason="the first layer's weight gradient is zero: no neuron was reached")
        if count > steps:
            return Finding(
                verdict="failed", reason=f"{count} groups of equal columns for {steps} steps: codec too coarse"
            )
        slots, reason, sure = _slots(found, observation, now_s() + budget_s)
        frames = np.zeros((steps, found.masks.shape[1]), dtype=np.float32)
        frames[slots] = found.masks
        shaped = frames.reshape(steps, 1, *observation.shape)
        return Finding(
            verdict="recovered" if sure else "partial",
            reason=f"{count} groups of equal columns; {reason}",
            images=decode(observation.encoding, shaped),
            frames=np.moveaxis(shaped, 1, 0),
        )


def _slots(found: Partition, observation: Observation, end_s: float) -> tuple[list[int], str, bool]:
    """The step of each group, how it was found, and whether it is sure."""
    count, model_known = len(found.masks), observation.known >= _FOR_CHAIN and observation.network is None
    if model_known and observation.model.family == "snn" and observation.model.kind == "fc":
        steps = observation.encoding.steps
        path = Chronology(simulator=known_network(observation), found=found, steps=steps).place(end_s)
        if path is not None:
            slots = [slot for _, slot in sorted(zip(path.groups, path.slots, strict=True))]
            return slots, f"causal chain residual {path.residual:.1e}", path.residual < CHAIN
    order = np.argsort(-np.linalg.norm(found.deltas, axis=1))
    return [int(slot) for slot in np.argsort(order)], f"{count} steps guessed by the columns' norms", False
