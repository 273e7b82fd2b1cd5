r"""Two hidden layers whose upper trains are known: what an image says of those trains and of the gradient.

A leaky readout gives the upper layer's spikes ``s2`` (`attack.readout_trains`) and, with ``p - y`` from the bias, the
adjoint ``dL/ds2_t = w_t W_out^T (p - y)``, both without an error. With its resets known the upper membrane is *affine*
in the lower layer's spikes, ``m2_t = beta m2_{t-1} + W_2 s1_t + b_2 - threshold s2_{t-1}``, and everything else follows
from it by smooth formulas:

    delta2 = reverse scan of dL/ds2 surrogate(m2 - threshold)     dW_2 = sum_t delta2_t s1_t^T
    dL/ds1_t = W_2^T delta2_t                                     dW_1 = (sum_t delta1_t) x^T

(a correlation in place of the outer product for a convolution). So the only step that is not smooth is the one from a
first-layer current to its train, a function of one number that `SmoothedTrains` smooths. Known trains give one
inequality a neuron and step, ``m2_t > threshold`` where it spiked; gradients give equations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import conv2d, linear

from attack.images.smoothed_trains import SmoothedTrains
from attack.readout_trains import Trains
from attack.threat import Observation
from contract.models.layout import LayerSpec, layers
from contract.models.neurons import Leaky, mean_membrane_weights, scan
from contract.models.quantization import fake_quantize


@dataclass(frozen=True, kw_only=True, eq=False)
class Mismatch:
    """How far an image is from explaining the update.

    Attributes:
        trains: Sum over neurons and steps of the squared excess of the membrane on the wrong side, in thresholds.
        lower: Relative squared errors of the first layer's gradients, weight plus bias.
        upper: Those of the second layer.
    """

    trains: Tensor
    lower: Tensor
    upper: Tensor


class KnownTrains:
    """The forward and backward pass of one sample through a first and a second layer, trains of the second given.

    Args:
        observation: Direct coding, two hidden spiking layers and a membrane readout; everything about them is known.
        trains: The second layer's trains; only those without another candidate count as inequalities.
    """

    def __init__(self, observation: Observation, trains: Trains) -> None:
        self._layers = layers(observation.task, observation.shape, observation.classes)
        self._gain = observation.encoding.gain
        self._weights = [self._parameter(observation, layer, "weight") for layer in self._layers]
        self._biases = [self._parameter(observation, layer, "bias") for layer in self._layers]
        self._observed = {
            layer.name: [torch.tensor(observation.gradient[f"{layer.name}.{kind}"]).float() for kind in _KINDS]
            for layer in self._layers[:2]
        }
        self._neuron, steps = Leaky(observation.neuron), observation.encoding.steps
        outputs = self._layers[1].outputs
        self._spikes = torch.tensor(trains.spikes).float().view(steps, *outputs)
        self._certain = torch.tensor(trains.unique).float().view(*outputs)
        self._adjoint = self._readout_adjoint(observation).view(steps, *outputs)
        self.trains = SmoothedTrains(observation.neuron, observation.model.membrane_bits, steps, *self._range())

    @staticmethod
    def _parameter(observation: Observation, layer: LayerSpec, kind: str) -> Tensor:
        tensor = torch.tensor(observation.parameters[f"{layer.name}.{kind}"])
        bits = observation.model.weight_bits if kind == "weight" else None
        return fake_quantize(tensor, bits).detach().requires_grad_()

    def _readout_adjoint(self, observation: Observation) -> Tensor:
        """``dL/ds2`` `[T, neurons]`."""
        temporal = torch.tensor(mean_membrane_weights(observation.encoding.steps, observation.neuron.beta))
        assert observation.readout.bias is not None
        error = torch.tensor(observation.gradient[f"{observation.readout.name}.bias"]).float() / temporal.sum()
        return torch.outer(temporal, error @ self._weights[-1].detach())

    def _range(self) -> tuple[float, float]:
        """Bounds on the first layer's currents for pixels in [0, 1]."""
        weight, bias = self._gain * self._weights[0].detach().flatten(1), self._biases[0].detach()
        return float((weight.clamp(max=0).sum(1) + bias).min()), float((weight.clamp(min=0).sum(1) + bias).max())

    def _current(self, index: int, x: Tensor) -> Tensor:
        layer, weight, bias = self._layers[index], self._weights[index], self._biases[index]
        if layer.kind == "conv":
            return conv2d(x, weight, bias, stride=layer.stride, padding=layer.padding)
        return linear(x.flatten(1), weight, bias)

    def mismatch(self, image: Tensor, table: Tensor) -> Mismatch:
        """Compares with the trains and the gradients.

        Args:
            image: `[1, *shape]` in [0, 1].
            table: Of `SmoothedTrains`.

        Returns:
            Scalars, differentiable by the image.
        """
        neuron = self._neuron
        keep = 1 - self._spikes if neuron.forgets else None
        first = self._current(0, self._gain * image)
        spikes, factors = self.trains(first[0], table)
        second = self._current(1, spikes)
        drive = second.clone()
        if keep is None:
            drive[1:] = drive[1:] - neuron.threshold * self._spikes[:-1]
        excess = scan(drive, neuron.beta, keep) - neuron.threshold
        wrong = torch.relu(-excess) * self._spikes + torch.relu(excess) * (1 - self._spikes)
        upper = scan(self._adjoint * neuron.derivative(excess), neuron.beta, keep, reverse=True)
        *found, below = torch.autograd.grad(
            second, [self._weights[1], self._biases[1], spikes], upper, create_graph=True
        )
        lower = (below * factors).sum(0, keepdim=True)
        lowest = torch.autograd.grad(first, [self._weights[0], self._biases[0]], lower, create_graph=True)
        return Mismatch(
            trains=(self._certain * wrong / neuron.threshold).square().sum(),
            lower=_errors(list(lowest), self._observed, self._layers[0].name),
            upper=_errors(found, self._observed, self._layers[1].name),
        )


_KINDS = ("weight", "bias")


def _errors(found: list[Tensor], observed: Mapping[str, list[Tensor]], name: str) -> Tensor:
    pairs = zip(found, observed[name], strict=True)
    return torch.stack([(x - y).square().sum() / y.square().sum().clamp_min(1e-30) for x, y in pairs]).sum()
