"""What an attacker may know. Everything that an attack reads is a value of these types; no truth is among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol, get_args

import msgspec
import numpy as np
import numpy.typing as npt

from contract.codecs import CODECS
from contract.encodings import SERIES
from contract.errors import SpikeleakError
from contract.messages import TensorRecord
from contract.task import EncodingSpec, ModelSpec, NeuronSpec, RoundPlan, TaskSpec

Vantage = Literal["server", "broker", "client"]
Knowledge = Literal["architecture", "neuron", "encoding", "weights", "plan", "labels", "codec", "candidates"]

COARSE = frozenset({"ternary", "sign", "topk"})
"""Codecs after which a value's error is as large as the value: what is not there proves nothing."""

Array32 = npt.NDArray[np.float32]
Array64 = npt.NDArray[np.float64]


class NotKnownError(SpikeleakError):
    """An attack asked for something that the threat model keeps from it."""


class ThreatModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the attacker sits and what it knows. The defaults are an honest-but-curious server's.

    Attributes:
        vantage: `server` and `broker` see each device's update: TLS ends at the broker, so that only who taps the line
            sees nothing; under secure aggregation both see it masked, and the sum. A fellow `client` sees successive
            models only.
        architecture: Layers, activation, readout and weight quantisation.
        neuron: Decay, threshold, reset and surrogate.
        encoding: Kind, number of steps and gain.
        weights: The global parameters that the update started from.
        plan: Algorithm, local steps, batch size, learning rate and momentum.
        labels: The labels of the samples, in no promised order.
        codec: The codec of each tensor and its scale.
        candidates: Samples of the attacker's own, which it suspects to be in the batch.
    """

    vantage: Vantage = "server"
    architecture: bool = True
    neuron: bool = True
    encoding: bool = True
    weights: bool = True
    plan: bool = True
    labels: bool = False
    codec: bool = True
    candidates: bool = False

    @property
    def knowledge(self) -> frozenset[Knowledge]:
        """The names of all that is known."""
        return frozenset(name for name in get_args(Knowledge) if getattr(self, name))


class LayerGradient(msgspec.Struct, frozen=True, kw_only=True):
    """Gradient of one layer: weight `[out, in]` or `[out, in, k, k]`, bias `[out]` or `None` without one."""

    name: str
    weight: Array64
    bias: Array64 | None

    @property
    def linear(self) -> bool:
        """Whether the layer is fully connected."""
        return self.weight.ndim == 2


class OwnNetwork(Protocol):
    """A network that no `TaskSpec` describes: it can be simulated, and nothing else is known of its inside.

    Attributes:
        names: Its parameters, in the order of its gradients.
        reason: Why no `TaskSpec` describes it.
        timeless: Whether it has no dynamics, so that one frame stands for all steps.
        tells_labels: Whether the last weight of the update belongs to the layer that gives the logits.
        once: Why its gradient cannot be differentiated again; empty when it can.
        coupled: Whether samples of a batch act on each other, as by batch norm.
    """

    @property
    def names(self) -> tuple[str, ...]: ...  # noqa: D102

    @property
    def reason(self) -> str: ...  # noqa: D102

    @property
    def timeless(self) -> bool: ...  # noqa: D102

    @property
    def tells_labels(self) -> bool: ...  # noqa: D102

    @property
    def once(self) -> str: ...  # noqa: D102

    @property
    def coupled(self) -> bool: ...  # noqa: D102

    def __call__(self, params: Mapping[str, Any], frames: Any) -> Any:
        """Logits `[B, classes]` of frames `[T or 1, B, *shape]`."""
        ...


def _no_parameters() -> Mapping[str, Array32]:
    return {}


@dataclass(frozen=True, kw_only=True, eq=False)
class Observation:
    """One update as the attacker sees it. Fields with a leading underscore are read through the guarded properties.

    Attributes:
        threat: What may be known; reading more raises `NotKnownError`.
        shape: Shape of what the network sees of a sample at a step, for instance `(1, 28, 28)`. Inputs lie in [0, 1].
        classes: Number of classes.
        samples: Samples drawn for the update (batch size × local steps), as the update's head announces.
        update: Decoded tensors by parameter name, in the network's order: a mean gradient (`fedsgd`) or the weights
            before minus the weights after (`fedavg`).
        seed: Seed of the attacker's own random draws.
        _task: The task (architecture, neuron, encoding).
        _plan: How the update was made.
        _parameters: Global parameters before the update; empty when they are not at hand.
        _records: Codec and scale of each tensor.
        _labels: Labels given to the attacker, if any.
        _candidates: Samples `[N, *shape]` that the attacker owns, if any; never taken from a device.
        _rates: Factor on the local learning rate by parameter, where it is not 1.
        _network: Somebody's own network in place of the task's, of which only the encoding is read then. First layer
            and readout are the first and the last `.weight` of `update`.
        masked: Whether the update wears the masks of secure aggregation: each value alone is uniformly random, read as
            the nearest to 0 of the integers that it may stand for. Everybody can see that.
        _errors: Largest absolute error of an element by parameter, beside its codec's: of the mean of several devices.
        _unknown: Why nobody told the attacker the architecture; empty where the threat model alone decides.
    """

    threat: ThreatModel
    shape: tuple[int, ...]
    classes: int
    samples: int
    update: Mapping[str, Array32]
    seed: int
    _task: TaskSpec
    _plan: RoundPlan
    _parameters: Mapping[str, Array32] = field(default_factory=_no_parameters)
    _records: Mapping[str, TensorRecord] = field(default_factory=dict)
    _labels: tuple[int, ...] | None = None
    _candidates: Array32 | None = None
    _rates: Mapping[str, float] = field(default_factory=dict)
    _network: OwnNetwork | None = None
    masked: bool = False
    _errors: Mapping[str, float] = field(default_factory=dict)
    _unknown: str = ""

    def _require(self, *knowledge: Knowledge) -> None:
        unknown = [name for name in knowledge if name not in self.known]
        if reason := self.reason_unknown(unknown):
            raise NotKnownError(reason)
        if unknown:
            raise NotKnownError(f"the threat model keeps {' and '.join(unknown)} from the attacker")

    def reason_unknown(self, names: Sequence[str]) -> str:
        """Why the attacker does not know these, where it is not the threat model that keeps them; otherwise empty."""
        return self._unknown if {"architecture", "neuron"} & set(names) else ""

    @cached_property
    def known(self) -> frozenset[Knowledge]:
        """What the threat model permits *and* is at hand (labels and weights may be missing)."""
        known = set(self.threat.knowledge)
        if not self._parameters:
            known.discard("weights")
        if self._labels is None:
            known.discard("labels")
        if self._candidates is None:
            known.discard("candidates")
        if self._unknown:
            known -= {"architecture", "neuron"}
        return frozenset(known)

    def _require_task(self) -> None:
        if self._network is not None:
            raise NotKnownError(f"needs the project's own kind of network: {self._network.reason}")

    @property
    def task(self) -> TaskSpec:
        """The whole task: architecture, neuron and encoding must be known."""
        self._require("architecture", "neuron", "encoding")
        self._require_task()
        return self._task

    @property
    def network(self) -> OwnNetwork | None:
        """The network itself where no task describes it, otherwise `None`."""
        self._require("architecture", "neuron", "encoding")
        return self._network

    @property
    def model(self) -> ModelSpec:
        """The network's layers."""
        self._require("architecture")
        self._require_task()
        return self._task.model

    @property
    def neuron(self) -> NeuronSpec:
        """The spiking neuron."""
        self._require("neuron")
        self._require_task()
        return self._task.neuron

    @property
    def encoding(self) -> EncodingSpec:
        """How samples become input over time."""
        self._require("encoding")
        return self._task.encoding

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of a sample as an image: of a series under its own time the channels over T steps, else `shape`."""
        spec = self._task.encoding
        if spec.kind not in SERIES:
            return self.shape
        return (self.shape[-1], spec.steps)

    @property
    def plan(self) -> RoundPlan:
        """Algorithm, local steps, batch size and learning rate."""
        self._require("plan")
        return self._plan

    @property
    def parameters(self) -> Mapping[str, Array32]:
        """Global parameters before the update, by name, in the network's order."""
        self._require("weights")
        return self._parameters

    @property
    def records(self) -> Mapping[str, TensorRecord]:
        """Codec and scale of each tensor of the update."""
        self._require("codec")
        return self._records

    @property
    def labels(self) -> tuple[int, ...] | None:
        """The samples' labels when the threat model grants them, otherwise `None`."""
        return self._labels if "labels" in self.known else None

    @property
    def candidates(self) -> Array32:
        """Samples `[N, *shape]` in [0, 1] that the attacker owns and asks about."""
        self._require("candidates")
        assert self._candidates is not None
        return self._candidates

    @cached_property
    def gradient(self) -> Mapping[str, Array64]:
        """The update as gradients.

        FedSGD: the mean gradient of the batch, as sent. FedAvg with plain SGD: ``(before - after) / lr``, the sum over
        the local steps of each step's mean gradient (with local momentum a sum with weights of at least 1). A plan that
        clips leaves its direction and hides its length; what else may have happened to it says `distortion`.
        """
        factor = 1.0 if self.plan.algorithm == "fedsgd" else 1.0 / self.plan.learning_rate
        return {name: tensor.astype(np.float64) * factor for name, tensor in self.update.items()}

    @cached_property
    def layers(self) -> tuple[LayerGradient, ...]:
        """Gradients layer by layer, from input to readout; in the update's own scale, so that no plan is needed."""
        found = []
        for name, tensor in self.update.items():
            layer, _, kind = name.rpartition(".")
            if kind == "weight":
                bias = self.update.get(f"{layer}.bias")
                wide = None if bias is None else bias.astype(np.float64)
                found.append(LayerGradient(name=layer, weight=tensor.astype(np.float64), bias=wide))
        return tuple(found)

    @property
    def first_layer(self) -> LayerGradient:
        """Gradient of the layer that sees the input."""
        return self.layers[0]

    @property
    def readout(self) -> LayerGradient:
        """Gradient of the layer that gives the logits."""
        return self.layers[-1]

    @property
    def single(self) -> bool:
        """Whether the update is the gradient of one sample: FedSGD at batch size 1."""
        return self.samples == 1 and self.plan.algorithm == "fedsgd"

    def learning_rate(self, name: str) -> float:
        """Step size of the local SGD for one parameter."""
        return self.plan.learning_rate * self._rates.get(name, 1.0)

    @cached_property
    def distortion(self) -> str:
        """Why the update is no gradient of this batch even up to small errors, as far as is known; empty when it is."""
        if self.masked:
            return "it wears the masks of secure aggregation"
        plan = self._plan if "plan" in self.known else None
        if plan is not None and plan.noise_multiplier:
            return f"it carries noise of {plan.noise_multiplier:g} × clip_norm on every element"
        if plan is not None and plan.feeds_back:
            return "by error feedback it carries what earlier updates lost"
        codecs = {record.codec for record in self._records.values()} if "codec" in self.known else set()
        coarse = sorted(codecs & COARSE)
        return f"codec {coarse[0]} left little of the values" if coarse else ""

    def error_bound(self, name: str) -> float:
        """Largest absolute error that noise, error feedback and codec put on one element of `update[name]`.

        Of the clipped update: clipping is a factor, not an error. Infinite where there is no bound: `sign` does not
        tell its largest value, noise has none, and error feedback brings in other updates. `topk` may have dropped
        what is smaller than the least that it kept, up to a step.
        """
        record, update = self.records.get(name), self.update[name]
        plan = self._plan if "plan" in self.known else None
        if self.masked:
            return np.inf
        if plan is not None and (plan.noise_multiplier or plan.feeds_back):
            return np.inf
        if record is None or name in self._errors:
            return self._errors.get(name, 0.0)
        if record.codec == "sign":
            return np.inf if update.any() else 0.0
        if record.codec == "topk":
            kept = np.abs(update[update != 0])
            return float(kept.min()) + record.scale * (1 + 2.0**-16) if kept.size else 0.0
        return CODECS[record.codec].error_bound(update)
