r"""The image behind one convolution and a readout, direct coding: trains, then current intervals, then pixels.

A convolution's own weight gradient sums over all positions and says little. The *readout's* gradient tells more:
``dW = Σ_t a_t s_tᵀ`` holds every hidden neuron's spike train, and a readout that does not spike has known temporal
weights, so each train is a subset sum; a spiking one is decoded by alternating with least squares. Under direct coding
a neuron's current is constant, so its train can only be one of a few hundred, each given by an interval of currents
(*codebook*). The image is then the smoothest one whose currents, affine in the pixels, lie in their intervals: a convex
problem. More time steps mean narrower intervals, so **more steps leak more**.

The derivation is this project's own; total variation as the image prior after Geiping et al. (2020, arXiv 2003.14053).
"""

from __future__ import annotations

import msgspec
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d

from attack.citations import CITATIONS, works
from attack.images.codebook import Codebook, Decoded, codebook, decode_membrane, decode_spiking
from attack.images.interval_inversion import CITED as INVERSION_CITED
from attack.images.interval_inversion import ITERATIONS, invert_intervals, violation
from attack.method import Citation, Finding
from attack.threat import Array64, Knowledge, Observation
from contract.models.layout import layers
from contract.models.quantization import fake_quantize

DECODED = 0.02
"""Share of the readout gradient left unexplained up to which the trains count as decoded."""
ROUNDS = 4
"""Times that a spiking readout's trains are decoded again, from those of the image found so far."""
TOLERANCE = 1e-3
"""How far a current may lie outside its interval to count as reproduced, in thresholds."""


class ConvCodebook(msgspec.Struct, frozen=True, kw_only=True):
    """Codebook decoding of a convolution's trains from the readout, and interval inversion."""

    name: str = "conv_codebook"
    citation: Citation = CITATIONS["spikeleak"]
    also: tuple[Citation, ...] = works("geiping2020inverting", *INVERSION_CITED)
    requires: frozenset[Knowledge] = frozenset({"architecture", "neuron", "encoding", "weights", "plan"})

    def applies(self, observation: Observation) -> str | None:
        """Needs one sample, direct coding, and a spiking convolution right below the readout."""
        if observation.encoding.kind != "direct":
            return f"the encoding is {observation.encoding.kind!r}: currents are not constant"
        if not observation.single:
            return f"{observation.samples} samples or several steps: the readout mixes their trains"
        if observation.model.family != "snn" or observation.model.kind != "conv":
            return "the first layer is not a spiking convolution"
        if len(observation.layers) != 2:
            return f"{len(observation.layers)} layers: it decodes the layer below the readout, which must be the first"
        if observation.readout.bias is None or not observation.readout.bias.any():
            return "the readout has no bias gradient"
        return None

    def run(self, observation: Observation, budget_s: float, rng: np.random.Generator) -> Finding:  # noqa: ARG002
        """Decodes and inverts; `recovered` when the image reproduces every neuron's current interval."""
        convolution = _Convolution(observation)
        book = codebook(
            observation.neuron, observation.encoding.steps, convolution.largest, observation.model.membrane_bits
        )
        decoded = _decode(observation, book)
        if decoded.residual > DECODED + _noise(observation):
            reason = f"no trains explain the readout's gradient: {decoded.residual:.1e} of it left"
            return Finding(verdict="failed", reason=reason)
        image = _invert(convolution, decoded, observation)
        for _ in range(ROUNDS if observation.model.readout == "spike" else 0):
            again = _decode(observation, book, convolution(image).double().numpy())
            if again.residual >= decoded.residual:
                break
            decoded = again
            image = _invert(convolution, decoded, observation)
        low, high = torch.tensor(decoded.low).float(), torch.tensor(decoded.high).float()
        outside = float((violation(convolution(image), low, high) > TOLERANCE).float().mean())
        return Finding(
            verdict="recovered" if outside == 0.0 else "partial",
            reason=f"trains explain the readout's gradient up to {decoded.residual:.1e}; {outside:.2%} of the neurons' "
            "currents lie outside their intervals",
            images=image.numpy(),
            objective=outside,
        )


def _invert(convolution: _Convolution, decoded: Decoded, observation: Observation) -> Tensor:
    low, high = torch.tensor(decoded.low).float(), torch.tensor(decoded.high).float()
    return invert_intervals(convolution, low, high, observation.shape, iterations=ITERATIONS)


class _Convolution:
    """The first layer's currents of an image, flat."""

    def __init__(self, observation: Observation) -> None:
        spec = layers(observation.task, observation.shape, observation.classes)[0]
        weight = torch.tensor(observation.parameters[f"{spec.name}.weight"])
        self._weight = fake_quantize(weight, observation.model.weight_bits) * observation.encoding.gain
        self._bias = torch.tensor(observation.parameters[f"{spec.name}.bias"])
        self._stride, self._padding = spec.stride, spec.padding

    def __call__(self, image: Tensor) -> Tensor:
        return conv2d(image, self._weight, self._bias, stride=self._stride, padding=self._padding).flatten()

    @property
    def largest(self) -> float:
        """A bound on every current for pixels in [0, 1]."""
        return float((self._weight.clamp(min=0).flatten(1).sum(1) + self._bias).max()) + 1e-3


def _noise(observation: Observation) -> float:
    """The codec's error relative to the readout's gradient."""
    name = f"{observation.readout.name}.weight"
    error = observation.error_bound(name) if "codec" in observation.known else 0.0
    weight = observation.readout.weight
    return float(error * np.sqrt(weight.size) / (np.linalg.norm(weight) + 1e-300))


def _decode(observation: Observation, book: Codebook, currents: Array64 | None = None) -> Decoded:
    """The trains; a spiking readout's start from the currents of an image found before."""
    readout, beta = observation.readout, observation.neuron.beta
    assert readout.bias is not None
    if observation.model.readout == "spike":
        return decode_spiking(book, readout.weight, readout.bias, beta, currents)
    name = f"{readout.name}.weight"
    error = observation.error_bound(name) if "codec" in observation.known else 0.0
    return decode_membrane(book, readout.weight, readout.bias, beta, error)
