r"""Every spike frame of one rate-coded sample from an update that went through int8.

Rounding lifts the whole spectrum of ``dW = Σ_t δ_t x_tᵀ``, so that no frame lies in the row space any more and exact
combinatorics on it finds nothing. But the attacker knows the network and the quantiser's step:

1. given frames, the adjoints δ_t follow by simulation;
2. given the adjoints, each input's train is the best of all 2^T for its column, over hundreds of neurons.

The two are alternated from Bernoulli draws of the ratio image (`attack.methods.ratio`). What makes it converge for
narrow surrogates such as fast_sigmoid is to weigh each neuron with the inverse of its residual over all inputs: a few
wrong bits move a neuron past a threshold and spoil its simulated adjoint alone. It has arrived when each entry of the
update is one of the two grid points next to the simulated gradient; wrong frames miss that by far. At int4 they do not,
and then the criterion is not met, or shows nothing (`attack.certificate` refuses so coarse a codec).

The derivation is this project's own; stochastic rounding as in QSGD (Alistarh et al. 2017, arXiv 1610.02132).
"""

from __future__ import annotations

import msgspec
import numpy as np

from attack.citations import CITATIONS
from attack.clock import now_s
from attack.images.alternation import MAX_STEPS, Alternation, Frames
from attack.labels import recover_labels
from attack.method import Citation, Finding
from attack.methods.frame_lp import known_network
from attack.methods.ratio import fully_connected_first, ratio
from attack.threat import Knowledge, Observation
from contract.encodings import decode


class QuantizedAlternation(msgspec.Struct, frozen=True, kw_only=True):
    """Alternates simulated adjoints and column-wise decoding of trains."""

    name: str = "quantized_alternation"
    citation: Citation = CITATIONS["spikeleak"]
    requires: frozenset[Knowledge] = frozenset({"architecture", "neuron", "encoding", "weights", "plan", "codec"})

    def applies(self, observation: Observation) -> str | None:
        """Needs one rate-coded sample of few steps, a fully connected spiking network, and an int8 update."""
        record = observation.records.get(f"{observation.first_layer.name}.weight")
        bias, steps = observation.first_layer.bias, observation.encoding.steps
        obstacles = {
            f"the encoding is {observation.encoding.kind!r}, not 'rate'": observation.encoding.kind != "rate",
            "the network is not a spiking one": observation.model.family != "snn",
            f"{observation.samples} samples or several steps: it decodes one gradient": not observation.single,
            f"{steps} steps: it compares all 2^T trains, up to T = {MAX_STEPS}": steps > MAX_STEPS,
            "the update is not quantised: exact methods do better": record is None or record.codec != "int8",
            "the first layer has no bias gradient to start from": bias is None or not bias.any(),
        }
        met = (reason for reason, holds in obstacles.items() if holds)
        return next(met, fully_connected_first(observation))

    def run(self, observation: Observation, budget_s: float, rng: np.random.Generator) -> Finding:
        """Alternates until the update is explained up to its rounding; `recovered` when it is."""
        deadline = now_s() + budget_s
        layer = observation.first_layer
        labels = recover_labels(observation)
        if labels is None or not layer.weight.any():
            return Finding(verdict="failed", reason="the label is not recovered, or the first layer's gradient is zero")
        step = observation.records[f"{layer.name}.weight"].scale
        search = Alternation(
            layer.weight, step, labels.labels[0], known_network(observation), observation.encoding.steps
        )
        return _finding(search.run(ratio(layer), deadline, rng), observation, labels.labels[0])


def _finding(found: Frames, observation: Observation, label: int) -> Finding:
    frames = found.frames.astype(np.float32).reshape(1, observation.encoding.steps, *observation.shape)
    criterion = "every entry within a step" if found.within else "not every entry within a step"
    return Finding(
        verdict="recovered" if found.within else "partial",
        reason=f"simulated gradient against the update: {found.error_steps:.3f} quantiser steps in root mean square, "
        + criterion,
        images=decode(observation.encoding, np.moveaxis(frames, 1, 0)),
        labels=(label,),
        frames=frames,
        objective=found.error_steps,
    )
