r"""Forward and backward pass of a fully connected spiking network for single samples, in float64 NumPy.

The attacker knows the model, so for a guess of a sample's frames it can compute what that sample's gradient would be.
With ``I_t = W x_t + b`` and snntorch's Leaky neuron (one-step reset delay, reset detached)::

    U_t = beta U_{t-1} + I_t - theta s_{t-1}          (reset by subtraction)
    s_t = [U_t > theta],   G_t = surrogate'(U_t - theta)
    delta_t = G_t * (W_next^T epsilon_t) + beta delta_{t+1}

where ``epsilon_t`` is the same quantity one layer up. Fixed-point membranes are rounded after each update. All leading
axes are batch axes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from attack.frames.spectrum import Array64
from contract.errors import ConfigurationError
from contract.models.quantization import membrane_grid
from contract.task import NeuronSpec

SURROGATES: dict[str, Callable[[Array64, float], Array64]] = {
    "atan": lambda u, alpha: alpha / 2 / (1 + (np.pi / 2 * alpha * u) ** 2),
    "fast_sigmoid": lambda u, slope: 1 / (1 + slope * np.abs(u)) ** 2,
    "ste": lambda u, _: np.ones_like(u),
    "triangular": lambda u, height: np.where(u >= 0, -height, height),
    "sigmoid": lambda u, slope: slope / (2 + np.exp(-slope * np.abs(u)) + np.exp(np.minimum(slope * np.abs(u), 700))),
    "spike_rate_escape": lambda u, slope: slope * np.exp(-np.abs(u - 1)),
}
"""snntorch's surrogate derivatives by name, as functions of ``U - theta`` and their one parameter."""

_SLOPES = {"atan": 2.0, "fast_sigmoid": 25.0, "ste": 1.0, "triangular": 1.0, "sigmoid": 25.0, "spike_rate_escape": 25.0}


@dataclass(frozen=True, kw_only=True, eq=False)
class Trace:
    """One layer over time: membrane before threshold `[..., T, H]` and spikes `[..., T, H]`."""

    membrane: Array64
    spikes: Array64


@dataclass(frozen=True, kw_only=True, eq=False)
class Simulator:
    """A fully connected spiking network whose parameters are known.

    Attributes:
        weights: Effective (quantised, if the network quantises) weights `[out, in]`, input to readout.
        biases: Biases `[out]`, same order.
        neuron: The spiking neuron.
        readout: `membrane` (mean membrane of a leaky readout that does not reset) or `spike` (mean spike count).
        membrane_bits: Bits of the spiking neurons' fixed-point membranes; `None` for float.
    """

    weights: tuple[Array64, ...]
    biases: tuple[Array64, ...]
    neuron: NeuronSpec
    readout: str
    membrane_bits: int | None = None

    @property
    def classes(self) -> int:
        """Number of logits."""
        return len(self.biases[-1])

    @property
    def next_weight(self) -> Array64:
        """Weight of the layer above the first `[H2, H1]`."""
        return self.weights[1]

    def current(self, frames: Array64) -> Array64:
        """First-layer input current of frames `[..., n]`, `[..., H1]`."""
        return frames @ self.weights[0].T + self.biases[0]

    def step(self, membrane: Array64, current: Array64, *, reset: bool = True) -> Array64:
        """Membrane after one more step, from the membrane before it and the new current."""
        neuron = self.neuron
        spike = (membrane > neuron.threshold) if reset else np.zeros(1)
        if neuron.reset == "zero" and reset:
            after = neuron.beta * membrane * (1 - spike) + current
        else:
            after = neuron.beta * membrane + current
            after -= neuron.threshold * spike if neuron.reset == "subtract" else 0.0
        grid = membrane_grid(neuron.threshold, self.membrane_bits) if reset else None
        return after if grid is None else grid.step * np.clip(np.round(after / grid.step), grid.low, grid.high)

    def surrogate(self, membrane: Array64) -> Array64:
        """Derivative that the backward pass uses for the spike at this membrane."""
        slope = self.neuron.surrogate_slope
        kind = self.neuron.surrogate
        return SURROGATES[kind](membrane - self.neuron.threshold, _SLOPES[kind] if slope is None else slope)

    def run_layer(self, currents: Array64, *, reset: bool = True) -> Trace:
        """One layer over all steps, from its currents `[..., T, H]`."""
        membrane = np.zeros_like(currents[..., 0, :])
        path = np.empty_like(currents)
        for t in range(currents.shape[-2]):
            membrane = self.step(membrane, currents[..., t, :], reset=reset)
            path[..., t, :] = membrane
        return Trace(membrane=path, spikes=(path > self.neuron.threshold).astype(np.float64))

    def forward(self, currents: Array64) -> tuple[list[Trace], Array64]:
        """All layers from the first layer's currents `[..., T, H1]`; traces and class probabilities `[..., C]`."""
        traces: list[Trace] = []
        for weight, bias in zip(self.weights[1:], self.biases[1:], strict=True):
            traces.append(self.run_layer(currents))
            currents = traces[-1].spikes @ weight.T + bias
        traces.append(self.run_layer(currents, reset=self.readout == "spike"))
        logits = (traces[-1].membrane if self.readout == "membrane" else traces[-1].spikes).mean(axis=-2)
        shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return traces, shifted / shifted.sum(axis=-1, keepdims=True)

    def adjoints(self, currents: Array64, label: int) -> tuple[Array64, ...]:
        """``dL/dI_t`` of one sample's cross-entropy for every layer, each `[..., T, H]`, input to readout."""
        traces, probabilities = self.forward(currents)
        error = probabilities - np.eye(self.classes)[label]
        top = np.broadcast_to(error[..., None, :], traces[-1].membrane.shape) / currents.shape[-2]
        if self.readout == "spike":
            top = top * self.surrogate(traces[-1].membrane)
        out = [self._through_time(top, traces[-1], reset=self.readout == "spike")]
        for weight, trace in zip(self.weights[:0:-1], traces[-2::-1], strict=True):
            out.append(self._through_time((out[-1] @ weight) * self.surrogate(trace.membrane), trace, reset=True))
        return tuple(reversed(out))

    def _through_time(self, local: Array64, trace: Trace, *, reset: bool) -> Array64:
        adjoint = np.array(local)
        zeroed = reset and self.neuron.reset == "zero"
        for t in range(adjoint.shape[-2] - 2, -1, -1):
            decay = self.neuron.beta * ((1 - trace.spikes[..., t, :]) if zeroed else 1.0)
            adjoint[..., t, :] += decay * adjoint[..., t + 1, :]
        return adjoint

    def first_adjoint(self, currents: Array64, label: int) -> Array64:
        """``dL/dI_t`` of the first layer `[..., T, H1]`."""
        return self.adjoints(currents, label)[0]

    def gradient(self, frames: Array64, label: int) -> Array64:
        """First-layer weight gradient of one sample `[H1, n]` from its frames in order `[T, n]`."""
        return self.first_adjoint(self.current(frames), label).T @ frames


def simulator(
    parameters: Mapping[str, Array64], neuron: NeuronSpec, readout: str, membrane_bits: int | None = None
) -> Simulator:
    """Builds a simulator from effective parameters in network order.

    Raises:
        ConfigurationError: A layer is not fully connected, or there is only one.
    """
    weights = tuple(value.astype(np.float64) for name, value in parameters.items() if name.endswith("weight"))
    biases = tuple(value.astype(np.float64) for name, value in parameters.items() if name.endswith("bias"))
    if any(weight.ndim != 2 for weight in weights) or len(weights) < 2 or len(biases) != len(weights):
        shapes = [weight.shape for weight in weights]
        raise ConfigurationError(f"layers of shapes {shapes}: simulation takes two or more dense layers with biases")
    return Simulator(weights=weights, biases=biases, neuron=neuron, readout=readout, membrane_bits=membrane_bits)
