"""The same network as snntorch users write it: Leaky neurons stepped in Python. The yardstick of `network`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import snntorch
import torch
from snntorch import surrogate as snn_surrogate
from torch import Tensor, nn

from contract.models.layout import LayerSpec, initial_parameters, layers
from contract.task import NeuronSpec, TaskSpec

_SURROGATES: dict[str, Callable[[float | None], Any]] = {
    "atan": lambda a: snn_surrogate.atan() if a is None else snn_surrogate.atan(alpha=a),
    "fast_sigmoid": lambda a: snn_surrogate.fast_sigmoid() if a is None else snn_surrogate.fast_sigmoid(slope=a),
    "ste": lambda _: snn_surrogate.straight_through_estimator(),
    "triangular": lambda a: snn_surrogate.triangular() if a is None else snn_surrogate.triangular(threshold=a),
    "sigmoid": lambda a: snn_surrogate.sigmoid() if a is None else snn_surrogate.sigmoid(slope=a),
    "spike_rate_escape": lambda a: (
        snn_surrogate.spike_rate_escape() if a is None else snn_surrogate.spike_rate_escape(slope=a)
    ),
}
_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"sigmoid": nn.Sigmoid, "relu": nn.ReLU}


class _Wide(torch.autograd.Function):
    """A surrogate's spike in the membrane's own precision; its derivative is snntorch's, so are those of higher order.

    snntorch casts spikes to float32, and with them every gradient that passes one: no yardstick for float64.
    """

    @staticmethod
    def forward(ctx: Any, u: Tensor, surrogate: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.save_for_backward(u)
        ctx.surrogate = surrogate
        return (u > 0).to(u.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (saved,) = ctx.saved_tensors
        twice = torch.is_grad_enabled()
        with torch.enable_grad():
            u = saved if twice and saved.requires_grad else saved.detach().requires_grad_()
            (derivative,) = torch.autograd.grad(ctx.surrogate(u).sum(), u, create_graph=twice)
        return gradients[0] * derivative, None


class SteppingNetwork(nn.Module):
    """A task's network of `torch.nn` layers and `snntorch.Leaky` neurons, with the same parameters and names.

    Starts from `initial_parameters`; take others with `load_state_dict(..., strict=False)`. Slow on purpose:
    nothing is shared with `contract.models.network` but the layout.
    """

    def __init__(
        self, task: TaskSpec, shape: tuple[int, ...], classes: int, *, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self.task = task
        specs = layers(task, shape, classes)
        self.layers = nn.ModuleList(_module(spec) for spec in specs)
        drawn = {k: torch.from_numpy(v) for k, v in initial_parameters(task, shape, classes).items()}
        self.load_state_dict(drawn)
        self.neurons = nn.ModuleList(_neurons(task, len(specs), wide=dtype == torch.float64))
        self.to(dtype)
        self.dtype = dtype

    def forward(self, frames: Tensor) -> Tensor:
        """Class scores `[B, classes]` of frames `[T or 1, B, *shape]`."""
        weights = [self._weight(cast("Tensor", layer.weight)) for layer in self.layers]
        if self.task.model.family == "ann":
            return self._step_ann(weights, frames[0])
        return self._step_snn(weights, frames.expand(self.task.encoding.steps, *frames.shape[1:]))

    def _step_snn(self, weights: list[Tensor], frames: Tensor) -> Tensor:
        membranes: list[Tensor | None] = [None] * len(weights)
        read = []
        for x in frames:
            spikes = x
            for i, neuron in enumerate(self.neurons):
                current = self._affine(i, weights[i], spikes)
                start = torch.zeros_like(current) if membranes[i] is None else membranes[i]
                spikes, membranes[i] = neuron(current, start)
                spikes = spikes.to(self.dtype)
            read.append(membranes[-1] if self.task.model.readout == "membrane" else spikes)
        return torch.stack(cast("list[Tensor]", read)).mean(0)

    def _step_ann(self, weights: list[Tensor], x: Tensor) -> Tensor:
        for i, neuron in enumerate(self.neurons):
            x = neuron(self._affine(i, weights[i], x))
        return x

    def _affine(self, index: int, weight: Tensor, x: Tensor) -> Tensor:
        layer = self.layers[index]
        if isinstance(layer, nn.Conv2d):
            return nn.functional.conv2d(x, weight, layer.bias, layer.stride, layer.padding)
        return nn.functional.linear(x.flatten(1), weight, cast("Tensor", layer.bias))

    def _weight(self, weight: Tensor) -> Tensor:
        bits = self.task.model.weight_bits
        if bits is None:
            return weight
        rows = weight.detach().flatten(1)
        rounded = _ternary_rows(rows) if bits == 2 else _uniform_rows(rows, bits)
        difference: Tensor = rounded.view_as(weight) - weight.detach()
        return weight + difference


def _uniform_rows(rows: Tensor, bits: int) -> Tensor:
    scale = (rows.abs().amax(1) / (2 ** (bits - 1) - 1)).clamp(min=1e-30)
    rounded: Tensor = torch.round(rows / scale[:, None]) * scale[:, None]
    return rounded


def _ternary_rows(rows: Tensor) -> Tensor:
    return torch.stack([_ternary_row(row) for row in rows])


def _ternary_row(row: Tensor) -> Tensor:
    far = row.abs() > 0.7 * row.abs().mean()
    return torch.where(far, row.sign() * row[far].abs().mean(), 0.0) if far.any() else torch.zeros_like(row)


def _fixed_point(threshold: float, bits: int) -> Callable[[Tensor], Tensor]:
    """For `state_quant`: `bits` with sign over four thresholds up and down."""
    step, half = 4 * threshold / 2 ** (bits - 1), 2 ** (bits - 1)

    def rounded(membrane: Tensor) -> Tensor:
        integers = torch.round(membrane.detach() / step).clamp(-half, half - 1)
        # The difference is exactly 0: a membrane on the threshold must stay on it.
        straight_through: Tensor = integers * step + (membrane - membrane.detach())
        return straight_through

    return rounded


def _module(spec: LayerSpec) -> nn.Module:
    out, inputs = spec.weight_shape[:2]
    if spec.kind == "conv":
        return nn.Conv2d(inputs, out, spec.kernel, stride=spec.stride, padding=spec.padding)
    return nn.Linear(inputs, out)


def _neurons(task: TaskSpec, count: int, *, wide: bool) -> list[nn.Module]:
    if task.model.family == "ann":
        return [*(_ACTIVATIONS[task.model.activation]() for _ in range(count - 1)), nn.Identity()]
    readout_reset = "none" if task.model.readout == "membrane" else task.neuron.reset
    resets = [*[task.neuron.reset] * (count - 1), readout_reset]
    bits = task.model.membrane_bits
    readout_bits = None if task.model.readout == "membrane" else bits
    grids = [*[bits] * (count - 1), readout_bits]
    neurons = [_leaky(task.neuron, reset, grid, wide=wide) for reset, grid in zip(resets, grids, strict=True)]
    snntorch.SpikingNeuron.init()  # its class list of instances would grow for ever
    return neurons


def _leaky(neuron: NeuronSpec, reset: str, membrane_bits: int | None, *, wide: bool) -> nn.Module:
    surrogate = _SURROGATES[neuron.surrogate](neuron.surrogate_slope)
    # As double: snntorch would keep the decay as float32 and then lose digits in a float64 network.
    return cast(
        "nn.Module",
        snntorch.Leaky(
            beta=torch.tensor(neuron.beta, dtype=torch.float64),
            threshold=torch.tensor(neuron.threshold, dtype=torch.float64),
            spike_grad=(lambda u: _Wide.apply(u, surrogate)) if wide else surrogate,  # type: ignore[no-untyped-call]
            reset_mechanism=reset,
            state_quant=False if membrane_bits is None else _fixed_point(neuron.threshold, membrane_bits),
        ),
    )
