"""Whether a module computes what one of the project's networks computes: proposed from its trace, decided by numbers.

A proposal stands when logits and gradients of module and network agree on random frames and labels, at the module's own
parameters and at larger ones that make every layer spike. Nothing is believed for its name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

import msgspec
import torch
from torch import Tensor, nn

from attack.own.behaviour import difference, gradients
from attack.own.tracing import Trace, neuron_of
from contract.errors import SpikeleakError
from contract.models.network import Network
from contract.task import EncodingSpec, ModelSpec, NeuronSpec, TaskSpec
from deploy.audit.behaviour import Behaviour

AGREES = 5e-4
"""Relative difference of logits and of gradients up to which a proposal stands; rounding leaves 1e-6 to 1e-5."""
_GAINS = (1.0, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Factors on the weights. A spike that rounding flips may spoil one trial in a long run: one may fail."""
_LEAST = 2
"""Trials that must have driven every hidden layer, so that agreement says something of the neurons."""


class _Difference(NamedTuple):
    """Why a proposal does not stand, and how far it is off."""

    error: float
    reason: str


class Expression(msgspec.Struct, frozen=True, kw_only=True):
    """A module in the project's terms.

    Attributes:
        task: The network.
        names: The module's name of each of the network's parameters; a bias that the module lacks is left out.
        factor: The module's logits are `factor` times the network's: readout parameters take it up.
        error: Largest relative difference of a gradient in the trials that agreed.
    """

    task: TaskSpec
    names: Mapping[str, str]
    factor: float
    error: float


def express(
    module: nn.Module,
    traced: Trace,
    behaviour: Behaviour,
    *,
    encoding: EncodingSpec,
    shape: tuple[int, ...],
    batch: int,
) -> Expression | str:
    """The network that computes what the module computes, or why there is none."""
    reason = _obstacle(module, traced)
    if reason:
        return reason
    names = _names(traced)
    closest = _Difference(float("inf"), "its neurons or its use of time fit no such network")
    for model, neuron in _proposals(traced, behaviour):
        task = TaskSpec(dataset="captured", encoding=encoding, model=model, neuron=neuron)
        try:
            network = Network(task, shape, behaviour.classes)
        except SpikeleakError as error:
            return str(error)
        if len(network.layers) != len(traced.layers):
            return f"{len(traced.layers)} layers in an order other than convolutions, then dense layers"
        found = _tried(module, network, names, batch)
        if isinstance(found, Expression):
            return found
        closest = min(closest, found)
    return closest.reason


def _obstacle(module: nn.Module, traced: Trace) -> str | None:
    if traced.others:
        name, kind = traced.others[0]
        return f"{name!r} ({kind}) is neither a Linear, a Conv2d nor a snntorch Leaky"
    if not traced.layers or not isinstance(traced.layers[-1][1], nn.Linear):
        return "its last layer is not a torch.nn.Linear"
    if len(traced.layers) < 2:
        return "it has no hidden layer"
    inside = {f"{name}." for name, _ in (*traced.layers, *traced.neurons)}
    loose = [n for n, _ in module.named_parameters() if n.rpartition(".")[0] + "." not in inside]
    return f"parameter {loose[0]!r} belongs to no traced layer" if loose else None


def _names(traced: Trace) -> dict[str, str]:
    names = {}
    for i, (name, layer) in enumerate(traced.layers):
        names[f"layers.{i}.weight"] = f"{name}.weight"
        if layer.bias is not None:
            names[f"layers.{i}.bias"] = f"{name}.bias"
    return names


def _proposals(traced: Trace, behaviour: Behaviour) -> Iterator[tuple[ModelSpec, NeuronSpec]]:
    convolutions = [layer for _, layer in traced.layers if isinstance(layer, nn.Conv2d)]
    sides = tuple(layer.kernel_size[0] for layer in convolutions)
    hidden = tuple(layer.out_features for _, layer in traced.layers[:-1] if isinstance(layer, nn.Linear))
    base = ModelSpec(
        kind="conv" if convolutions else "fc",
        hidden=hidden,
        channels=tuple(layer.out_channels for layer in convolutions) or (1,),
        kernel=sides if len(set(sides)) > 1 else (*sides, 5)[0],
        stride=convolutions[0].stride[0] if convolutions else 2,
        weight_bits=None,
    )
    if not traced.neurons and behaviour.time != "dynamics":
        named = traced.activations[:1]
        kinds: tuple[Literal["sigmoid", "relu"], ...] = ("relu", "sigmoid")
        for kind in sorted(kinds, key=lambda k: k not in named):
            yield msgspec.structs.replace(base, family="ann", activation=kind), NeuronSpec()
        return
    for neuron in {neuron_of(part) for _, part in traced.neurons[: len(traced.layers) - 1]}:
        if isinstance(neuron, NeuronSpec):
            for readout in ("membrane", "spike"):
                yield msgspec.structs.replace(base, family="snn", readout=readout), neuron


def neurons_reason(traced: Trace) -> str | None:
    """Why the neurons have no record, or `None`."""
    for name, part in traced.neurons:
        neuron = neuron_of(part)
        if isinstance(neuron, str):
            return f"neuron {name!r}: {neuron}"
    return None


def _tried(module: nn.Module, network: Network, names: Mapping[str, str], batch: int) -> Expression | _Difference:
    generator = torch.Generator().manual_seed(1)
    own = {name: p.detach() for name, p in module.named_parameters()}
    for name, spec in ((f"{layer.name}.weight", layer.weight_shape) for layer in network.layers):
        if tuple(own[names[name]].shape) != spec:
            found = list(own[names[name]].shape)
            return _Difference(
                1.0, f"{names[name]!r} has shape {found}, without pooling or the like it had {list(spec)}"
            )
    factor: float | None = None
    errors: list[float] = []
    informative = 0
    for gain in _GAINS:
        scaled = {n: v * gain if v.ndim > 1 and n in names.values() else v for n, v in own.items()}
        frames = torch.rand((network.steps, batch, *network.shape), generator=generator)
        if network.task.model.family == "ann":
            frames = frames[:1].expand_as(frames)
        labels = torch.randint(0, network.layers[-1].outputs[0], (batch,), generator=generator)
        trial = _Trial(module, network, names, own=scaled, frames=frames, labels=labels)
        factor = trial.factor() if factor is None else factor
        if factor is None:
            return _Difference(1.0, "its logits are not a positive multiple of such a network's")
        informative += trial.driven
        errors.append(trial.error(factor))
    agreed = sorted(errors)[: len(_GAINS) - 1]
    if agreed[-1] > AGREES:
        reason = "its readout, neurons or pooling are others: gradients differ from the closest network's by"
        return _Difference(agreed[-1], f"{reason} {agreed[-1]:.1e} (relative, limit {AGREES:.0e})")
    if informative < _LEAST:
        return _Difference(0.0, "its hidden neurons stayed silent in all trials: what they compute cannot be compared")
    return Expression(task=network.task, names=names, factor=factor or 1.0, error=agreed[-1])


class _Trial:
    """Module and network side by side at the same parameters, frames and labels."""

    def __init__(
        self,
        module: nn.Module,
        network: Network,
        names: Mapping[str, str],
        *,
        own: Mapping[str, Tensor],
        frames: Tensor,
        labels: Tensor,
    ) -> None:
        self._network, self._names, self._own = network, names, own
        self._frames, self._labels = frames, labels
        self._logits, self._gradients = gradients(module, own, frames, labels)
        params = translated(network, names, own, 1.0)
        self._theirs, emitted = network.trace(params, frames)
        activity = [float((layer != 0).float().mean()) for layer in emitted]
        self.driven = all(0 < share < 1 for share in activity) or network.task.model.family == "ann"

    def factor(self) -> float | None:
        """The positive number between both logits, 1 unless the readout can take another; `None` without one."""
        theirs = self._theirs.detach()
        norm = float((theirs**2).sum())
        found = float((theirs * self._logits).sum()) / norm if norm else 1.0
        if abs(found - 1) < AGREES:
            return 1.0
        model = self._network.task.model
        takes = model.family == "ann" or model.readout == "membrane"
        return found if takes and found > 0 else None

    def error(self, factor: float) -> float:
        """Largest relative difference: logits, and all gradients together."""
        params = {n: v.requires_grad_() for n, v in translated(self._network, self._names, self._own, factor).items()}
        logits = self._network(params, self._frames)
        loss = torch.nn.functional.cross_entropy(logits, self._labels)
        found = dict(zip(params, torch.autograd.grad(loss, list(params.values())), strict=True))
        readout = self._network.layers[-1].name
        mine, theirs = [], []
        for name, own in self._names.items():
            back = factor if name.startswith(f"{readout}.") else 1.0
            theirs.append((found[name] * back).flatten())
            mine.append(self._gradients[own].flatten())
        return max(difference(logits.detach(), self._logits), difference(torch.cat(theirs), torch.cat(mine)))


def translated(
    network: Network, names: Mapping[str, str], own: Mapping[str, Tensor], factor: float
) -> dict[str, Tensor]:
    """The network's parameters from the module's; a missing bias is zero, the readout takes up the factor."""
    params = {}
    for layer in network.layers:
        scale = factor if layer is network.layers[-1] else 1.0
        for kind, shape in (("weight", layer.weight_shape), ("bias", layer.bias_shape)):
            name = f"{layer.name}.{kind}"
            value = own[names[name]] * scale if name in names else torch.zeros(shape)
            params[name] = value.detach().clone()
    return params
