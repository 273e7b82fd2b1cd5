r"""Every spike frame of one rate-coded sample from an update that went through fp16, int8 or int4.

Rounding lifts the whole spectrum of ``dW = Σ_t δ_t x_tᵀ``, so that no frame lies in the row space any more and exact
combinatorics on it finds nothing. But the attacker knows the network and the quantiser's step:

1. given frames, the adjoints δ_t follow by simulation;
2. given the adjoints, each input's train is the best of all 2^T for its column, over hundreds of neurons.

The two are alternated from Bernoulli draws of the ratio image (`attack.methods.ratio`). What makes it converge for
narrow surrogates such as fast_sigmoid is to weigh each neuron with the inverse of its residual over all inputs: a few
wrong bits move a neuron past a threshold and spoil its simulated adjoint alone. It has arrived when each entry of the
update is one of the two grid points next to the simulated gradient; wrong frames miss that by far. For fp16 the
largest rounding error takes the step's place. At int4 wrong frames may meet the criterion, so that it shows nothing
(`attack.certificate` refuses so coarse a codec).

The derivation is this project's own; stochastic rounding as in QSGD (Alistarh et al. 2017, arXiv 1610.02132).
"""

from __future__ import annotations

import msgspec
import numpy as np

from attack.citations import CITATIONS, works
from attack.clock import now_s
from attack.images.alternation import MAX_STEPS, Alternation, Frames
from attack.labels import CITED as LABELS_CITED
from attack.labels import recover_labels
from attack.method import Citation, Finding
from attack.methods.frame_lp import known_network
from attack.methods.ratio import fully_connected_first, ratio
from attack.threat import Knowledge, Observation
from contract.encodings import decode

CODECS = frozenset({"fp16", "int8", "int4"})
TELLING = frozenset({"fp16", "int8"})
"""Codecs so fine that only the right frames agree with every entry."""


class QuantizedAlternation(msgspec.Struct, frozen=True, kw_only=True):
    """Alternates simulated adjoints and column-wise decoding of trains."""

    name: str = "quantized_alternation"
    citation: Citation = CITATIONS["spikeleak"]
    also: tuple[Citation, ...] = works("alistarh2017qsgd", *LABELS_CITED["one"])
    requires: frozenset[Knowledge] = frozenset({"architecture", "neuron", "encoding", "weights", "plan", "codec"})

    def applies(self, observation: Observation) -> str | None:
        """Needs one rate-coded sample of few steps, a fully connected spiking network, and a codec of `CODECS`."""
        record = observation.records.get(f"{observation.first_layer.name}.weight")
        bias, steps = observation.first_layer.bias, observation.encoding.steps
        obstacles = {
            f"the encoding is {observation.encoding.kind!r}, not 'rate'": observation.encoding.kind != "rate",
            "the network is not a spiking one": observation.model.family != "snn",
            f"{observation.samples} samples or several steps: it decodes one gradient": not observation.single,
            f"{steps} steps: it compares all 2^T trains, up to T = {MAX_STEPS}": steps > MAX_STEPS,
            f"the update's codec is none of {sorted(CODECS)}: others do better, or none": record is None
            or record.codec not in CODECS,
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
        record = observation.records[f"{layer.name}.weight"]
        step = observation.error_bound(record.name) if record.codec == "fp16" else record.scale
        search = Alternation(
            layer.weight, step, labels.labels[0], known_network(observation), observation.encoding.steps
        )
        found = search.run(ratio(layer), deadline, rng)
        return _finding(found, observation, labels.labels[0], telling=record.codec in TELLING)


def _finding(found: Frames, observation: Observation, label: int, *, telling: bool) -> Finding:
    frames = found.frames.astype(np.float32).reshape(1, observation.encoding.steps, *observation.shape)
    criterion = "every entry within a step" if found.within else "not every entry within a step"
    return Finding(
        verdict="recovered" if found.within and telling else "partial",
        reason=f"simulated gradient against the update: {found.error_steps:.3f} quantiser steps in root mean square, "
        + criterion,
        images=decode(observation.encoding, np.moveaxis(frames, 1, 0)),
        labels=(label,),
        frames=frames,
        objective=found.error_steps,
    )
