"""TaskSpec: everything that decides what is learnt and how an update comes about. Its hash names the task."""

from __future__ import annotations

import hashlib
import math
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from contract.secure import SecureAggregation

Surrogate = Literal["atan", "fast_sigmoid", "ste", "triangular", "sigmoid", "spike_rate_escape"]
CodecName = Literal["fp32", "fp16", "int8", "int4", "ternary", "sign", "topk"]
FED_BACK = frozenset({"sign", "topk"})
"""Codecs with error feedback where the plan does not say."""

Positive = Annotated[int, Meta(ge=1)]
Fraction = Annotated[float, Meta(gt=0, lt=1)]

LEAST_DELTA_GAIN = 2.0
EVENT_BINS = 64
"""Equal spans of time that an event recording is kept in."""


class PartitionSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the training samples are dealt to the devices.

    Attributes:
        kind: `iid` (shuffled, equal parts), `dirichlet` (label-skewed, Hsu et al. 2019, arXiv 1909.06335) or `user`
            (whole people: a device holds all that one or several of them recorded; data sets with users only).
        alpha: Concentration of the Dirichlet draw; smaller is more skewed. Read for `dirichlet` only.
        held_out: Fraction of the data set kept for the server's evaluation.
        held_out_by: `sample` (of each class the same fraction) or `user` (whole people, so that the model is evaluated
            on some whom no device knows; data sets with users only).
    """

    kind: Literal["iid", "dirichlet", "user"] = "iid"
    alpha: Annotated[float, Meta(gt=0)] = 0.5
    held_out: Fraction = 0.2
    held_out_by: Literal["sample", "user"] = "sample"


class EncodingSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a sample in [0, 1] becomes the network's input over time.

    Attributes:
        kind: `direct` (the same current at each step), `rate` (Bernoulli spikes, p = gain·x clipped to 1), `latency`
            (one spike, the earlier the brighter), `events` (frames of a recording; event data sets only), `delta` (a
            spike where a reading has risen or fallen by 1/gain; series only) or `integrate` (a spike whenever gain
            times the readings have added up to 1; series only). Of the last three the data's time is the network's.
        steps: Number of time steps T; at most 64 for `events`, at most the readings of a series.
        gain: Factor on the intensity before it is encoded; 1 for `events`, at least 2 for `delta`.
    """

    kind: Literal["direct", "rate", "latency", "events", "delta", "integrate"] = "direct"
    steps: Annotated[int, Meta(ge=1, le=1000)] = 10
    gain: Annotated[float, Meta(gt=0)] = 1.0

    def __post_init__(self) -> None:
        if self.kind == "events" and self.gain != 1.0:
            raise ValueError(f"gain = {self.gain} with kind 'events': events have no intensity; leave it out")
        if self.kind == "events" and self.steps > EVENT_BINS:
            raise ValueError(
                f"steps = {self.steps} with kind 'events': recordings have {EVENT_BINS} time bins; lower it"
            )
        if self.kind == "delta" and self.gain < LEAST_DELTA_GAIN:
            raise ValueError(
                f"gain = {self.gain} with kind 'delta': a spike stands for a change of 1/gain, readings lie in [0, 1]; "
                f"set at least {LEAST_DELTA_GAIN:g}, for instance 20"
            )


class NeuronSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """snntorch's Leaky neuron.

    Attributes:
        beta: Membrane decay per step.
        threshold: Firing threshold.
        reset: `subtract`, `zero` or `none`; with snntorch's default one-step delay.
        surrogate: Derivative used for the spike in the backward pass.
        surrogate_slope: The surrogate's parameter (atan: alpha; fast_sigmoid, sigmoid, spike_rate_escape: slope;
            triangular: threshold; not read by ste). `None` takes snntorch's default.
    """

    beta: Annotated[float, Meta(ge=0, le=1)] = 0.9
    threshold: Annotated[float, Meta(gt=0)] = 1.0
    reset: Literal["subtract", "zero", "none"] = "subtract"
    surrogate: Surrogate = "atan"
    surrogate_slope: Annotated[float, Meta(gt=0)] | None = None


class ParameterSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Name and shape of one trained parameter."""

    name: Annotated[str, Meta(min_length=1, max_length=200)]
    shape: tuple[Positive, ...]


class OwnModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What all parties must agree on of a network that a user wrote; its code is in nobody's messages.

    Attributes:
        sha256: Of the Python file, 64 hex digits. Files that it imports are not part of it.
        factory: Name of the callable in it that makes the `nn.Module`.
        parameters: The module's trained parameters, in its order.
    """

    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
    factory: str
    parameters: Annotated[tuple[ParameterSpec, ...], Meta(min_length=1)]


FLOAT_BITS = 32
"""How a file without nil says that weights are float."""


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The network.

    Attributes:
        family: `snn` or its `ann` twin: the same layers with an activation in place of each neuron, no time.
        kind: `fc` (fully connected), `conv` (strided convolutions, then fully connected layers) or `own` (a user's
            own `nn.Module`: nothing else here or of the task's neuron is read then).
        hidden: Widths of the fully connected hidden layers; may be empty for `conv`.
        channels: Output channels of the convolutions; read for `conv` only.
        kernel: Side of the convolution kernels (padding is kernel // 2): one number for all, or one a convolution.
        stride: Stride of each convolution.
        activation: `sigmoid` or `relu`; read for `ann` only.
        readout: `membrane` (mean membrane of a non-resetting leaky readout) or `spike` (mean spike count).
            Read for `snn` only.
        weight_bits: Weights are fake-quantised to this many bits per output channel (2: ternary; `None`: float, which a
            TOML file writes as 32).
        membrane_bits: Membranes of spiking neurons are kept in fixed point of this many bits (`None`: float). The mean
            membrane of readout `membrane` is an accumulator and stays float. Read for `snn` only. Equations of both:
            `contract.models.quantization`.
        own: Set for `own`, from the file that `model = "FILE.py:FACTORY"` names; nobody writes it by hand.
    """

    family: Literal["snn", "ann"] = "snn"
    kind: Literal["fc", "conv", "own"] = "fc"
    hidden: tuple[Positive, ...] = (256,)
    channels: tuple[Positive, ...] = (8, 16)
    kernel: Positive | Annotated[tuple[Positive, ...], Meta(min_length=1)] = 5
    stride: Positive = 2
    activation: Literal["sigmoid", "relu"] = "sigmoid"
    readout: Literal["membrane", "spike"] = "membrane"
    weight_bits: Literal[2, 4, 8, 32] | None = 8
    membrane_bits: Literal[8, 16] | None = None
    own: OwnModel | None = None

    def __post_init__(self) -> None:
        if self.weight_bits == FLOAT_BITS:
            msgspec.structs.force_setattr(self, "weight_bits", None)
        if isinstance(self.kernel, tuple) and len(self.kernel) != len(self.channels):
            raise ValueError(
                f"kernel = {list(self.kernel)} with channels = {list(self.channels)}: one side for each convolution, "
                "or one number for all"
            )
        if (self.kind == "own") != (self.own is not None):
            raise ValueError(
                f"kind = {self.kind!r} {'with' if self.own else 'without'} the record 'own': a network of your own is "
                "named by model = 'FILE.py:FACTORY', outside the task, which fills in both"
            )


class OwnData(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What all parties must agree on of data that exists on devices alone, read by each device's `[sensor]`.

    Attributes:
        shape: Of one sample; a series is `[channels, readings]`.
        classes: Number of classes; labels are 0 to `classes` - 1.
        series: Whether the last axis is time, so that encodings `delta` and `integrate` apply.
    """

    shape: Annotated[tuple[Positive, ...], Meta(min_length=1, max_length=4)]
    classes: Annotated[int, Meta(ge=2)]
    series: bool = False

    def __post_init__(self) -> None:
        if self.series and len(self.shape) != 2:
            raise ValueError(f"shape = {list(self.shape)} with series = true: a series is [channels, readings]")


OWN = "own"
"""Name, as a data set, of what exists on devices alone."""


class TaskSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, cache_hash=True):
    """One learning task. Two parties that hold the same hash hold the same task.

    Attributes:
        dataset: Name of a data set in `contract.datasets`, or `own` for what each device's sensor reads.
        own_data: Set for `own`, and only there.
        partition: How its samples are dealt.
        encoding: How a sample becomes input over time.
        model: The network.
        neuron: The spiking neuron.
        loss: Mean cross-entropy over the batch.
        seed: Decides split and initial parameters. It is public: no draw of a device may follow from it.
    """

    dataset: str = "mnist5k"
    own_data: OwnData | None = None
    partition: PartitionSpec = PartitionSpec()
    encoding: EncodingSpec = EncodingSpec()
    model: ModelSpec = ModelSpec()
    neuron: NeuronSpec = NeuronSpec()
    loss: Literal["cross_entropy"] = "cross_entropy"
    seed: Annotated[int, Meta(ge=0)] = 1

    def __post_init__(self) -> None:
        if (self.dataset == OWN) != (self.own_data is not None):
            raise ValueError(
                f"dataset = {self.dataset!r} {'with' if self.own_data else 'without'} own_data: data of the devices' "
                "own is declared by dataset = 'own' and a table own_data with shape and classes"
            )


class RoundPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the updates of a round are made: one entry of `[[schedule]]`, without its repeat count.

    Attributes:
        kind: `train` or `audit`. An audit round asks for gradients that serve the curious server, not the model.
        algorithm: `fedsgd` (the mean gradient of one batch at the global model) or `fedavg` (weights before minus
            weights after `local_steps` steps of SGD).
        local_steps: SGD steps per round; exactly 1 for `fedsgd`.
        batch_size: Samples per step.
        learning_rate: Step size of the local SGD (`fedavg`).
        momentum: Momentum of the local SGD (`fedavg`).
        server_learning_rate: Factor on the aggregate when it is applied.
        server_momentum: Momentum of the server (FedAvgM: Hsu et al. 2019, arXiv 1909.06335).
        codec: How the update is packed.
        apply: Whether the aggregate changes the model. Default: yes for `train`, no for `audit`.
        proximal: FedProx's mu (Li et al. 2020, arXiv 1812.06127): each local step adds ``mu (w - w_global)`` to the
            gradient (`fedavg`).
        clip_norm: Greatest L2 norm of the whole update, over all tensors together; longer ones are scaled down to it.
        noise_multiplier: Standard deviation of the Gaussian noise on each element, in units of `clip_norm`.
        share: Share of each tensor's values that codec `topk` keeps.
        error_feedback: Whether what the codec lost of an update is added to the device's next one (Karimireddy et al.
            2019, arXiv 1901.09847). Default: for `sign` and `topk` in `train` rounds. (`fp16` is biased too, by at
            most 2^-11 of a value, which is not worth a residual on disk.) With it codecs round to the nearest.
        compression: `zlib` deflates what the codec packed, wherever that makes it smaller.
        mode: `synchronous`: a device makes one update. `asynchronous`: while it is selected it makes one after the
            other, each from the newest model.
        secure: Secure aggregation: updates are masked, and only their sum can be read (`contract.secure` has its keys).
            The values are quantised by it, in the codec's place.
    """

    kind: Literal["train", "audit"] = "train"
    algorithm: Literal["fedavg", "fedsgd"] = "fedavg"
    local_steps: Positive = 1
    batch_size: Positive = 32
    learning_rate: Annotated[float, Meta(gt=0)] = 0.1
    momentum: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    server_learning_rate: Annotated[float, Meta(gt=0)] = 1.0
    server_momentum: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    codec: CodecName = "fp32"
    apply: bool | None = None
    proximal: Annotated[float, Meta(ge=0)] = 0.0
    clip_norm: Annotated[float, Meta(gt=0)] | None = None
    noise_multiplier: Annotated[float, Meta(ge=0)] = 0.0
    share: Annotated[float, Meta(gt=0, le=1)] = 0.01
    error_feedback: bool | None = None
    compression: Literal["none", "zlib"] = "none"
    mode: Literal["synchronous", "asynchronous"] = "synchronous"
    secure: SecureAggregation | None = None

    def __post_init__(self) -> None:
        if self.algorithm == "fedsgd" and self.local_steps != 1:
            raise ValueError(
                f"local_steps = {self.local_steps} with algorithm 'fedsgd': one gradient is one step; set 1"
            )
        for name in ("proximal", "clip_norm", "noise_multiplier"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise ValueError(f"{name} = {value}: must be finite; give a number or leave {name} out")
        if self.algorithm == "fedsgd" and self.proximal:
            raise ValueError(
                f"proximal = {self.proximal} with algorithm 'fedsgd': the term is 0 at the global model; set 0"
            )
        if self.noise_multiplier and self.clip_norm is None:
            raise ValueError(
                f"noise_multiplier = {self.noise_multiplier} without clip_norm: noise is scaled by it; set clip_norm"
            )
        if self.kind == "audit" and self.error_feedback:
            raise ValueError(
                "error_feedback = true with kind 'audit': an audit changes no model; leave error_feedback out"
            )
        if self.secure is not None:
            self._check_secure()

    def _check_secure(self) -> None:
        required = {"codec": "fp32", "compression": "none", "mode": "synchronous"}
        for name, value in required.items():
            if getattr(self, name) != value:
                raise ValueError(
                    f"{name} = {getattr(self, name)!r} with secure: masked updates are quantised by secure.bits and "
                    f"need {name} = {value!r}; leave {name} out"
                )
        if self.error_feedback:
            raise ValueError("error_feedback = true with secure: nothing is carried over; leave error_feedback out")

    @property
    def applied(self) -> bool:
        """Whether the aggregate changes the model."""
        return self.kind == "train" if self.apply is None else self.apply

    @property
    def feeds_back(self) -> bool:
        """Whether what the codec lost is added to the next update."""
        default = self.kind == "train" and self.codec in FED_BACK
        return default if self.error_feedback is None else self.error_feedback


def task_hash(task: TaskSpec) -> str:
    """SHA-256 over the task's canonical JSON (sorted keys), as 64 hex digits."""
    return hashlib.sha256(msgspec.json.encode(task, order="sorted")).hexdigest()
